"""Folders without a record that belong to one run: those of a second logger, and copies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.helpers import trainer
from tests.support.logging_model import LoggingModel
from tests.support.run_folders import csv_rows, event_rows, write_csv_log, write_events

pytest.importorskip("tensorboard")

JOINED = "probably from a second logger, to the run with the same values."
KEYS = LogKeys(train_loss="train_loss", val_metric="val_acc")


def fit(folder: Path, factor: float, **options: Any) -> None:
    model = LoggingModel(factor, {"on_step": False, "on_epoch": True})
    loggers = [CSVLogger(folder / "csv", name=""), TensorBoardLogger(folder / "tb", name="")]
    trainer(folder, logger=loggers, max_epochs=3, **options).fit(model)


def test_two_loggers_of_one_run_are_one_run(tmp_path: Path) -> None:
    for factor in (1 / 3, 0.7, 1 / 7):
        fit(tmp_path, factor)
    found = read_logs(tmp_path, KEYS)
    assert found.curves.run_ids == tuple(f"csv/version_{run}" for run in range(3))
    assert found.notes.remarks == [f"Joined 3 folders, {JOINED}"]
    assert found.notes.left_out == []
    alone = read_logs(tmp_path / "csv", KEYS)
    np.testing.assert_array_equal(found.curves.train_loss, alone.curves.train_loss)
    np.testing.assert_array_equal(found.curves.val_metric, alone.curves.val_metric)


def test_runs_trained_twice_from_one_seed_are_joined_by_the_names_of_their_folders(
    tmp_path: Path,
) -> None:
    rows = [csv_rows([3.0, 2.0]), event_rows([3.0, 2.0])]
    for run in range(2):
        write_csv_log(tmp_path / f"csv/version_{run}", [*rows[0], {"epoch": 2, "x": run}])
        write_events(tmp_path / f"tb/version_{run}", [*rows[1], (11, {"x": run, "epoch": 2})])
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("csv/version_0", "csv/version_1")
    assert found.notes.remarks == [f"Joined 2 folders, {JOINED}"]


def test_the_second_logger_of_one_of_several_equal_runs_is_left_out_and_named(
    tmp_path: Path,
) -> None:
    for run in "ab":
        write_csv_log(tmp_path / run, [*csv_rows([3.0, 2.0]), {"epoch": 2, "x": run}])
    write_events(tmp_path / "c", [*event_rows([3.0, 2.0]), (11, {"x": 1.0, "epoch": 2})])
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("a", "b")
    note = "Left out 1 folder with the same values as several others: 'c'."
    assert found.notes.left_out == [note]


@pytest.mark.parametrize(
    "events",
    [
        event_rows([3.0, 2.5], acc=[0.5, 0.5]),
        event_rows([3.0, 2.0], acc=[0.5, 0.75]),
        event_rows([3.0, 2.0], other=[0.5, 0.5]),
    ],
    ids=["other losses", "other metric", "other keys"],
)
def test_other_runs_are_not_joined(tmp_path: Path, events: Any) -> None:
    write_csv_log(tmp_path / "csv", csv_rows([3.0, 2.0], acc=[0.5, 0.5]))
    write_events(tmp_path / "tb", events)
    found = read_logs(tmp_path, LogKeys(others=["acc"]))
    assert found.curves.run_ids == ("csv", "tb")


def test_a_second_logger_that_lacks_the_last_epochs_is_joined(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "csv", csv_rows([1 / 3, 0.2, 0.1], acc=[0.5, 0.6, 0.7]))
    write_events(tmp_path / "tb", event_rows([1 / 3, 0.2]))
    found = read_logs(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[1 / 3, 0.2, 0.1]])


@pytest.mark.parametrize("part", ["csv/version_0", "tb/version_0", "."])
def test_a_copy_of_a_log_counts_once_with_a_caution(tmp_path: Path, part: str) -> None:
    fit(tmp_path / "runs", 1 / 3)
    shutil.copytree(tmp_path / "runs" / part, tmp_path / "runs" / "zcopy" / part)
    found = read_logs(tmp_path / "runs", KEYS)
    assert found.curves.run_ids == ("csv/version_0",)
    copies = {".": "2 folders"}.get(part, "1 folder")
    names = ", ".join(
        f"'zcopy/{name}'" for name in ("csv/version_0", "tb/version_0") if part in (name, ".")
    )
    assert found.notes.cautions[0] == (f"Left out exact copies of other logs in {copies}: {names}.")


def test_a_copy_that_trained_longer_is_another_run(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "a", csv_rows([3.0, 2.0]))
    write_csv_log(tmp_path / "b", csv_rows([3.0, 2.0, 1.0]))
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("a", "b")
    assert found.notes.warnings == []
