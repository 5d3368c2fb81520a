"""Logs of trainings that were started again, resumed or purged: undone values do not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._timeline import Timeline
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from tests.support.helpers import trainer
from tests.support.logging_model import LoggingModel
from tests.support.written_logs import scalars

pytest.importorskip("tensorboard")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]

LOGGERS = pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
BY_EPOCH = {"on_step": False, "on_epoch": True}
BY_STEP = {"on_step": True, "on_epoch": False}
SEVERAL = "holds the logs of several trainings in a row; only the last one counts."
nan = np.nan


def fit(folder: Path, logger: Any, model: LoggingModel, **options: Any) -> Any:
    run = trainer(
        folder,
        logger=logger,
        enable_checkpointing="callbacks" in options,
        **{key: value for key, value in options.items() if key != "ckpt_path"},
    )
    run.fit(model, ckpt_path=options.get("ckpt_path"))
    return run


def means(*models: LoggingModel) -> list[float]:
    """Return the mean of the step losses in each epoch. Later models replace earlier ones."""
    epochs = {epoch: losses for model in models for epoch, losses in model.losses.items()}
    return [sum(losses) / len(losses) for _, losses in sorted(epochs.items())]


def read(folder: Path, **keys: Any) -> FoundRuns:
    wanted = {"train_loss": "train_loss", "val_metric": "val_acc", **keys}
    return read_logs(folder, LogKeys(**wanted))


def cautions(found: FoundRuns, text: str) -> list[str]:
    return [note for note in found.notes.cautions if text in note]


def remarks(found: FoundRuns, text: str) -> list[str]:
    return [note for note in found.notes.remarks if text in note]


def rows(path: Path, lines: str) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text(lines)
    return path / "metrics.csv"


@LOGGERS
@pytest.mark.parametrize("how", [BY_EPOCH, BY_STEP], ids=["by epoch", "by step"])
@pytest.mark.parametrize("batches", [2, 4, 6])
def test_the_newer_of_two_trainings_counts_with_a_caution(
    tmp_path: Path, kind: Any, how: dict[str, bool], batches: int
) -> None:
    logger = kind(tmp_path)
    fit(tmp_path, logger, LoggingModel(how=how), max_epochs=5)
    newer = LoggingModel(2.0, how, batches=batches)
    fit(tmp_path, logger, newer, max_epochs=3)
    found = read(tmp_path)
    np.testing.assert_allclose(found.curves.train_loss, [means(newer)], rtol=1e-6)
    np.testing.assert_array_equal(found.curves.val_metric, [[2 / 16, 4 / 16, 6 / 16]])
    assert cautions(found, "several") == [f"'lightning_logs/version_0' {SEVERAL}"]
    assert remarks(found, "again") == []


@LOGGERS
def test_keys_that_only_the_older_training_logged_have_no_values(tmp_path: Path, kind: Any) -> None:
    logger = kind(tmp_path)
    model = LoggingModel(how=BY_EPOCH)
    fit(tmp_path, logger, model, max_epochs=3).test(model, verbose=False)
    newer = LoggingModel(2.0, BY_EPOCH)
    fit(tmp_path, logger, newer, max_epochs=2, limit_val_batches=0)
    np.testing.assert_allclose(read(tmp_path, val_metric=None).curves.train_loss, [means(newer)])
    for key in ("val_metric", "final_metric"):
        name = {"val_metric": "val_acc", "final_metric": "test_acc"}[key]
        with pytest.raises(ValueError, match=f"^Found '{name}' without a usable value in 1 run"):
            read(tmp_path, **{"val_metric": None, key: name})


def test_of_two_trainings_in_one_file_the_newer_counts_for_every_key(tmp_path: Path) -> None:
    older = "0,3,1.7,0.4\n1,7,1.5,0.45\n2,11,1.3,0.5\n3,15,1.1,0.55\n4,19,0.9,0.6\n"
    newer = "0,3,1.3,0.5\n1,7,1.05,0.56\n2,11,0.8,0.62\n"
    rows(tmp_path / "version_0", f"epoch,step,train_loss,val_acc\n{older}{newer}")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[1.3, 1.05, 0.8]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.56, 0.62]])
    assert found.notes.cautions[0] == f"'version_0' {SEVERAL}"


def test_a_resume_replaces_old_rows_for_every_key(tmp_path: Path) -> None:
    older = "0,3,1.6,0.4\n1,7,1.4,0.45\n2,11,1.2,0.5\n3,15,1.0,0.55\n4,19,0.8,0.6\n"
    newer = "3,15,0.75,0.68\n4,19,0.5,0.74\n5,23,0.31,0.85\n"
    rows(tmp_path / "version_0", f"epoch,step,train_loss,val_acc\n{older}{newer}")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[1.6, 1.4, 1.2, 0.75, 0.5, 0.31]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.4, 0.45, 0.5, 0.68, 0.74, 0.85]])
    assert found.notes.remarks == [
        "Left out 4 values of steps that were trained again after a resume; the newer values count."
    ]


@LOGGERS
@pytest.mark.parametrize("how", [BY_EPOCH, BY_STEP], ids=["by epoch", "by step"])
@pytest.mark.parametrize("at_epoch_end", [True, False], ids=["epoch end", "validation end"])
@pytest.mark.parametrize(("epoch", "validates"), [(0, True), (2, True), (2, False)])
def test_a_resume_into_the_same_log_keeps_the_values_before_its_checkpoint(
    tmp_path: Path,
    kind: Any,
    how: dict[str, bool],
    at_epoch_end: bool,
    epoch: int,
    validates: bool,
) -> None:
    logger = kind(tmp_path)
    saver = ModelCheckpoint(
        tmp_path / "saved",
        filename="{epoch}",
        save_top_k=-1,
        save_on_train_epoch_end=at_epoch_end,
    )
    older, newer = LoggingModel(how=how), LoggingModel(2.0, how)
    fit(tmp_path, logger, older, max_epochs=5, callbacks=[saver])
    path = tmp_path / f"saved/epoch={epoch}.ckpt"
    options = {} if validates else {"limit_val_batches": 0}
    fit(tmp_path, logger, newer, max_epochs=4, ckpt_path=path, **options)
    found = read(tmp_path)
    # Without validation, Lightning ends a resumed epoch again: it logs its last step or its mean.
    ends_again = not at_epoch_end and not validates
    expected = means(older, newer)[:4]
    if ends_again and how is BY_STEP:
        losses = [*older.losses[epoch][:3], *newer.losses[epoch]]
        expected[epoch] = sum(losses) / 4
        assert len(losses) == 4
    np.testing.assert_allclose(found.curves.train_loss, [expected], rtol=1e-6)
    # The first process validated weights after the checkpoint that the resume discarded.
    kept = [older.accuracy(e) if e < epoch + (not ends_again) else nan for e in range(4)]
    if validates:
        kept[epoch + 1 :] = [newer.accuracy(e) for e in range(epoch + 1, 4)]
    np.testing.assert_array_equal(found.curves.val_metric, [kept])
    assert cautions(found, "several") == []
    assert len(remarks(found, "again")) == 1


@LOGGERS
@pytest.mark.parametrize("step", [3, 6])
def test_a_resume_inside_an_epoch_keeps_the_steps_before_it(
    tmp_path: Path, kind: Any, step: int
) -> None:
    logger = kind(tmp_path)
    saver = ModelCheckpoint(
        tmp_path / "saved", filename="{step}", every_n_train_steps=3, save_top_k=-1
    )
    older, newer = LoggingModel(how=BY_STEP), LoggingModel(2.0, BY_STEP)
    fit(tmp_path, logger, older, max_epochs=3, callbacks=[saver])
    fit(tmp_path, logger, newer, max_epochs=3, ckpt_path=tmp_path / f"saved/step={step}.ckpt")
    epoch = step // 4
    expected = means(older)[:epoch] + means(newer)
    once = older.losses[epoch][: step % 4] + newer.losses[epoch]
    expected[epoch] = sum(once) / 4
    assert len(once) == 4
    np.testing.assert_allclose(read(tmp_path).curves.train_loss, [expected], rtol=1e-6)


def test_values_that_tensorboard_hides_after_a_purge_do_not_count(tmp_path: Path) -> None:
    older, newer = LoggingModel(how=BY_EPOCH), LoggingModel(2.0, BY_EPOCH)
    saver = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
    first = TensorBoardLogger(tmp_path, name="", version=0)
    fit(tmp_path, first, older, max_epochs=5, callbacks=[saver])
    second = TensorBoardLogger(tmp_path, name="", version=0, purge_step=12)
    path = tmp_path / "saved/epoch=2.ckpt"
    fit(tmp_path, second, newer, max_epochs=4, ckpt_path=path, limit_val_batches=0)
    found = read(tmp_path)
    shown = scalars(tmp_path / "version_0")
    np.testing.assert_array_equal(
        found.curves.train_loss, [[value for _, value in shown["train_loss"]]]
    )
    assert found.curves.val_metric is not None
    kept = [value for _, value in shown["val_acc"]]
    np.testing.assert_array_equal(found.curves.val_metric, [[*kept, nan]])
    assert len(kept) == 3
    assert remarks(found, "again") == []  # the purge was asked for


@LOGGERS
@pytest.mark.parametrize("fresh", [True, False], ids=["new Trainer", "same Trainer"])
def test_a_validation_and_test_after_the_training_are_not_an_epoch(
    tmp_path: Path, kind: Any, fresh: bool
) -> None:
    logger, model = kind(tmp_path), LoggingModel(how=BY_EPOCH)
    run = fit(tmp_path, logger, model, max_epochs=3)
    again = trainer(tmp_path, logger=logger) if fresh else run
    model.factor = 8.0
    again.validate(model, verbose=False)
    again.test(model, verbose=False)
    found = read(tmp_path, final_metric="test_acc")
    np.testing.assert_allclose(found.curves.train_loss, [means(model)], rtol=1e-6)
    np.testing.assert_array_equal(found.curves.val_metric, [[1 / 16, 2 / 16, 3 / 16]])
    np.testing.assert_array_equal(found.curves.final_metric, [4.0])
    assert cautions(found, "several") == remarks(found, "again") == []
    only = read_logs(tmp_path, LogKeys(others=["val_acc"]), needs_losses=False)
    np.testing.assert_array_equal(only.others["val_acc"], [[1 / 16, 2 / 16, 3 / 16]])


@LOGGERS
def test_a_validation_before_the_training_does_not_count_for_its_first_epoch(
    tmp_path: Path, kind: Any
) -> None:
    model = LoggingModel(how=BY_EPOCH)
    run = trainer(tmp_path, logger=kind(tmp_path), max_epochs=4, check_val_every_n_epoch=2)
    run.validate(model, verbose=False)
    run.fit(model)
    only = read_logs(tmp_path, LogKeys(others=["val_acc"]), needs_losses=False)
    np.testing.assert_array_equal(only.others["val_acc"], [[nan, 2 / 16, nan, 4 / 16]])


def timeline(positions: list[tuple[int, int, str]]) -> dict[str, dict[int, float]]:
    """Return key -> e -> the row number of the value, for rows (epoch, step, key)."""
    line = Timeline({key for _, _, key in positions})
    for number, (epoch, step, key) in enumerate(positions):
        line.add(epoch, step, {key: float(number)})
    logged = Logged(())
    line.fill(logged)
    return logged.by_epoch


def test_a_file_that_is_sorted_by_key_is_not_a_restart() -> None:
    rows = [(epoch, 4 * epoch + 3, key) for key in ("loss", "acc") for epoch in range(3)]
    assert timeline(rows) == {"loss": {0: 0, 1: 1, 2: 2}, "acc": {0: 3, 1: 4, 2: 5}}


def test_a_resume_that_first_logs_a_new_key_undoes_only_old_values() -> None:
    rows = [(0, 3, "loss"), (1, 7, "loss"), (2, 11, "loss"), (1, 5, "norm"), (1, 7, "loss")]
    assert timeline(rows) == {"loss": {0: 0, 1: 4}, "norm": {1: 3}}


def test_a_resume_with_another_batch_size_undoes_the_epoch_that_it_trains_again() -> None:
    rows = [(e, 4 * e + 3, key) for e in range(4) for key in ("acc", "loss")]
    rows += [(2, 15, "loss"), (3, 23, "loss")]
    assert timeline(rows) == {"acc": {0: 0, 1: 2}, "loss": {0: 1, 1: 3, 2: 8, 3: 9}}


def test_the_next_row_distinguishes_a_new_training_from_a_test() -> None:
    older = [(epoch, epoch, "loss") for epoch in range(3)]
    assert timeline([*older, (0, 0, "loss"), (1, 1, "loss")]) == {"loss": {0: 3, 1: 4}}
    assert timeline([*older, (0, 0, "acc")]) == {"loss": {0: 0, 1: 1, 2: 2}}


@pytest.mark.parametrize("rewind", [lambda e: (e, 4 * e + 3), lambda e: (e, 0)])
def test_many_restarts_of_many_epochs_are_read_quickly(
    rewind: Callable[[int], tuple[int, int]],
) -> None:
    line = Timeline({"loss"})
    for epoch in range(20_000):
        line.add(epoch, 4 * epoch + 3, {"loss": 1.0})
        line.add(*rewind(max(0, epoch - 1)), {"loss": 2.0}, ["other"])
        line.add(epoch, 4 * epoch + 3, {"loss": 3.0})
    logged = Logged(())
    line.fill(logged)
    assert logged.by_epoch["loss"][19_999] == 3.0


def rows_from(
    start: int, stop: int, process: int, *, batches: int, every: int, rare: int
) -> list[tuple[int, int, str, float]]:
    """Return the rows (epoch, step, key, value) that Lightning logs from one step to another.

    Args:
        start: The first step.
        stop: The step after the last.
        process: A number that makes the values differ between processes.
        batches: Steps per epoch.
        every: After how many steps a loss is logged.
        rare: After how many epochs there is a validation.
    """
    found = []
    for step in range(start, stop):
        epoch = step // batches
        if (step + 1) % every == 0:
            found.append((epoch, step, "loss", 1000.0 * process + step))
        if (step + 1) % batches == 0:
            if (epoch + 1) % rare == 0:
                found.append((epoch, step, "acc", 1000.0 * process + step))
            found.append((epoch, step, "mean", 1000.0 * process + step))
    return found


@settings(max_examples=100, deadline=None)
@given(
    batches=st.integers(2, 6),
    every=st.integers(1, 5),
    rare=st.integers(1, 3),
    processes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=4),
    wanted=st.sets(st.sampled_from(["loss", "acc", "mean"]), min_size=1),
)
def test_after_any_resumes_only_the_steps_that_were_kept_count(
    batches: int,
    every: int,
    rare: int,
    processes: list[tuple[int, int]],
    wanted: set[str],
) -> None:
    """Each process begins at a checkpoint of an earlier one and trains for some epochs."""
    line, reached = Timeline(wanted), 0
    counts: list[tuple[int, int, str, float]] = []
    for process, (place, epochs) in enumerate(processes):
        start = min(place, reached)
        stop = max(reached, start) + epochs * batches  # to log all undone steps again
        new = rows_from(start, stop, process, batches=batches, every=every, rare=rare)
        counts = [row for row in counts if row[1] < start] + new
        for epoch, step, key, value in new:
            values = {key: value} if key in wanted else {}
            line.add(epoch, step, values, [] if key in wanted else [key])
        reached = stop
    logged = Logged(wanted)
    line.fill(logged)
    for key in wanted:
        expected = {epoch: value for epoch, _, other, value in counts if other == key}
        assert logged.by_epoch.get(key, {}) == expected
    for epoch, mean in logged.means.get("loss", {}).items():
        losses = [value for e, _, key, value in counts if (e, key) == (epoch, "loss")]
        assert mean == pytest.approx(sum(losses) / len(losses))
    if "loss" in logged.means and reached > batches:  # a single epoch does not show its length
        assert logged.means["loss"].keys() == logged.by_epoch["loss"].keys()
