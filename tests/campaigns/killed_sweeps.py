"""Sweeps that are killed at random times and at each write, and resume when they start again."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_sotl import AdaptivePolicy, Sweep
from lightning_sotl.cli import main as command
from lightning_sotl.record import writer
from lightning_sotl.record.writer import RunRecord
from lightning_sotl.sweep import sweep as sweep_module
from tests.campaigns import forked
from tests.campaigns.killed_runs import ShuffledLoader
from tests.campaigns.tally import Tally

BATCHES, MAX_EPOCHS = 4, 6
RAISES, ENDS_EARLY, DIVERGES = 1, 2, 4
CANDIDATES = [
    {"number": number, "lr": lr} for number, lr in enumerate((0.01, 0.1, 0.2, 0.4, 0.05, 0.02))
]
KINDS: dict[str, dict[str, Any]] = {
    "losses": {},
    "validation": {"validation": "val_loss", "validation_mode": "min"},
    "budget": {"max_total_epochs": 18},
    "blocks": {"monitor_args": {"every_n_train_batches": BATCHES - 1}},
}


@dataclass(frozen=True)
class Plan:
    """One sweep: its folder and its kind."""

    folder: Path
    kind: str

    @property
    def sweep(self) -> Path:
        return self.folder / "sweep"

    @property
    def steps(self) -> Path:
        return self.folder / "steps.jsonl"

    @property
    def unit(self) -> int:
        """The number of batches of an epoch or a block."""
        return BATCHES - 1 if self.kind == "blocks" else BATCHES


class Net(pl.LightningModule):
    """Learns the sum of its inputs with dropout, and appends each trained step to a file."""

    def __init__(self, number: int, lr: float, note: Any) -> None:
        super().__init__()
        self.number, self.lr, self.note = number, lr, note
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(5, 1)
        )

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch)
        if self.number == DIVERGES and self.trainer.current_epoch >= 1:
            loss = loss * torch.inf
        self.note(step=self.trainer.global_step, loss=float(loss.detach()).hex())
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, MAX_EPOCHS)]


class EndsEarly(pl.Callback):
    """Ends a run after five epochs, as EarlyStopping would."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop |= trainer.current_epoch == 4


class Notes:
    """Appends the turns and steps of a process to a file, one line each."""

    def __init__(self, path: Path, process: int) -> None:
        self.path, self.process, self.turn = path, process, ""

    def __call__(self, **entry: Any) -> None:
        line = json.dumps({"process": self.process, "run": self.turn, **entry}) + "\n"
        target = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(target, line.encode())
        os.close(target)


