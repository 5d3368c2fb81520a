"""Files in which other programs wrote NaN for blank cells, and losses that are NaN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl.cli import main
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs

HEADER = "epoch,step,lr,sotl_e1,val_acc"
TOOK = (
    "NaN in 'sotl_e1' of 1 run is read as a diverged loss; the file may also contain NaN where "
    "nothing was logged: 'v0'."
)
inf, nan = np.inf, np.nan


def write(folder: Path, rows: list[str], header: str = HEADER) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")


def rows_of(losses: list[float], accuracies: list[float], blank: str) -> list[str]:
    """Return three rows per epoch (learning rate, loss, accuracy), and one more row."""
    rows = []
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        rows += [
            f"{epoch},{8 * epoch + 2},0.1,{blank},{blank}",
            f"{epoch},{8 * epoch + 7},{blank},{loss},{blank}",
            f"{epoch},{8 * epoch + 7},{blank},{blank},{accuracy}",
        ]
    return [*rows, f"{len(losses)},{8 * len(losses) + 2},0.1,{blank},{blank}"]


def read(folder: Path, **keys: str) -> FoundRuns:
    return read_logs(folder, LogKeys(val_metric="val_acc", **keys))


@pytest.mark.parametrize("blank", ["NaN", "nan", "", "NA", "None", "null", " "])
def test_cells_without_a_value_are_read_as_blank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], blank: str
) -> None:
    losses = [[1.2, 0.9, 0.7], [1.1, 0.95, 0.8], [1.3, 0.8, 0.65], [1.0, 0.99, 0.9]]
    accuracies = [[0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8], [0.3, 0.4, 0.5]]
    for run, curves in enumerate(zip(losses, accuracies, strict=True)):
        write(tmp_path / f"version_{run}", rows_of(*curves, "" if run == 2 else blank))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, losses)
    np.testing.assert_array_equal(found.curves.val_metric, accuracies)
    assert found.notes.warnings == []
    assert main(["rank", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["at"] == 3
    order = [run["run_id"] for run in document["runs"]]
    assert order == ["version_2", "version_0", "version_1", "version_3"]


def test_a_nan_loss_in_a_file_without_blank_cells_is_diverged_and_named(tmp_path: Path) -> None:
    write(tmp_path / "v0", rows_of([1.2, nan, nan], [0.5, 0.1, 0.1], "nan"))
    write(tmp_path / "v1", rows_of([1.3, 1.2, 1.1], [0.5, 0.6, 0.7], "nan"))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[1.2, inf, inf], [1.3, 1.2, 1.1]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.1, 0.1], [0.5, 0.6, 0.7]])
    assert found.notes.warnings == [TOOK]


def test_in_a_file_with_blank_cells_each_nan_is_a_value(tmp_path: Path) -> None:
    write(tmp_path / "v0", rows_of([nan, 1.2, nan], [0.5, 0.1, 0.1], ""))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[inf, 1.2, inf]])
    assert found.notes.warnings == []


def test_in_a_file_with_one_column_each_nan_is_a_value(tmp_path: Path) -> None:
    write(tmp_path / "v0", ["0,3,nan", "1,7,1.5", "2,11,nan"], "epoch,step,sotl_e1")
    found = read_logs(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[inf, 1.5, inf]])
    assert found.notes.warnings == []


def test_nan_is_a_diverged_loss_if_such_rows_had_a_number_in_its_place(tmp_path: Path) -> None:
    write(tmp_path / "v0", ["0,3,1.5,0.5", "1,7,nan,0.1"], "epoch,step,sotl_e1,val_acc")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[1.5, inf]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.1]])
    assert found.notes.warnings == [TOOK]


@pytest.mark.parametrize("blank_first", [True, False])
def test_a_row_without_numbers_does_not_replace_a_number_of_its_epoch(
    tmp_path: Path, blank_first: bool
) -> None:
    rows = []
    for epoch, loss in enumerate([1.5, 1.25]):
        both = [f"{epoch},{4 * epoch + 2},NaN,NaN", f"{epoch},{4 * epoch + 3},{loss},NaN"]
        rows += [*(both if blank_first else reversed(both)), f"{epoch},{4 * epoch + 3},NaN,0.5"]
    write(tmp_path / "v0", rows, "epoch,step,loss,val_acc")
    found = read(tmp_path, train_loss="loss")
    np.testing.assert_array_equal(found.curves.train_loss, [[1.5, 1.25]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.5]])


def test_diverged_steps_in_a_file_without_blank_cells_make_their_epoch_infinite(
    tmp_path: Path,
) -> None:
    rows = ["0,0,1.0,NaN", "0,1,2.0,NaN", "0,1,NaN,0.5", "1,2,3.0,NaN", "1,3,NaN,NaN"]
    write(tmp_path / "v0", [*rows, "1,3,NaN,0.1"], "epoch,step,loss,val_acc")
    found = read(tmp_path, train_loss="loss")
    np.testing.assert_array_equal(found.curves.train_loss, [[1.5, inf]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.1]])


def test_a_column_with_only_nan_is_named(tmp_path: Path) -> None:
    header = "epoch,step,sotl_e1,val_acc"
    write(tmp_path / "v0", ["0,3,nan,0.5", "1,7,nan,0.5"], header)
    write(tmp_path / "v1", ["0,3,1.5,0.5", "1,7,1.25,0.5"], header)
    found = read(tmp_path)
    assert found.curves.run_ids == ("v1",)
    assert found.notes.left_out == [
        "Left out 1 of 2 runs without L(e): 'v0'. L(e) needs a record with a completed epoch, or "
        "'sotl_e1' in the logs; other logged values do not give it exactly."
    ]
    assert found.notes.cautions == [
        "'sotl_e1' of 1 run is NaN in all rows: either it diverged at once or it was not logged: "
        "'v0'."
    ]
