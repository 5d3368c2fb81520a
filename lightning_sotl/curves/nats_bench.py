"""Reader of NATS-Bench through its own package; its topology space is NAS-Bench-201."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import extras
from lightning_sotl._utils.text import visible
from lightning_sotl.curves.table import LearningCurves

# Data set -> the benchmark's names of its validation set, if any, and its test set.
_SETS: dict[str, tuple[str | None, str]] = {
    "cifar10": (None, "ori-test"),
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar100": ("x-valid", "x-test"),
    "ImageNet16-120": ("x-valid", "x-test"),
}


def read_nats_bench(
    path: str | Path,
    *,
    dataset: Literal["cifar10", "cifar10-valid", "cifar100", "ImageNet16-120"],
    trust: bool = False,
    search_space: Literal["tss", "sss"] = "tss",
    hp: str = "200",
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LearningCurves:
    """Read the learning curves in your copy of NATS-Bench.

    `val_metric` is the validation accuracy after each epoch, and `final_metric` the test accuracy
    after the last epoch. Both are in percent; higher is better.

    Args:
        path: The benchmark's file, or its folder with one file per architecture ("simple").
        dataset: The training to read. "cifar10-valid" was trained on half of CIFAR-10's training
            set and validated on the other half. "cifar10" was trained on all of it and has no
            validation curve.
        trust: Must be True, to confirm that you trust this file. The benchmark is a pickle, and
            loading a pickle can run arbitrary code.
        search_space: "tss" (topology, the 15,625 architectures of NAS-Bench-201) or "sss" (size).
        hp: The training length in epochs, as the benchmark names it: "200", "12", ...
        seed: The seed of the training to read. None takes the mean over all seeds.
        progress: Called after each architecture with the number read so far and the total.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ModuleNotFoundError: If `nats_bench` is not installed.
        ValueError: If `trust` is not True, if `dataset` is unknown, or if no architecture was
            trained with this `dataset`, `hp` and `seed`.

    Examples:
        ```python
        curves = read_nats_bench("NATS-tss-v1_0-3ffb9-simple", dataset="cifar100", trust=True)
        ```

    Source:
        Dong and Yang, "NAS-Bench-201", ICLR 2020; Dong et al., "NATS-Bench", TPAMI 2021.
    """
    path = Path(path)
    if dataset not in _SETS:
        raise ValueError(
            f"Expected `dataset` to be one of {', '.join(map(repr, _SETS))} but got {dataset!r}."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no '{visible(str(path))}'.")
    if trust is not True:
        raise ValueError(
            f"'{path}' can only be read with pickle, which runs whatever code its writer put in "
            "it. Pass `trust=True` if you trust this file."
        )
    package = extras.require("nats_bench", extra="nats-bench", purpose="read NATS-Bench")
    benchmark = package.create(str(path), search_space, fast_mode=path.is_dir(), verbose=False)
    tables = {}
    for index in range(len(benchmark)):
        table = _mean_of_seeds(benchmark, index, dataset, hp, seed)
        if table is not None:
            tables[str(index)] = table
        if progress is not None:
            progress(index + 1, len(benchmark))
    if not tables:
        with_seed = "" if seed is None else f" with seed {seed}"
        raise ValueError(
            f"None of the {len(benchmark)} architectures in '{path}' has a training on "
            f"{dataset!r}{with_seed} for {hp} epochs."
        )
    train_loss, val_loss, val_metric, test_loss, test_metric = np.stack(
        list(tables.values()), axis=1
    )
    has_validation = _SETS[dataset][0] is not None
    return LearningCurves(
        train_loss,
        val_loss=val_loss if has_validation else None,
        val_metric=val_metric if has_validation else None,
        final_metric=test_metric[:, -1],
        final_loss=test_loss[:, -1],
        run_ids=tuple(tables),
    )


def _mean_of_seeds(
    benchmark: Any, index: int, dataset: str, hp: str, seed: int | None
) -> NDArray[np.float64] | None:
    """Return train loss, validation loss and accuracy, test loss and accuracy, by epoch."""
    if not benchmark.fast_mode and index not in benchmark.evaluated_indexes:
        return None
    results = benchmark.query_meta_info_by_index(index, hp=hp)
    seeds = results.get_dataset_seeds(dataset) if dataset in results.get_dataset_names() else []
    chosen = seeds if seed is None else [known for known in seeds if known == seed]
    if benchmark.fast_mode:
        benchmark.clear_params(index, hp)
    if not chosen:
        return None
    trainings = [_training(results.query(dataset, known), dataset) for known in chosen]
    return np.asarray(np.mean(trainings, axis=0))


def _training(trial: Any, dataset: str) -> NDArray[np.float64]:
    epochs = trial.get_total_epoch()
    validation, test = _SETS[dataset]
    rows = [[trial.train_losses.get(epoch, np.nan) for epoch in range(epochs)]]
    for name in (validation, test):
        for values in (trial.eval_losses, trial.eval_acc1es):
            rows.append([values.get(f"{name}@{epoch}", np.nan) for epoch in range(epochs)])
    return np.array(rows, dtype=np.float64)
