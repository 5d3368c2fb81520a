"""A run that is killed at random times and resumes from its newest checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch.utils.data import DataLoader

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from lightning_sotl.record.format import parsed_lines
from lightning_sotl.record.writer import RunRecord
from tests.campaigns import forked
from tests.campaigns.tally import Tally
from tests.support.helpers import trainer

EPOCHS, BATCHES, STOP = 6, 8, 4


class ShuffledLoader:
    """Batches in a different order in each epoch. It can be resumed in the middle of an epoch."""

    def __init__(self, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.seed, self.rank, self.ranks = seed, rank, ranks
        rng = np.random.default_rng(seed)
        self.data = torch.tensor(rng.normal(size=(BATCHES * ranks, 4, 3)), dtype=torch.float32)
        self.epoch, self.position, self.resumed = -1, BATCHES, False

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[torch.Tensor]:
        if not self.resumed or self.position == BATCHES:
            self.epoch, self.position = self.epoch + 1, 0
        self.resumed = False
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.data))
        mine = order[self.rank :: self.ranks]
        while self.position < BATCHES:
            self.position += 1
            yield self.data[mine[self.position - 1]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position, self.resumed = state["epoch"], state["position"], True


class Net(pl.LightningModule):
    """Learns the sum of its inputs. Each loss depends on all earlier steps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)
        )

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self._loss(batch)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch), sync_dist=True)

    def val_dataloader(self) -> Any:
        return DataLoader(torch.linspace(-1, 1, 36).reshape(3, 4, 3), batch_size=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class NotePhases(pl.Callback):
    """Writes the phase of the run into shared memory."""

    def __init__(self, phase: forked.Phase) -> None:
        self.phase = phase

    def on_train_batch_start(self, *_: Any) -> None:
        self.phase.set("in a training step")

    def on_validation_start(self, *_: Any) -> None:
        self.phase.set("in a validation")

    def on_validation_end(self, *_: Any) -> None:
        self.phase.set("between epochs")

    def on_train_end(self, *_: Any) -> None:
        self.phase.set("at the run's end")


class NotingIO(TorchCheckpointIO):
    """Sets the phase while a checkpoint is written."""

    def __init__(self, phase: forked.Phase) -> None:
        self.phase = phase

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        with self.phase.inside("in a checkpoint's save"):
            super().save_checkpoint(*args, **options)


@dataclass(frozen=True)
class Plan:
    """One run: its folder, the seed of its losses, and its settings."""

    folder: Path
    seed: int
    stops: bool = False  # whether it stops at STOP and is then promoted
    logger: str = "csv"
    same_version: bool = True  # whether each process logs into the same folder

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def make_logger(plan: Plan) -> Any:
    version = 0 if plan.same_version else None
    kind = {"csv": pl.loggers.CSVLogger, "tensorboard": pl.loggers.TensorBoardLogger}[plan.logger]
    return kind(plan.folder / "logs", name="run", version=version)


def newest_checkpoint(plan: Plan) -> Path | None:
    found = sorted(plan.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None


def note_writes(phase: forked.Phase) -> None:
    """From now on, set the phase in this process while a line is written to a record."""
    write = RunRecord._append

    def noted(record: RunRecord, line: dict[str, Any]) -> None:
        with phase.inside("in a write to the record"):
            write(record, line)

    RunRecord._append = noted  # type: ignore[method-assign]  # only in this child


def train(
    plan: Plan, phase: forked.Phase, *, rank: int = 0, ranks: int = 1, **options: Any
) -> None:
    """Train from the newest checkpoint to the end, and write the results of each rank to files."""
    note_writes(phase)
    stages = [False, True] if plan.stops else [None]
    if (plan.folder / "stopped.json").exists():
        stages = [True]
    for promoted in stages:
        monitor = SoTLMonitor()
        stopper = EarlyRankingStopper(stop_epoch=STOP, promoted=bool(promoted))
        callbacks = [monitor, NotePhases(phase), *([stopper] if plan.stops else [])]
        callbacks.append(
            pl.callbacks.ModelCheckpoint(
                plan.checkpoints,
                every_n_train_steps=3,
                save_last=True,
                enable_version_counter=False,
            )
        )
        run = trainer(
            plan.folder,
            callbacks=callbacks,
            logger=make_logger(plan),
            enable_checkpointing=True,
            max_epochs=EPOCHS,
            plugins=[NotingIO(phase)],
            **options,
        )
        data = ShuffledLoader(plan.seed, rank, ranks)
        run.fit(Net(plan.seed), data, ckpt_path=newest_checkpoint(plan))
        name = ("stopped" if promoted is False else "finished") + (str(rank) if ranks > 1 else "")
        note = {"losses": list(monitor.epoch_losses.items()), "estimate": stopper.estimate}
        written = plan.folder / f"{name}.part"
        written.write_text(json.dumps(note))
        written.rename(plan.folder / f"{name}.json")


def epoch_losses(plan: Plan, name: str = "finished") -> dict[int, float]:
    return dict(json.loads((plan.folder / f"{name}.json").read_text())["losses"])


def killed_run(
    plan: Plan, kills: int, seconds: float, rng: np.random.Generator, tally: Tally
) -> None:
    """Kill a run `kills` times, each within `seconds` of its start, and then let it end."""
    plan.folder.mkdir(parents=True)
    phase, log = forked.Phase(), plan.folder / "log.txt"
    for left in range(kills, -1, -1):
        phase.set("before the first step")
        child = forked.fork(partial(train, plan, phase), log)
        code = forked.ended(child, float(rng.uniform(0, seconds)) if left else 120)
        if code is None:
            code = forked.kill(child)
            if code < 0:
                tally.count(f"kills {phase.get()}")
        if code == 0:
            return
        if code > 0 or not left:
            tally.fault(f"{plan.folder.name} ended with {code}: {log.read_text()[-500:]}")
            return
        tally.count("restarts")
        tally.count("unreadable checkpoints", unreadable_checkpoints(plan))


def unreadable_checkpoints(plan: Plan) -> int:
    unreadable = 0
    for path in plan.checkpoints.glob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception:  # a half-written archive may raise anything
            unreadable += 1
    return unreadable


def compare(plan: Plan, whole: Plan, tally: Tally) -> None:
    """Compare the results and the record of a killed run with those of an uninterrupted run."""
    if not (plan.folder / "finished.json").exists():
        return
    name, expected = plan.folder.name, epoch_losses(whole)
    tally.expect(f"{name}: epoch_losses", epoch_losses(plan), expected)
    if plan.stops:
        before = {e: loss for e, loss in expected.items() if e < STOP}
        tally.expect(f"{name}: losses at the stop", epoch_losses(plan, "stopped"), before)
    found = read_logs(plan.folder, LogKeys(val_loss="val_loss" if has_validations(plan) else None))
    if found.curves.val_loss is None:
        tally.count("runs whose last process deleted all validation losses")
    tally.expect(f"{name}: record", found.curves.train_loss.tolist(), [list(expected.values())])
    tally.expect(f"{name}: stops", found.stopped_at, (STOP if plan.stops else None,))
    tally.expect(f"{name}: wrong validation losses", list(wrong_values(found, whole)), [])
    units = [line for path in plan.folder.rglob("sotl.jsonl") for line in recorded(path)]
    tally.count("record lines in addition to one per epoch", len(units) - len(set(units)))


def has_validations(plan: Plan) -> bool:
    """Return whether the logs must have validation losses.

    A CSVLogger that resumes in the same version deletes all rows. If the run had nothing left to
    train, it writes no new ones. All other logs must have some.
    """
    may_be_empty = plan.logger == "csv" and plan.same_version
    tables = plan.folder.rglob("metrics.csv")
    return not may_be_empty or any("val_loss" in table.read_text() for table in tables)


def recorded(path: Path) -> Iterator[int]:
    for line in parsed_lines(path):
        if line and "e" in line:
            yield line["e"]


def wrong_values(found: FoundRuns, whole: Plan) -> Iterator[tuple[int, float]]:
    """Yield the validation losses that are present and differ from those of the whole run."""
    truth = read_logs(whole.folder, LogKeys(val_loss="val_loss")).curves.val_loss
    values = found.curves.val_loss
    assert truth is not None
    if values is None:
        return
    for epoch, (value, expected) in enumerate(zip(values[0], truth[0], strict=True)):
        if not np.isnan(value) and np.float32(value) != np.float32(expected):
            yield epoch, float(value)


def campaign(folder: Path, runs: int, seed: int) -> Tally:
    """Kill `runs` runs, one to four times each."""
    rng, tally = np.random.default_rng(seed), Tally()
    seconds: dict[int, float] = {}
    for place in range(runs):
        plan = Plan(
            folder / f"run{place}",
            seed=place % 5,
            stops=place % 3 == 2,
            logger=["csv", "tensorboard"][place // 2 % 2],
            same_version=place % 2 == 0,
        )
        whole = Plan(folder / f"whole{plan.seed}", seed=plan.seed, logger="tensorboard")
        if plan.seed not in seconds:
            whole.folder.mkdir(parents=True)
            begun, log = time.monotonic(), whole.folder / "log.txt"
            child = forked.fork(partial(train, whole, forked.Phase()), log)
            assert forked.ended(child, 120) == 0, log.read_text()
            seconds[plan.seed] = time.monotonic() - begun
        tally.count("runs")
        killed_run(plan, int(rng.integers(1, 5)), seconds[plan.seed], rng, tally)
        compare(plan, whole, tally)
    return tally