class Points:
    """The points before, inside and after each write. This process is killed at one of them.

    It wraps the functions that write in this process. If `kill_at` is None, it writes the names of
    all points into a file.
    """

    def __init__(self, kill_at: tuple[str, int] | None, names: Path) -> None:
        self.kill_at, self.names = kill_at, names
        self.seen: Counter[str] = Counter()
        self.turn = "at the start"

    def here(self, name: str) -> bool:
        """Count a point; return whether the process is to be killed here."""
        name = f"{name}, {self.turn}"
        self.seen[name] += 1
        if self.kill_at is None:
            with self.names.open("a") as file:
                file.write(f"{name}\n")
        return self.kill_at == (name, self.seen[name])

    def at(self, name: str) -> None:
        """Count a point, and kill the process if it is the chosen one."""
        if self.here(name):
            die()

    def wrap(self) -> None:
        self._wrap_record()
        self._wrap_checkpoint()
        self._wrap_files()
        claim = sweep_module.try_lock

        def claimed(lock: Any) -> bool:
            self.at("before a claim")
            taken = claim(lock)
            self.at("after a claim")
            return taken

        sweep_module.try_lock = claimed

    def _wrap_record(self) -> None:
        append = RunRecord._append

        def appended(record: RunRecord, line: dict[str, Any]) -> None:
            what = f"the line {_kind(line)}"
            self.at(f"before {what}")
            if self.here(f"inside {what}"):
                text = writer._to_json(line)
                with record.path.open("ab") as file:
                    file.write(text[: len(text) // 2])
                die()
            append(record, line)
            self.at(f"after {what}")

        RunRecord._append = appended  # type: ignore[method-assign]  # only in this child

    def _wrap_checkpoint(self) -> None:
        save = pl.Trainer.save_checkpoint

        def saved(trainer: Any, path: str, *args: Any, **options: Any) -> None:
            self.at("before the save of a checkpoint")
            half = self.here("inside the save of a checkpoint")
            save(trainer, path, *args, **options)
            if half:
                os.truncate(path, Path(path).stat().st_size // 2)
                die()
            self.at("after the save of a checkpoint")

        pl.Trainer.save_checkpoint = saved  # type: ignore[method-assign,assignment]

    def _wrap_files(self) -> None:
        unlink, replace = Path.unlink, Path.replace

        def unlinked(path: Path, *args: Any, **options: Any) -> None:
            ours = path.suffix == ".ckpt" or (path.name == "set_aside.json" and path.exists())
            what = "the deletion of a checkpoint" if path.suffix == ".ckpt" else f"no {path.name}"
            if ours:
                self.at(f"before {what}")
            unlink(path, *args, **options)
            if ours:
                self.at(f"after {what}")

        def replaced(path: Path, target: Path) -> Path:
            self.at(f"before a new {Path(target).name}")
            found = replace(path, target)
            self.at(f"after a new {Path(target).name}")
            return found

        Path.unlink, Path.replace = unlinked, replaced  # type: ignore[method-assign,assignment]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # it does not return


def _kind(line: dict[str, Any]) -> str:
    if "run_id" in line:
        return "of the header"
    if "status" in line:
        return "of the status"
    if line["checkpoint"]:
        return "that names the checkpoint"
    return "of validations" if "metrics" in line else "of a loss"


def job(plan: Plan, process: int, kill_at: tuple[str, int] | None, phase: forked.Phase) -> None:
    """Train the sweep to its end, as a user's script would, and write down the result."""
    note, points = Notes(plan.steps, process), Points(kill_at, plan.folder / "points.txt")
    points.wrap()
    policy = AdaptivePolicy(max_epochs=MAX_EPOCHS, first=2)
    sweep = Sweep(plan.sweep, CANDIDATES, policy=policy, **KINDS[plan.kind])

    def train(turn: Any) -> None:
        number = turn.params["number"]
        which = "a first turn" if turn.checkpoint_path is None else "a later turn"
        points.turn = "in a last turn" if turn.stop_epoch == MAX_EPOCHS else f"in {which}"
        note.turn = turn.run_id
        note(start=turn.start_epoch, stop=turn.stop_epoch)
        phase.set("in a training step")
        pl.seed_everything(number, verbose=False)
        if number == RAISES:
            raise ArithmeticError("this candidate always raises")
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=99 if plan.kind == "blocks" else MAX_EPOCHS,
            callbacks=[*turn.callbacks, *([EndsEarly()] if number == ENDS_EARLY else [])],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=turn.directory,
            num_sanity_val_steps=0,
        )
        turn.fit(trainer, Net(number, turn.params["lr"], note), *loaders(plan, number))
        phase.set("between epochs")

    best = sweep.run(train)
    phase.set("at the run's end")
    result = {
        "best": [best.run_id, best.params, best.estimate.hex()],
        "checkpoint": best.checkpoint_path,
        "ranking": [[run.run_id, run.epochs, str(run.estimate)] for run in sweep.ranking()],
    }
    (plan.folder / f"result{process}.json").write_text(json.dumps(result))


def loaders(plan: Plan, seed: int) -> list[Any]:
    if plan.kind == "blocks":  # a run is resumed inside an epoch
        return [ShuffledLoader(seed)]
    data = torch.linspace(-1, 1, 48).reshape(16, 3)
    train = DataLoader(data, batch_size=4, shuffle=True)
    if plan.kind == "validation":
        return [train, DataLoader(data.flip(0), batch_size=16)]
    return [train]


class Reading:
    """The records and the trained steps of a sweep, read without the package."""

    def __init__(self, plan: Plan) -> None:
        self.losses: dict[tuple[str, int], str] = {}  # run, e -> L(e)
        self.closed: dict[str, int] = {}  # run -> number of units at its newest recorded checkpoint
        for path in sorted(plan.sweep.glob("run_*/sotl.jsonl")):
            run = path.parent.name
            for line in lines_of(path):
                if "e" in line:
                    loss = math.inf if line["loss"] is None else line["loss"]
                    self.losses[run, line["e"]] = loss.hex()
                    if line["checkpoint"]:
                        self.closed[run] = max(self.closed.get(run, 0), line["e"] + 1)
        self.notes = list(lines_of(plan.steps))

    def steps(self) -> list[dict[str, Any]]:
        return [note for note in self.notes if "step" in note]

    def trained(self) -> dict[tuple[str, int], str]:
        """Return (run, step) -> the loss of the step when it was last trained."""
        return {(note["run"], note["step"]): note["loss"] for note in self.steps()}

    def open_turn(self, process: int) -> tuple[str, int] | None:
        """Return the run and the first unit of the last turn that a process started."""
        turns = [note for note in self.notes if note["process"] == process and "start" in note]
        return (turns[-1]["run"], turns[-1]["start"]) if turns else None


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file of JSON lines."""
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            yield json.loads(text)


@dataclass
class Kill:
    """A killed process, and the completed units and the number of notes at that time."""

    process: int
    closed: dict[str, int]
    notes: int


def check_steps(plan: Plan, kills: list[Kill], tally: Tally) -> None:
    """Check that only the turn that a kill interrupted was trained again, with the same losses."""
    found, name = Reading(plan), plan.folder.name
    by_process = {kill.process: kill for kill in kills}
    known: dict[tuple[str, int], tuple[str, int]] = {}
    repeated = 0
    for note in found.steps():
        key = (note["run"], note["step"])
        if key in known:
            repeated += 1
            loss, process = known[key]
            tally.count("steps trained again")
            if process not in by_process:
                tally.fault(f"{name}: {key} of process {process}, not killed, was trained again")
            else:
                run, start = found.open_turn(process) or ("", 0)
                if run != key[0] or key[1] < start * plan.unit:
                    tally.fault(f"{name}: {key} was trained again, the open turn: {run, start}")
            if loss != note["loss"]:
                tally.fault(f"{name}: {key} gave {note['loss']}, {loss} before")
        known[key] = (note["loss"], note["process"])
    for kill in kills:  # units that were complete at a kill are never trained again
        for note in found.notes[kill.notes :]:
            if note.get("step", math.inf) < kill.closed.get(note["run"], 0) * plan.unit:
                tally.fault(f"{name}: {note} was complete when process {kill.process} was killed")


def check_result(plan: Plan, whole: Plan, process: int, tally: Tally) -> None:
    """Compare the winner, losses, weights, ranking and files with an uninterrupted sweep."""
    name = plan.folder.name
    path = plan.folder / f"result{process}.json"
    if not path.exists():
        tally.fault(f"{name}: process {process} has no result")
        return
    found, expected = (
        json.loads(path.read_text()),
        json.loads((whole.folder / "result0.json").read_text()),
    )
    for key in ("best", "ranking"):
        tally.expect(f"{name}: {key}", found[key], expected[key])
    ours, theirs = Reading(plan), Reading(whole)
    losses = ours.losses.items() ^ theirs.losses.items()
    tally.expect(f"{name}: losses in the records that differ", losses, set())
    steps = ours.trained().items() ^ theirs.trained().items()
    tally.expect(f"{name}: steps that differ", steps, set())
    tally.expect(f"{name}: rank", ranked(plan), [run for run, *_ in found["ranking"]])
    tally.expect(
        f"{name}: checkpoint of the best",
        Path(found["checkpoint"]).parent,
        plan.sweep / found["best"][0],
    )
    for folder in sorted(whole.sweep.glob("run_*")):
        saved = sorted(folder.glob("*.ckpt"))
        mine = sorted((plan.sweep / folder.name).glob("*.ckpt"))
        tally.expect(f"{name}: checkpoints of {folder.name}", len(mine), len(saved))
        if saved and mine:
            equal = weights(saved[0]) == weights(mine[-1])
            tally.expect(f"{name}: weights of {folder.name} are bit-equal", equal, True)


def weights(path: Path) -> dict[str, bytes]:
    """Return the bytes of a checkpoint's weights, so that NaNs compare as equal."""
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value.numpy().tobytes() for name, value in state.items()}


def ranked(plan: Plan) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        monitor = f"sotl_b{plan.unit}_e1" if plan.kind == "blocks" else "sotl_e1"
        command(["rank", str(plan.sweep), "--json", "--monitor", monitor])
    return [run["run_id"] for run in json.loads(out.getvalue())["runs"]]


def start(
    plan: Plan, process: int, kill_at: tuple[str, int] | None = ("", 0)
) -> tuple[int, forked.Phase]:
    """Start the script as a child."""
    phase = forked.Phase()
    phase.set("before the first step")
    child = partial(job, plan, process, kill_at, phase)
    return forked.fork(child, plan.folder / f"log{process}.txt"), phase


def whole_sweep(plan: Plan) -> tuple[float, Counter[str]]:
    """Train without a kill; return the duration in seconds, and the points for kills."""
    plan.folder.mkdir(parents=True)
    begun = time.monotonic()
    child, _ = start(plan, 0, None)
    code = forked.ended(child, 120)
    assert code == 0, (plan.folder / "log0.txt").read_text()
    points = (plan.folder / "points.txt").read_text().splitlines()
    return time.monotonic() - begun, Counter(points)


def killed_sweep(
    plan: Plan,
    whole: Plan,
    kill_at: tuple[str, int],
    delays: list[float],
    tally: Tally,
) -> None:
    """Kill a sweep at a point, then once after each delay in seconds, and then let it end."""
    plan.folder.mkdir(parents=True)
    kills: list[Kill] = []
    for process in range(len(delays) + 2):
        last = process == len(delays) + 1
        child, phase = start(plan, process, ("", 0) if process else kill_at)
        seconds = 120 if last or process == 0 else delays[process - 1]
        code = forked.ended(child, seconds)
        if code is None:
            code = forked.kill(child)
            if code < 0:
                tally.count(f"kills {phase.get()}")
        elif code < 0:
            tally.count(f"kills {kill_at[0].partition(',')[0]}")
        if code == 0:
            check_steps(plan, kills, tally)
            check_result(plan, whole, process, tally)
            return
        if code > 0 or last:
            log = (plan.folder / f"log{process}.txt").read_text()
            tally.fault(f"{plan.folder.name} ended with {code}: {log[-2000:]}")
            return
        tally.count("restarts")
        kills.append(killed(plan, process))


def killed(plan: Plan, process: int) -> Kill:
    now = Reading(plan)
    return Kill(process, now.closed, len(now.notes))


def shared_sweep(
    plan: Plan, whole: Plan, processes: int, victim: int, after: float, tally: Tally
) -> None:
    """Start the script in several processes, kill one of them, and let the others end."""
    plan.folder.mkdir(parents=True)
    children = [start(plan, process)[0] for process in range(processes)]
    code = forked.ended(children[victim], after)
    if code is None:
        code = forked.kill(children[victim])
    kills = []
    if code < 0:
        tally.count("kills of one of several")
        kills.append(killed(plan, victim))
    for process, child in enumerate(children):
        if process != victim:
            code = forked.ended(child, 120)
            if code != 0:
                log = (plan.folder / f"log{process}.txt").read_text()
                tally.fault(f"{plan.folder.name}: {process} ended with {code}: {log[-2000:]}")
                continue
        if process != victim or not kills:
            check_result(plan, whole, process, tally)
    check_steps(plan, kills, tally)
    trained = {note["process"] for note in Reading(plan).steps()}
    tally.count("processes that trained", len(trained))


def campaign(folder: Path, kills: int, shared: int, seed: int) -> Tally:
    """Kill `kills` sweeps at a write and at a random time; then kill one of 2 or 4 processes.

    There are a few hundred points at writes, and each sweep is killed at a different one.
    """
    rng, tally = np.random.default_rng(seed), Tally()
    done: dict[str, tuple[Plan, float, Counter[str]]] = {}
    for kind in list(KINDS)[: max(kills, shared)]:
        whole = Plan(folder / f"whole-{kind}", kind)
        done[kind] = (whole, *whole_sweep(whole))
    all_points = [(kind, point) for kind in done for point in sorted(done[kind][2])]
    tally.measures["points at which a sweep may be killed"] = str(len(all_points))
    for number, index in enumerate(rng.permutation(len(all_points))[:kills]):
        kind, point = all_points[index]
        whole, seconds, points = done[kind]
        occurrence = int(rng.integers(1, points[point] + 1))
        delays = [float(rng.uniform(0, seconds))]
        plan = Plan(folder / f"sweep{number}-{kind}", kind)
        tally.count("sweeps")
        before = len(tally.faults)
        killed_sweep(plan, whole, (point, occurrence), delays, tally)
        for fault in range(before, len(tally.faults)):
            tally.faults[fault] += f" [killed {point}, {occurrence}; {delays}]"
    for number in range(shared):
        kind, processes = list(done)[number % len(done)], 2 + 2 * (number // len(done) % 2)
        whole, seconds, _ = done[kind]
        victim, after = int(rng.integers(processes)), float(rng.uniform(0, seconds))
        plan = Plan(folder / f"shared{number}-{kind}-{processes}", kind)
        tally.count(f"sweeps in {processes} processes")
        shared_sweep(plan, whole, processes, victim, after, tally)
    return tally
