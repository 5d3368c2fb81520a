from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from tests.support.paths import SHARED_DATA, needs_shared_data


def document(train: list[float], status: str = "OK", **changes: object) -> str:
    run = {
        "train_losses": train,
        "val_losses": [loss + 0.5 for loss in train],
        "test_losses": [loss + 1 for loss in train],
        "wall_times": [10.0, 20.0],
        "num_params": 100,
        "status": status,
    }
    return json.dumps({**run, **changes})


def documents() -> dict[str, str]:
    return {
        "log_a.json": document([3.0, 2.0]),
        "log_b.json": document([3.0, float("nan")], "loss is nan!"),
        "log_c.json": document([3.0]),
        "log_d.json": "{",
        "log_e.json": document([3.0, 2.0], val_losses=[1.0]),
        "readme.txt": "no log",
    }


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_logs_are_read_from_a_zip_and_from_a_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "logs"
    if kind == "zip":
        path = tmp_path / "logs.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in documents().items():
                archive.writestr(name, text)
            archive.writestr("__MACOSX/log_a.json", "x")
    else:
        path.mkdir()
        for name, text in documents().items():
            (path / name).write_text(text)
    curves, notes = read_nas_bench_nlp(path)
    assert curves.run_ids == ("log_a", "log_b", "log_c")
    np.testing.assert_array_equal(curves.train_loss, [[3, 2], [3, np.inf], [3, np.nan]])
    np.testing.assert_array_equal(curves.val_loss[0], [3.5, 2.5])
    np.testing.assert_array_equal(curves.final_metric, [3.0, np.nan, np.nan])
    np.testing.assert_array_equal(curves.features, [[100.0]] * 3)
    assert curves.epoch_seconds.tolist() == [15.0] * 3
    assert (curves.metric_mode, curves.final_mode) == ("min", "min")
    assert notes == [
        "1 run of 3 with another status than 'OK' ('loss is nan!': 1), so without a target.",
        "Left out 2 JSON documents without curves of one length: 'log_d', 'log_e'.",
    ]


def test_a_path_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no '.*none\.zip'\.$"):
        read_nas_bench_nlp(tmp_path / "none.zip")
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(ValueError, match=r"to be a zip or a folder, but it is not\.$"):
        read_nas_bench_nlp(tmp_path / "x.zip")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(
        ValueError,
        match=r"to hold JSON documents with 'train_losses', 'val_losses', 'test_losses', but none "
        r"of its 1 JSON document is one\.$",
    ):
        read_nas_bench_nlp(tmp_path)


@needs_shared_data
def test_the_published_logs_are_read_completely() -> None:
    curves, notes = read_nas_bench_nlp(SHARED_DATA / "nas-bench-nlp-wikitext2/logs.zip")
    assert curves.train_loss.shape == (345, 50)
    assert np.isfinite(curves.final_metric).sum() == 341
    assert len(notes) == 1
