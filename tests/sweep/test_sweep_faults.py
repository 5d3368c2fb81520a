"""Sweeps after a kill, on a full disk, in several processes, and in a moved directory."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_sotl.record.writer import RunRecord
from lightning_sotl.sweep import sweep as sweep_module
from tests.support import sweeps
from tests.support.command_line import run as command
from tests.support.full_disk import no_file_beyond
from tests.support.helpers import PACKAGES, lightning
from tests.support.sweeps import Training, loaders, make_net, trainer

CANDIDATES = sweeps.CANDIDATES[1::2]  # the first and the last train to the end
DIVERGING = {"width": 4, "lr": 1e30}


def make_sweep(folder: str | Path, candidates: Any = CANDIDATES, **options: Any) -> Any:
    return sweeps.make_sweep(folder, candidates, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Training]:
    """Return the best of a sweep without a fault, and its training."""
    training = Training()
    return make_sweep(tmp_path_factory.mktemp("whole")).run(training), training


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sotl.jsonl").read_text().splitlines()]


def cut(folder: Path, lines: int) -> None:
    """Keep only the first lines of a record, as a kill would."""
    path = folder / "sotl.jsonl"
    kept = path.read_text().splitlines(keepends=True)[:lines]
    path.write_text("".join(kept))


def same(best: Any, expected: Any) -> bool:
    return (best.run_id, best.estimate) == (expected.run_id, expected.estimate)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


def ranked(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    _, out, _ = command(capsys, "rank", folder, "--json")
    return [run["run_id"] for run in json.loads(out)["runs"]]


# --- kills; tests/campaigns/killed_sweeps.py kills at every write and at random


def test_a_winner_stays_the_winner_if_killed_before_its_last_line(tmp_path):
    best = make_sweep(tmp_path).run(Training())
    folder = tmp_path / best.run_id
    assert [*lines_of(folder)[-1]][:1] == ["status"]
    cut(folder, -1)
    assert make_sweep(tmp_path).best == best
    assert make_sweep(tmp_path).run(pytest.fail) == best


def test_a_diverged_run_stays_out_if_killed_before_its_last_line(tmp_path):
    candidates = [DIVERGING, *CANDIDATES[:2]]
    best = make_sweep(tmp_path, candidates).run(Training())
    folder = tmp_path / "run_000"
    assert lines_of(folder)[-1]["reason"] == "non_finite_estimate"
    cut(folder, -1)
    assert make_sweep(tmp_path, candidates).run(pytest.fail) == best


def test_a_first_turn_that_was_killed_counts_as_one_run(tmp_path, capsys, whole):
    for turn in make_sweep(tmp_path):
        Training()(turn)
        break
    cut(tmp_path / "run_000", 2)  # the header and the first epoch
    training = Training()
    assert same(make_sweep(tmp_path).run(training), whole[0])
    assert training.steps == whole[1].steps
    assert sorted(ranked(capsys, tmp_path)) == ["run_000", "run_001", "run_002"]


def test_a_checkpoint_left_by_a_kill_is_deleted(tmp_path):
    best = make_sweep(tmp_path).run(Training())
    folder = tmp_path / best.run_id
    (folder / "stopped-epoch=4-older.ckpt").write_bytes(b"of the turn before")
    make_sweep(tmp_path).run(pytest.fail)
    assert checkpoints(folder) == [Path(best.checkpoint_path).name]


class Ends:
    """A `train` function in which another callback ends one candidate after some epochs."""

    def __init__(self, candidate: int = 2, epochs: int = 5) -> None:
        self.candidate, self.epochs = CANDIDATES[candidate], epochs
        self.turns: list[tuple[str, int, int]] = []

    def __call__(self, turn: Any) -> None:
        pl = lightning()

        epochs = self.epochs

        class Ender(pl.Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                trainer.should_stop |= trainer.current_epoch == epochs - 1

        self.turns.append((turn.run_id, turn.start_epoch, turn.stop_epoch))
        pl.seed_everything(7, verbose=False)
        extra = [Ender()] if turn.params == self.candidate else []
        fit = trainer(turn.directory, [*turn.callbacks, *extra])
        turn.fit(fit, make_net(**turn.params), *loaders())


def test_a_run_that_another_callback_ended_is_complete_once_its_checkpoint_is_recorded(tmp_path):
    candidates = [CANDIDATES[2]]
    sweep = make_sweep(tmp_path, candidates)
    best = sweep.run(Ends())
    folder = tmp_path / "run_000"
    named, status = lines_of(folder)[-2:]
    assert Path(named["checkpoint"]) == Path(best.checkpoint_path)
    assert (status["status"], status["reason"]) == ("stopped", "trainer.should_stop")
    # A kill before the status was written.
    cut(folder, -1)
    assert make_sweep(tmp_path, candidates).run(pytest.fail) == best
    # A kill before the checkpoint was recorded: the turn is not complete.
    path = Path(best.checkpoint_path)
    older = Path([line["checkpoint"] for line in lines_of(folder) if line.get("checkpoint")][-2])
    older.write_bytes(path.read_bytes())  # its content does not matter here
    cut(folder, -1)
    turn = next(iter(make_sweep(tmp_path, candidates)))
    assert (turn.start_epoch, turn.stop_epoch, turn.checkpoint_path) == (4, 6, str(older))


# --- several processes; tests/campaigns/killed_sweeps.py starts real ones and kills one


@pytest.fixture
def while_it_waits(monkeypatch):
    """Return a list of functions. Each poll of a sweep that waits calls and removes one."""
    acts: list[Any] = []

    def sleep(seconds: float) -> None:
        acts.pop(0)()

    monkeypatch.setattr(sweep_module.time, "sleep", sleep)
    return acts


@pytest.mark.parametrize("dies", [False, True])
def test_a_sweep_waits_for_a_run_of_another_process(tmp_path, while_it_waits, whole, dies, caplog):
    caplog.set_level(logging.INFO)
    training, other = Training(), iter(make_sweep(tmp_path))
    turn = next(other)

    def act() -> None:
        assert [run_id for run_id, *_ in training.turns] == ["run_001", "run_002"]
        if not dies:
            training(turn)
        other.close()  # releases the run, as the end of a process does

    while_it_waits += [lambda: None, act]
    assert same(make_sweep(tmp_path).run(training), whole[0])
    assert training.steps == whole[1].steps
    assert while_it_waits == []
    messages = [entry.message for entry in caplog.records if "Waiting" in entry.message]
    assert messages == ["Waiting for another process, which is training 'run_000'."]


def test_a_sweep_stops_waiting_for_a_run_that_raised_in_another_process(tmp_path, while_it_waits):
    training, other = Training(), iter(make_sweep(tmp_path))
    turn = next(other)

    def act() -> None:
        (turn.directory / "set_aside.json").write_text("{}")
        other.close()

    while_it_waits.append(act)
    sweep = make_sweep(tmp_path)
    best = sweep.run(training)
    assert best == sweep.best
    assert {run_id for run_id, *_ in training.turns} == {"run_001", "run_002"}


def test_a_candidate_that_raised_is_tried_again_when_another_script_starts(
    tmp_path, whole, monkeypatch
):
    training, attempts = Training(), []

    def train(turn):
        attempts.append(turn.run_id)
        if attempts == ["run_000"]:
            raise ZeroDivisionError("mine")
        training(turn)

    # The other script starts at once, before this one continues.
    monkeypatch.setattr(sweep_module.log, "exception", lambda *_: make_sweep(tmp_path))
    assert same(make_sweep(tmp_path).run(train), whole[0])
    assert attempts[:2] == ["run_000", "run_000"]


@pytest.mark.parametrize("loop", [False, True])
def test_a_run_is_released_when_its_training_is_interrupted(tmp_path, whole, loop, caplog):
    """This includes a notebook, which keeps the exception and its frames."""
    caplog.set_level("INFO")

    def train(turn):
        raise KeyboardInterrupt("mine")

    def run_all():
        if not loop:
            make_sweep(tmp_path).run(train)
        for turn in make_sweep(tmp_path):
            train(turn)

    with pytest.raises(KeyboardInterrupt, match=r"^mine$") as kept:
        run_all()
    advice = "The sweep is interrupted. To continue it, start the script again."
    assert (advice in caplog.messages) == (not loop)
    assert same(make_sweep(tmp_path).run(Training()), whole[0])
    assert kept.traceback


def test_scripts_with_different_candidates_train_the_same_sweep(tmp_path, whole):
    training = Training()
    first = make_sweep(tmp_path, CANDIDATES[:1])
    for turn in first:
        training(turn)
        if turn.stop_epoch == 3:
            make_sweep(tmp_path, CANDIDATES[1:])  # another script starts
    assert same(first.best, whole[0])
    assert training.steps == whole[1].steps
    assert training.turns[1:4] == [("run_000", 2, 3), ("run_001", 0, 2), ("run_002", 0, 2)]


# --- full disks


class FullDisk:
    """A `train` function whose disk has room for only `size` bytes in one turn."""

    def __init__(self, run_id: str, stop_epoch: int, size: int) -> None:
        self.training, self.at, self.size = Training(), (run_id, stop_epoch), size

    def __call__(self, turn: Any) -> None:
        if (turn.run_id, turn.stop_epoch) != self.at:
            self.training(turn)
            return
        with no_file_beyond(self.size):
            self.training(turn)


@pytest.mark.parametrize(("run_id", "stop_epoch"), [("run_001", 2), ("run_002", 3)])
def test_a_full_disk_ends_the_script_and_loses_nothing(tmp_path, run_id, stop_epoch, whole):
    sweep = make_sweep(tmp_path)
    message = (
        r"^'.*stopped-epoch=.*' cannot be written: File too large\. Free disk space and run the "
        r"script again; it repeats this turn\.$"
    )
    with pytest.raises(OSError, match=message):
        sweep.run(FullDisk(run_id, stop_epoch, 4_000))
    before = checkpoints(tmp_path / run_id)
    assert [name.split("-")[1] for name in before] == ["epoch=2"][: stop_epoch - 2]
    assert same(make_sweep(tmp_path).run(Training()), whole[0])
    assert not list(tmp_path.glob("*/set_aside.json"))


@pytest.mark.parametrize("ends", [False, True])
def test_a_full_disk_leaves_no_partial_checkpoint(tmp_path, monkeypatch, ends):
    """The temporary files are on another disk, which is not full."""
    message = (
        r"^'.*stopped-epoch=.*' cannot be written: No space left on device\. Free disk space and "
        r"run the script again; it repeats this turn\.$"
    )
    save = lightning().Trainer.save_checkpoint

    def half(trainer, path, *args, **options):
        save(trainer, path, *args, **options)
        os.truncate(path, 1000)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lightning().Trainer, "save_checkpoint", half)
        with pytest.raises(OSError, match=message):
            make_sweep(tmp_path).run(Ends(0, 1) if ends else Training())
    assert checkpoints(tmp_path / "run_000") == []


@pytest.mark.parametrize("stop_epoch", [2, 3])
def test_a_record_that_cannot_be_written_ends_the_script_and_loses_nothing(
    tmp_path, monkeypatch, stop_epoch, whole
):
    append, training, full = RunRecord._append, Training(), False

    def appended(record, line):
        if full:
            raise OSError(28, "No space left on device")
        append(record, line)

    def train(turn):
        nonlocal full
        full = (turn.run_id, turn.stop_epoch) == ("run_002", stop_epoch)
        training(turn)

    monkeypatch.setattr(RunRecord, "_append", appended)
    folder = tmp_path / "run_002"
    message = (
        f"The record of 'run_002' in '{folder}' cannot be written. Free disk space and run the "
        "script again; it repeats this turn."
    )
    with (
        pytest.warns(UserWarning, match="cannot be written"),
        pytest.raises(OSError, match=f"^{re.escape(message)}$"),
    ):
        make_sweep(tmp_path).run(train)
    full = False
    assert same(make_sweep(tmp_path).run(training), whole[0])
    assert len(checkpoints(folder)) == 1


def test_a_user_error_caused_by_a_full_disk_ends_the_script(tmp_path):
    def train(turn):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("mine") from error

    with pytest.raises(RuntimeError, match=r"^mine$"):
        make_sweep(tmp_path).run(train)
    assert not list(tmp_path.glob("*/set_aside.json"))


# --- candidates that fail


def test_a_diverged_candidate_trains_one_turn_and_never_wins(tmp_path):
    training = Training()
    sweep = make_sweep(tmp_path, [DIVERGING, *CANDIDATES])
    best = sweep.run(training)
    assert best.run_id != "run_000"
    assert [turn for turn in training.turns if turn[0] == "run_000"] == [("run_000", 0, 2)]
    assert sweep.best == best


def test_only_diverged_candidates_have_no_winner(tmp_path):
    message = f"No candidate of '{tmp_path}' was trained to the end: 'run_000', 'run_001' diverged."
    sweep = make_sweep(tmp_path, [DIVERGING, {**DIVERGING, "width": 5}])
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        sweep.run(Training())
    assert sweep.best is None


class NoValidation(Training):
    """A `train` function in which the validations of some candidates are NaN."""

    def __init__(self, *candidates: Any) -> None:
        super().__init__()
        self.candidates = candidates

    def __call__(self, turn: Any) -> None:
        self.loaders = loaders
        if turn.params in self.candidates:
            _, val = loaders()
            val.dataset.tensors = (val.dataset.tensors[0] * math.nan, val.dataset.tensors[1])
            self.loaders = lambda: (loaders()[0], val)
        super().__call__(turn)


def test_a_validation_that_is_never_finite_does_not_win(tmp_path):
    sweep = make_sweep(tmp_path, validation="val_loss", validation_mode="min")
    # Its losses are the lowest.
    assert sweep.run(NoValidation(CANDIDATES[2])).params != CANDIDATES[2]


def test_without_any_finite_validation_there_is_no_winner(tmp_path):
    sweep = make_sweep(tmp_path, CANDIDATES[:2], validation="val_loss", validation_mode="min")
    message = (
        f"No candidate of '{tmp_path}' was trained to the end: 'run_000', 'run_001' ended without "
        "a finite 'val_loss'."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        sweep.run(NoValidation(*CANDIDATES))
    assert sweep.best is None


# --- the directory


def test_a_sweep_that_was_moved_finds_its_checkpoints(tmp_path, capsys, whole):
    training = Training()
    for turn in make_sweep(tmp_path / "place0"):
        training(turn)
        if turn.stop_epoch == 4:
            break
    (tmp_path / "place0").rename(tmp_path / "place1")
    best = make_sweep(tmp_path / "place1").run(training)
    assert same(best, whole[0])
    assert training.steps == whole[1].steps
    (tmp_path / "place1").rename(tmp_path / "place2")
    moved = make_sweep(tmp_path / "place2").best
    assert Path(moved.checkpoint_path).parent == tmp_path / "place2" / best.run_id
    assert Path(moved.checkpoint_path).exists()
    assert sorted(ranked(capsys, tmp_path / "place2")) == ["run_000", "run_001", "run_002"]


def test_a_relative_directory_survives_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    training = Training()

    def train(turn):
        monkeypatch.chdir(tmp_path / "elsewhere")  # as Hydra does
        training(turn)

    best = make_sweep("sweep").run(train)
    assert Path(best.checkpoint_path).parent == tmp_path / "sweep" / best.run_id
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert make_sweep(tmp_path / "sweep").best == best


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "sweep"):
        message = f"^'{re.escape(str(place))}' cannot be written: (File exists|Not a directory)\\.$"
        with pytest.raises(OSError, match=message):
            make_sweep(place)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has no such permissions")
def test_a_directory_without_permission_is_named(tmp_path):
    # Root can write everywhere, and other users cannot read pytest's folders.
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        place = Path(outer) / "sweep"
        place.mkdir(mode=0o555)
        try:
            os.seteuid(user or 65534)
            message = f"^'{re.escape(str(place))}' cannot be written: Permission denied\\.$"
            with pytest.raises(OSError, match=message):
                make_sweep(place)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"schema": 2, "candidates": []}',
        b'{"schema": 1}',
        b'{"schema": 1, "candidates": [3]}',
    ],
)
def test_damaged_settings_raise_and_are_not_changed(tmp_path, content):
    path = tmp_path / "sweep.json"
    path.write_bytes(content)
    message = (
        f"Expected '{path}' to hold the settings and candidates of a sweep in schema 1, but the "
        "file is damaged or from a newer version of this package."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_sweep(tmp_path)
    assert path.read_bytes() == content


# --- warnings


@pytest.mark.parametrize("package", PACKAGES)
def test_turns_cause_no_more_warnings_than_an_uninterrupted_run(tmp_path, package):
    options = {"logger": True, "enable_checkpointing": True, "enable_progress_bar": True}
    training = Training(package, **options)

    def messages_of(act):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act()
        return {str(entry.message) for entry in caught}

    expected = messages_of(lambda: training.alone(tmp_path / "alone", CANDIDATES[0]))
    sweep = make_sweep(tmp_path / "sweep", package=package)
    for turn in sweep:
        found = messages_of(lambda: training(turn))  # noqa: B023  # it is called at once
        assert found <= expected, turn
    assert max(start for _, start, _ in training.turns) == 4
