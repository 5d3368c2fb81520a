"""The formats of the record and of the `.npz` table, and that old files can be read."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from lightning_sotl import LearningCurves, find_winners
from tests.pins.known_losses import PACKAGES, door, lightning, loader, model, trainer

FIXTURES = Path(__file__).parent / "fixtures"
NAN, INF = math.nan, math.inf
CHECKPOINT = "memory://stopped/stopped-epoch=3-31f1c7d2.ckpt"

HEADER = {
    "schema": 1,
    "prefix": "sotl",
    "loss_key": "loss",
    "unit": "epoch",
    "batches_per_unit": 4,
    "batch_size": 1,
    "world_size": 1,
    "accumulate_grad_batches": 1,
    "max_epochs": 5,
    "max_steps": -1,
    "precision": "32-true",
    "hparams": {"offset": 0.0},
}

# Entries that headers have gained since the fixtures were written.
NEW = {
    "name": None,
    "params": None,
    "network": ANY,  # a hash of the module's `repr`, which depends on torch
    "inexact_hparams": [],
    "parent": None,
    "parent_units": 0,
}


def unit(e: int, loss: float | None, checkpoint: str | None = None) -> dict[str, Any]:
    return {"e": e, "loss": loss, "steps": 4, "checkpoint": checkpoint}


STOP = {"reason": "stop_epoch_reached", "epochs": 3, "monitor": "sotl_e1", "estimate": 1.0}
# Without `run_id` and `time`, which differ between runs.
RECORDS = {
    "stopped": [
        {**HEADER, "hparams": {"offset": -0.25}},
        unit(0, 3.0),
        unit(1, 1.75),
        unit(2, 1.0),
        {"status": "stopped", **STOP},
        unit(2, 1.0, CHECKPOINT),
    ],
    "finished": [
        HEADER,
        unit(0, 3.25),
        unit(1, 2.0),
        unit(2, 1.25),
        unit(3, 0.75),
        unit(4, 0.5),
        {"status": "finished"},
    ],
    "interrupted": [
        {**HEADER, "hparams": {"offset": 0.25}},
        unit(0, 3.5),
        unit(1, 2.25),
        {"status": "interrupted", "error": "OSError"},
    ],
    "diverged": [
        HEADER,
        unit(0, 3.25),
        unit(1, 2.0),
        unit(2, None),
        {"status": "stopped", "reason": "trainer.should_stop"},
    ],
}


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record without the two entries that differ between runs."""
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    for document in documents:
        if "schema" in document:
            assert isinstance(document.pop("run_id"), str)
            assert isinstance(document.pop("time"), float)
        elif "status" in document:
            assert isinstance(document.pop("time"), float)
    return documents


@pytest.mark.parametrize("name", RECORDS)
def test_the_record_of_the_fixture_has_these_lines(name: str) -> None:
    assert lines(FIXTURES / "sweep" / name / "sotl.jsonl") == RECORDS[name]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_run_writes_the_same_lines(tmp_path: Path, package: str, name: str) -> None:
    def stop(trainer: Any) -> None:
        trainer.should_stop = True

    def fail(_: Any) -> None:
        raise OSError("the loader is gone")

    module = {
        "stopped": lambda: model(package, offset=-0.25),
        "finished": lambda: model(package),
        "interrupted": lambda: model(package, offset=0.25, at_step={9: fail}),
        "diverged": lambda: model(package, nan_epoch=2, at_step={11: stop}),
    }[name]()
    monitor = door(package).SoTLMonitor()
    stopper = door(package).EarlyRankingStopper(stop_epoch=3)
    logger = lightning(package).loggers.CSVLogger(tmp_path, name="", version="run")
    run = trainer(
        tmp_path,
        package,
        callbacks=[monitor, stopper] if name == "stopped" else [monitor],
        logger=logger,
        enable_checkpointing=name == "stopped",
    )
    if name == "interrupted":
        with pytest.raises(OSError, match=r"^the loader is gone$"):
            run.fit(module, loader())
    else:
        run.fit(module, loader())
    path = tmp_path / "run" / "sotl.jsonl"
    assert monitor.record_path == path
    assert json.loads(path.read_text().partition("\n")[0])["run_id"] == monitor.run_id
    expected = [dict(line) for line in RECORDS[name]]
    expected[0] |= NEW
    if name == "stopped":
        expected[-1]["checkpoint"] = stopper.checkpoint_path
    assert lines(path) == expected
    # The order of the keys matters to people who read the file.
    assert [list(line) for line in lines(path)] == [list(line) for line in expected]


