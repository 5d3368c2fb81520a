from __future__ import annotations

import bz2
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_sotl.curves.nats_bench import read_nats_bench


def trial(package: Any, seed: int, offset: float) -> Any:
    epochs = range(3)
    losses = {e: 3.0 - e + offset for e in epochs}
    ones = dict.fromkeys(epochs, 1.0)
    result = package.ResultsCount(
        "cifar100", None, ones, losses, 1.0, 1.0, {"name": "x"}, seed, 3, None
    )
    result.update_train_info(ones, None, losses, ones)
    for name in ("x-valid", "x-test"):
        result.update_eval(
            {f"{name}@{e}": 60.0 + e + offset for e in epochs},
            {f"{name}@{e}": 2.0 - e / 2 + offset for e in epochs},
            {f"{name}@{e}": 1.0 for e in epochs},
        )
    return result


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Write three architectures, each trained twice, as the benchmark's own classes store them."""
    package = pytest.importorskip("nats_bench.api_utils", reason="no nats_bench package")
    infos = {}
    for index in range(3):
        results = package.ArchResults(index, f"arch{index}")
        for seed in (777, 888):
            results.update("cifar100", seed, trial(package, seed, index + (seed == 888)))
        infos[index] = {"200": results.state_dict()}
    whole = {
        "meta_archs": [f"arch{i}" for i in range(3)],
        "arch2infos": infos,
        "evaluated_indexes": [0, 1, 2],
    }
    with bz2.BZ2File(tmp_path / "whole.pickle.pbz2", "wb") as file:
        pickle.dump(whole, file)
    (tmp_path / "simple").mkdir()
    for index, info in infos.items():
        with bz2.BZ2File(tmp_path / f"simple/{index:06d}.pickle.pbz2", "wb") as file:
            pickle.dump(info, file)
    with bz2.BZ2File(tmp_path / "simple/meta.pickle.pbz2", "wb") as file:
        pickle.dump({"meta_archs": whole["meta_archs"]}, file)
    return tmp_path


@pytest.mark.parametrize("name", ["whole.pickle.pbz2", "simple"])
def test_the_benchmark_is_read_by_its_own_package(benchmark: Path, name: str) -> None:
    curves = read_nats_bench(benchmark / name, dataset="cifar100", trust=True)
    np.testing.assert_array_equal(curves.train_loss[0], [3.5, 2.5, 1.5])
    np.testing.assert_array_equal(curves.val_loss[0], [2.5, 2.0, 1.5])
    np.testing.assert_array_equal(curves.val_metric[1], [61.5, 62.5, 63.5])
    np.testing.assert_array_equal(curves.final_metric, [62.5, 63.5, 64.5])
    np.testing.assert_array_equal(curves.final_loss, [1.5, 2.5, 3.5])
    one = read_nats_bench(benchmark / name, dataset="cifar100", trust=True, seed=777)
    np.testing.assert_array_equal(one.train_loss[0], [3.0, 2.0, 1.0])


def test_the_error_names_a_missing_training(benchmark: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"^None of the 3 architectures in '.*' has a training on 'cifar100' with "
        r"seed 9 for 200 epochs\.$",
    ):
        read_nats_bench(benchmark / "simple", dataset="cifar100", trust=True, seed=9)


def test_a_pickle_is_refused_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "NATS.pickle.pbz2"
    path.write_bytes(b"")
    message = (
        f"'{path}' can only be read with pickle, which runs whatever code its writer put in it. "
        "Pass `trust=True` if you trust this file."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_nats_bench(path, dataset="cifar100")


def test_unknown_data_set_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected `dataset` to be one of 'cifar10', 'cifar10-valid', 'cifar100', "
        "'ImageNet16-120' but got 'mnist'",
    ):
        read_nats_bench(tmp_path, dataset="mnist", trust=True)
    with pytest.raises(FileNotFoundError, match=r"^There is no '"):
        read_nats_bench(tmp_path / "none", dataset="cifar10", trust=True)
