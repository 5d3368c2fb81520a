"""Requested keys of the logs: the errors about them, and other means as L(e) on request only."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.run_folders import csv_rows, write_csv_log, write_record


def test_another_mean_is_used_on_request_with_a_warning(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", [{"epoch": 0, "train_loss": 2.0}])
    with pytest.warns(UserWarning, match=r"^L\(e\) of 1 run without a record is 'train_loss'"):
        curves = LearningCurves.from_logs(tmp_path, train_loss="train_loss")
    np.testing.assert_array_equal(curves.train_loss, [[2.0]])


def test_a_missing_key_lists_the_logged_keys(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0], val_acc=[0.5]))
    message = "Found no 'test_acc' in the logs of 1 run; available: 'sotl_e1', 'val_acc'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path, final_metric="test_acc")


def test_folders_that_may_belong_to_one_run_are_not_counted_as_runs(tmp_path: Path) -> None:
    for logger, other in (("csv", {}), ("second", {"loss": 7.0})):
        for run in range(3):
            row = {"epoch": 0, "loss": 2.0 + run, **other, "seed": run}
            write_csv_log(tmp_path / logger / f"v{run}", [row])
    with pytest.raises(ValueError, match=r"^Found no L\(e\) in 6 folders\. L\(e\) needs a"):
        LearningCurves.from_logs(tmp_path)
    message = "Found no 'acc' in the logs of 6 folders; available: 'loss', 'seed'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path, final_metric="acc", train_loss="loss")
    write_record(tmp_path / "v3", [1.0])
    write_record(tmp_path / "v4", [1.0])
    for logger in ("csv", "second"):
        shutil.rmtree(tmp_path / logger)
    message = "Found no 'acc' in the logs of 2 runs; available: nothing."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path, final_metric="acc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "epoch,acc\n0,high\n",
            "Expected '{}' to be logged as numbers but got 'high' in 'v0'. Left out 1 line or "
            "event of 'v0' that could not be read.",
        ),
        (
            "epoch,loss,acc\n0,,\n",
            "Found '{}' without a usable value in 1 run; available: {others}.",
        ),
        (
            "loss,acc\n1,1\n",
            "Expected '{}' to be logged with its epoch but no run does so; available: {others}.",
        ),
    ],
    ids=["not a number", "blank", "no epoch"],
)
def test_the_error_explains_why_a_logged_key_cannot_be_used(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "v0").mkdir()
    for key, needs_losses in (("acc", False), ("sotl_e1", True)):
        (tmp_path / "v0" / "metrics.csv").write_text(text.replace("acc", key))
        others = "'loss'" if "loss" in text else "nothing"
        expected = re.escape(message.format(key, others=others))
        with pytest.raises(ValueError, match=f"^{expected}$"):
            read_logs(tmp_path, LogKeys(others=["acc"]), needs_losses=needs_losses)


def test_the_error_names_the_requested_mean_if_it_is_missing(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", [{"epoch": 0, "loss": 2.0}])
    message = (
        "Found no L(e) in 1 run. L(e) needs a record with a completed epoch, or 'sotl_e1' or "
        "'mean' in the logs; other logged values do not give it exactly. Logged are: 'loss'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        LearningCurves.from_logs(tmp_path, train_loss="mean")
