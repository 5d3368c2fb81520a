"""Losses that were logged every step or every few steps: L(e) is the mean of the logged values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sotl import LearningCurves
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from tests.support.helpers import trainer
from tests.support.logging_model import LoggingModel

pytest.importorskip("tensorboard")

LOGGERS = pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
BY_EPOCH = {"on_step": False, "on_epoch": True}
BY_STEP = {"on_step": True, "on_epoch": False}
CUT = (
    "Epochs of 1 run with too few steps or values of 'train_loss' were cut short and are left out: "
)
nan = np.nan


def read(folder: Path, **keys: Any) -> FoundRuns:
    return read_logs(folder, LogKeys(train_loss="train_loss", **keys))


def losses_of(found: FoundRuns) -> NDArray[np.float64]:
    (losses,) = found.curves.train_loss
    return losses[~np.isnan(losses)]


def logged_means(model: LoggingModel, every: int, epochs: int) -> list[float]:
    """Return the means of the losses at each step that Lightning logs."""
    result = []
    for epoch in range(epochs):
        steps = range(epoch * model.batches, (epoch + 1) * model.batches)
        losses = [
            loss
            for step, loss in zip(steps, model.losses[epoch], strict=True)
            if (step + 1) % every == 0
        ]
        result.append(sum(losses) / len(losses))
    return result


def write(folder: Path, rows: str, header: str = "epoch,step,train_loss") -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(f"{header}\n{rows}\n")


def steps(losses: list[list[float]], batches: int = 4) -> str:
    return "\n".join(
        f"{epoch},{batches * epoch + index},{loss}"
        for epoch, values in enumerate(losses)
        for index, loss in enumerate(values)
    )


def test_the_mean_of_the_steps_counts_and_an_incomplete_epoch_does_not(tmp_path: Path) -> None:
    first = [[1.3, 1.1, 0.95, 0.65], [1.2, 1.0, 0.85, 0.55], [1.1, 0.9, 0.75, 0.45]]
    write(tmp_path / "version_0", steps([*first, [1.0, 0.8, 0.65, 0.35]]))
    second = [[1.2, 1.0, 0.85, 0.55], [1.1, 0.9, 0.75, 0.45], [1.0, 0.8, 0.65, 0.35]]
    write(tmp_path / "version_1", steps([*second, [0.9, 0.7]]))
    found = read(tmp_path)
    expected = [[1.0, 0.9, 0.8, 0.7], [0.9, 0.8, 0.7, nan]]
    np.testing.assert_allclose(found.curves.train_loss, expected, rtol=1e-12)
    assert found.notes.cautions == [
        "L(e) of 2 runs without a record is the mean of the logged values of 'train_loss' in each "
        "epoch; it does not include steps that were not logged."
    ]
    assert found.notes.remarks == [f"{CUT}'version_1'."]


@LOGGERS
@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize(("every", "batches"), [(1, 4), (2, 4), (2, 5), (3, 7), (3, 8), (4, 10)])
def test_all_epochs_of_a_complete_training_count(
    tmp_path: Path, kind: Any, every: int, batches: int, validates: bool
) -> None:
    model = LoggingModel(how=BY_STEP, batches=batches)
    trainer(
        tmp_path,
        logger=kind(tmp_path),
        max_epochs=5,
        log_every_n_steps=every,
        limit_val_batches=1 if validates else 0,
    ).fit(model)
    expected = logged_means(model, every, 5)
    np.testing.assert_allclose(losses_of(read(tmp_path)), expected, rtol=1e-6)


@LOGGERS
@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("how", [BY_EPOCH, BY_STEP], ids=["by epoch", "by step"])
@pytest.mark.parametrize("every", [1, 2])
def test_an_epoch_that_max_steps_ended_early_is_left_out(
    tmp_path: Path, kind: Any, validates: bool, how: dict[str, bool], every: int
) -> None:
    model = LoggingModel(how=how, batches=5)
    run = trainer(
        tmp_path, logger=kind(tmp_path), max_epochs=9, max_steps=17, log_every_n_steps=every
    )
    run.fit(model)
    if validates:
        run.validate(model, verbose=False)
    found = read(tmp_path, val_metric="val_acc")
    expected = logged_means(model, every if how is BY_STEP else 1, 3)
    np.testing.assert_allclose(losses_of(found), expected, rtol=1e-6)
    assert found.curves.val_metric is not None
    np.testing.assert_array_equal(found.curves.val_metric, [[1 / 16, 2 / 16, 3 / 16]])
    assert found.notes.remarks[0] == f"{CUT}'lightning_logs/version_0'."


def test_a_run_with_one_epoch_that_may_be_incomplete_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "v0", steps([[1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 1.0, 1.0]]))
    write(tmp_path / "v1", steps([[1.0, 2.0]]))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[3.0, 1.0]])
    assert found.notes.left_out == [
        "Left out 1 of 2 runs without L(e): 'v1'. L(e) needs a record with a completed epoch, or "
        "'sotl_e1' or 'train_loss' in the logs; other logged values do not give it exactly."
    ]


def test_an_epoch_whose_first_values_a_resumed_logger_deleted_is_left_out(
    tmp_path: Path,
) -> None:
    write(tmp_path / "v0", "1,6,9.0\n1,7,9.0\n2,8,1.0\n2,9,2.0\n2,10,3.0\n2,11,6.0")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[nan, nan, 3.0]])


def test_an_epoch_in_which_a_killed_process_lost_values_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "v0", "0,0,1\n0,1,2\n0,2,3\n0,3,6\n1,4,9\n1,7,9\n2,8,1\n2,9,1\n2,10,1\n2,11,1")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[3.0, nan, 1.0]])


def test_without_steps_an_epoch_with_fewer_values_is_left_out(tmp_path: Path) -> None:
    rows = "0,1.0\n0,2.0\n0,3.0\n1,3.0\n1,4.0\n1,5.0\n2,9.0\n2,9.0"
    write(tmp_path / "v0", rows, "epoch,train_loss")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[2.0, 4.0]])
    write(tmp_path / "v1", f"{rows}\n2,3.0", "epoch,train_loss")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss[1], [2.0, 4.0, 7.0])


def test_epochs_of_different_lengths_all_count(tmp_path: Path) -> None:
    rows = "0,0,4.0\n0,1,2.0\n1,2,1.0\n1,3,1.0\n1,4,1.0\n1,5,5.0\n"
    write(tmp_path / "v0", f"{rows}2,6,1.0\n2,7,1.0\n2,8,1.0\n2,9,1.0\n2,10,1.0\n2,11,7.0")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[3.0, 2.0, 2.0]])
    write(tmp_path / "v1", "0,1,4.0\n1,5,2.0\n2,11,1.0", "epoch,step,train_loss")
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss[1], [4.0, 2.0, 1.0])


def test_a_step_that_diverged_makes_its_epoch_infinite(tmp_path: Path) -> None:
    write(tmp_path / "v0", steps([[1.0, 2.0], [3.0, nan], [nan, nan]], 2))
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[1.5, np.inf, np.inf]])


@LOGGERS
def test_the_step_key_and_the_epoch_key_of_a_loss_can_both_be_used(
    tmp_path: Path, kind: Any
) -> None:
    model = LoggingModel(how={"on_step": True, "on_epoch": True})
    trainer(tmp_path, logger=kind(tmp_path), max_epochs=3).fit(model)
    expected = logged_means(model, 1, 3)
    for key, is_mean in (("train_loss_step", True), ("train_loss_epoch", False)):
        source = "the mean of the logged values of 'train_loss_step'" if is_mean else f"'{key}'"
        with pytest.warns(UserWarning, match=rf"^L\(e\) of 1 run without a record is {source}"):
            curves = LearningCurves.from_logs(tmp_path, train_loss=key)
        np.testing.assert_allclose(curves.train_loss, [expected], rtol=1e-6)


@LOGGERS
def test_a_key_epoch_that_the_module_logs_before_the_loss_gives_the_epoch(
    tmp_path: Path, kind: Any
) -> None:
    before = {"epoch": lambda module: float(module.current_epoch)}
    model = LoggingModel(how=BY_STEP, before=before)
    trainer(tmp_path, logger=kind(tmp_path), max_epochs=3).fit(model)
    found = read(tmp_path, val_metric="val_acc")
    np.testing.assert_allclose(losses_of(found), logged_means(model, 1, 3), rtol=1e-6)
    np.testing.assert_array_equal(found.curves.val_metric, [[1 / 16, 2 / 16, 3 / 16]])


@LOGGERS
@pytest.mark.parametrize("adds_epoch", [True, False])
def test_the_message_names_a_logged_key_step_that_hides_the_epoch(
    tmp_path: Path, kind: Any, adds_epoch: bool
) -> None:
    before = {"step": lambda module: float(module.current_epoch)}
    if adds_epoch:
        before["epoch"] = before["step"]
    model = LoggingModel(how=BY_EPOCH, before=before)
    trainer(tmp_path, logger=kind(tmp_path), max_epochs=3).fit(model)
    if adds_epoch:
        np.testing.assert_allclose(losses_of(read(tmp_path)), logged_means(model, 1, 3), rtol=1e-6)
        return
    message = (
        "^Expected 'train_loss' to be logged with its epoch but no run does so, because Lightning "
        r"writes no epoch if a key 'step' is logged \(log a key 'epoch' with it\); available: "
        r"'val_acc'\.$"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_the_last_of_several_values_per_epoch_counts_with_a_note(
    tmp_path: Path,
) -> None:
    write(tmp_path / "v0", steps([[1.0, 2.0, 3.0, 6.0], [4.0, 3.0, 2.0, 1.0], [9.0, 9.0]]))
    found = read_logs(tmp_path, LogKeys(others=["train_loss"]), needs_losses=False)
    np.testing.assert_array_equal(found.others["train_loss"], [[6.0, 1.0]])
    assert found.notes.remarks[-1] == (
        "'train_loss' was logged several times per epoch by 1 run; the last value of each epoch "
        "counts: 'v0'."
    )


def test_a_log_whose_first_epoch_is_1_is_named(tmp_path: Path) -> None:
    write(tmp_path / "v0", "1,3,2.0\n2,7,1.0")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[nan, 2.0, 1.0]])
    caution = (
        "The first epoch of 1 run is 1. If epochs were counted from 1, each value is one epoch "
        "late: 'v0'."
    )
    assert caution in found.notes.cautions


@pytest.mark.parametrize(
    "ends", [[4, 8], [4, 8, 12], [1000, 2000, 3000], [9, 17, 23], [9, 13, 23], [0, 1, 2], [3, 7]]
)
def test_epochs_of_programs_that_count_steps_in_other_ways_are_complete(
    tmp_path: Path, ends: list[int]
) -> None:
    write(tmp_path / "v0", "\n".join(f"{epoch},{end},2.0" for epoch, end in enumerate(ends)))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[2.0] * len(ends)])
    assert found.notes.remarks == []


@pytest.mark.parametrize("every", [1, 2, 32])
def test_steps_that_start_at_1_or_count_samples_are_read(tmp_path: Path, every: int) -> None:
    rows = [(step // 4, (step + 1) * every, step) for step in range(12)]
    write(tmp_path / "v0", "\n".join(",".join(map(str, row)) for row in rows))
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss, [[1.5, 5.5, 9.5]])
    write(tmp_path / "v1", "\n".join(",".join(map(str, row)) for row in rows[:-1]))
    np.testing.assert_array_equal(read(tmp_path).curves.train_loss[1], [1.5, 5.5, nan])