def test_the_record_of_blocks_has_the_block_size_and_its_prefix(tmp_path: Path) -> None:
    monitor = door(PACKAGES[0]).SoTLMonitor(every_n_train_batches=3, prefix="a/b")
    logger = lightning(PACKAGES[0]).loggers.CSVLogger(tmp_path, name="", version="run")
    trainer(tmp_path, callbacks=monitor, logger=logger, max_epochs=2).fit(model(), loader())
    assert lines(tmp_path / "run" / "a%2Fb.jsonl") == [
        {**HEADER, **NEW, "prefix": "a/b", "unit": 3, "batches_per_unit": 3, "max_epochs": 2},
        {"e": 0, "loss": 3.5, "steps": 3, "checkpoint": None},
        {"e": 1, "loss": 7 / 3, "steps": 3, "checkpoint": None},
        {"status": "finished"},
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (
            {"window": (1, 2), "ema_decay": 0.5},
            ["sotl", "sotl_e1", "sotl_e2", "sotl_ema0.5"],
        ),
        (
            {"epoch_axis": True, "prefix": "train/sotl"},
            ["train/sotl", "train/sotl/epoch", "train/sotl_e1", "train/sotl_e1/epoch"],
        ),
        (
            {"every_n_train_batches": 3, "ema_decay": 1.0},
            ["sotl_b3", "sotl_b3_e1", "sotl_b3_ema1.0"],
        ),
    ],
)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_logger_receives_these_names(
    tmp_path: Path, package: str, arguments: dict[str, Any], names: list[str]
) -> None:
    monitor = door(package).SoTLMonitor(**arguments)
    logger = lightning(package).loggers.CSVLogger(tmp_path, name="", version="run")
    run = trainer(tmp_path, package, callbacks=monitor, logger=logger, max_epochs=2)
    run.fit(model(package), loader())
    columns = (tmp_path / "run" / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert sorted(columns) == sorted([*names, "epoch", "step", "val_acc"])
    shown = [name for name in names if not name.endswith("/epoch")]
    assert set(run.callback_metrics) == {*shown, "val_acc"}
    assert list(monitor.metric_names) == shown


def test_records_are_read_as_curves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = LearningCurves.from_logs(FIXTURES / "sweep")
    assert curves.run_ids == ("diverged", "finished", "interrupted", "stopped")
    np.testing.assert_array_equal(
        curves.train_loss,
        [
            [3.25, 2.0, INF, NAN, NAN],
            [3.25, 2.0, 1.25, 0.75, 0.5],
            [3.5, 2.25, NAN, NAN, NAN],
            [3.0, 1.75, 1.0, NAN, NAN],
        ],
    )
    assert curves.checkpoints == (None, None, None, CHECKPOINT)
    assert curves.epochs_completed.tolist() == [3, 5, 2, 3]


@pytest.mark.filterwarnings("ignore:Of runs with the same parameters, only the newest counts")
@pytest.mark.filterwarnings("ignore:1 run ended before T = 3 and cannot be compared")
def test_the_winner_of_records_has_their_hyper_parameters() -> None:
    (winner,) = find_winners(FIXTURES / "sweep", 1)
    assert (winner.run_id, winner.estimate) == ("stopped", 1.0)
    assert (winner.params, winner.checkpoint_path) == ({"offset": -0.25}, CHECKPOINT)


# Key -> dtype and value, as `fixtures/make.py` wrote them.
ARRAYS: dict[str, tuple[str, Any]] = {
    "train_loss": ("<f8", [[4.0, 3.0], [5.0, NAN], [6.0, INF]]),
    "val_loss": ("<f8", [[4.5, 3.5], [5.5, NAN], [6.5, 7.5]]),
    "val_metric": ("<f8", [[0.25, 0.5], [0.125, NAN], [0.5, 0.375]]),
    "final_metric": ("<f8", [0.75, NAN, 0.5]),
    "final_loss": ("<f8", [1.5, NAN, 2.5]),
    "features": ("<f8", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "epoch_seconds": ("<f8", [10.0, 20.0, 30.0]),
    "metric_mode": ("<U3", "max"),
    "final_mode": ("<U3", "min"),
    "run_ids": ("<U1", ["a", "b", "c"]),
    "checkpoints": ("<U6", ["a.ckpt", "", ""]),
}


def contents(path: Path) -> dict[str, tuple[str, Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: (archive[name].dtype.str, archive[name].tolist()) for name in archive}


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_equal(found, expected)  # NaN equals NaN
    assert list(found) == list(expected)


def test_the_table_of_the_fixture_has_these_arrays() -> None:
    assert_same(contents(FIXTURES / "curves.npz"), ARRAYS)


def test_an_old_table_is_read() -> None:
    curves = LearningCurves.load(FIXTURES / "curves.npz")
    arrays = {name: value for name, (kind, value) in ARRAYS.items() if kind == "<f8"}
    for name, value in arrays.items():
        np.testing.assert_array_equal(getattr(curves, name), value)
        assert getattr(curves, name).dtype == np.float64
    assert (curves.metric_mode, curves.final_mode) == ("max", "min")
    assert curves.run_ids == ("a", "b", "c")
    assert curves.checkpoints == ("a.ckpt", None, None)


def test_a_table_is_saved_unchanged(tmp_path: Path) -> None:
    LearningCurves.load(FIXTURES / "curves.npz").save(tmp_path / "all.npz")
    assert_same(contents(tmp_path / "all.npz"), ARRAYS)
    LearningCurves([[2.0, 1.0]]).save(tmp_path / "few.npz")
    assert_same(
        contents(tmp_path / "few.npz"),
        {
            "train_loss": ("<f8", [[2.0, 1.0]]),
            "metric_mode": ("<U3", "max"),
            "final_mode": ("<U3", "max"),
            "run_ids": ("<U1", ["0"]),
        },
    )
