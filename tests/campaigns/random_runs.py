"""Random trainings, compared with the losses that their modules returned.

    python -m tests.campaigns.random_runs [--seed N] [--runs N]

Each seed draws a training: its loader, accumulation, steps without a loss, limits, validations,
checkpoints, exceptions and resumes, and where the stopper ends it. A tape in the Trainer notes each
loss that `training_step` returned. After each `fit`, the results of the callbacks are compared with
the tape. Where a resume must be exact, they are also compared with an uninterrupted training.
Prints a table of counts and the faults, each with its seed, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the networks are tiny

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, StoppingReason
from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.campaigns.tally import Tally
from tests.support.helpers import SAFELY, trainer

HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
)


@dataclass(frozen=True)
class Plan:
    """One training, without its interruptions."""

    seed: int
    batches: int
    sized: bool  # whether the loader has a length
    stateful: bool  # whether it can resume in the middle of an epoch
    accumulate: int
    manual: bool  # whether the module steps its optimizer itself
    as_dict: bool  # whether `training_step` returns a dictionary
    skips: float  # share of the steps that return None
    ends_at: int | None  # the batch index at which the module ends each third epoch
    epochs: int
    steps: int | None  # `max_steps`
    limit: int | None  # `limit_train_batches`
    window: int
    stop: int | None
    options: dict[str, Any]  # further arguments of the Trainer
    save_hook: str
    save_every: int

    def resumes_exactly(self, between_epochs: bool) -> bool:
        """Return whether a run that resumes from a checkpoint must train as if uninterrupted.

        docs/guides/resume.md lists where it need not.
        """
        if between_epochs:
            return not self.stateful
        return (
            self.stateful
            and self.sized
            and self.accumulate == 1
            and self.save_hook == "on_train_batch_end"
        )


@dataclass
class Attempt:
    """How one call of `fit` begins, and where it raises."""

    kind: str  # "first", "again", "again from a checkpoint", or "resumed"
    raise_hook: str | None
    raise_at: int  # the number of calls of that hook before the exception


def draw_plan(seed: int) -> tuple[Plan, list[Attempt]]:
    """Draw a training and its interruptions."""
    rng = np.random.default_rng(seed)

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def number(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    batches, epochs = number(1, 9), number(2, 7)
    sized = chance(0.8)
    manual = chance(0.2)
    limit = number(1, 9) if chance(0.25) else None
    trained = min(batches, limit or batches)
    options: dict[str, Any] = {"num_sanity_val_steps": number(0, 1)}
    validated = chance(0.6)
    if validated and sized and chance(0.4):
        options["val_check_interval"] = number(1, trained)
    elif validated and chance(0.4):
        options["check_val_every_n_epoch"] = number(1, 3)
    elif not validated:
        options["limit_val_batches"] = 0
    if chance(0.15):
        options["min_epochs"] = number(1, epochs)
    stop = number(1, epochs) if chance(0.5) else None
    plan = Plan(
        seed=seed,
        batches=batches,
        sized=sized,
        stateful=chance(0.6),
        accumulate=1 if manual else (1, 1, 2, 3, 4)[number(0, 4)],
        manual=manual,
        as_dict=chance(0.3),
        # A stopper raises if no step of an epoch has a loss.
        skips=0.3 if stop is None and chance(0.5) else 0.0,
        ends_at=number(0, batches) if chance(0.15) else None,
        epochs=epochs,
        steps=number(2, epochs * trained) if chance(0.2) else None,
        limit=limit,
        window=number(1, 3),
        stop=stop,
        options=options,
        save_hook=HOOKS[number(0, len(HOOKS) - 1)] if chance(0.85) else "on_exception",
        save_every=number(1, 5),
    )
    kinds = ("again", "again from a checkpoint", "resumed", "resumed")
    attempts = []
    for place in range(number(1, 4)):
        kind = kinds[number(0, 3)] if place else "first"
        hook = (*HOOKS, "training_step")[number(0, len(HOOKS))] if chance(0.6) else None
        attempts.append(Attempt(kind, hook, number(0, epochs * trained)))
    return plan, attempts


class Loader:
    """Batches in the order of a plan. `position` is the number of batches of the epoch so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        rng = np.random.default_rng(plan.seed)
        self.data = torch.tensor(rng.normal(size=(plan.batches, 2, 3)), dtype=torch.float32)
        self.epoch, self.position = -1, plan.batches
        self.resumed = self.ran_out = False

    def __iter__(self) -> Iterator[torch.Tensor]:
        if not self.resumed or self.position >= len(self.data):
            self.epoch, self.position = self.epoch + 1, 0
        self.resumed = self.ran_out = False
        # The order of a loader without a state must not depend on how often it was iterated.
        key = [self.plan.seed, self.epoch if self.plan.stateful else 0]
        order = np.random.default_rng(key).permutation(len(self.data))
        while self.position < len(self.data):
            self.position += 1
            yield self.data[order[self.position - 1]]
        self.ran_out = True


def state_dict(self: Loader) -> dict[str, int]:
    return {"epoch": self.epoch, "position": self.position}


def load_state_dict(self: Loader, state: dict[str, int]) -> None:
    self.epoch, self.position, self.resumed = state["epoch"], state["position"], True


def make_loader(plan: Plan) -> Loader:
    """Return a loader that has exactly the methods that the plan gives it."""
    methods: dict[str, Any] = {}
    if plan.sized:
        methods["__len__"] = lambda self: self.plan.batches
    if plan.stateful:
        methods |= {"state_dict": state_dict, "load_state_dict": load_state_dict}
    return type("DrawnLoader", (Loader,), methods)(plan)  # type: ignore[no-any-return]


class ChosenError(Exception):
    """The exception of a plan."""


class Net(pl.LightningModule):
    """Learns the sum of its inputs. Each loss depends on all earlier steps."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.automatic_optimization = not plan.manual
        torch.manual_seed(plan.seed)
        self.layer = torch.nn.Linear(3, 1)
        self.returned: float | None = None  # the newest loss
        self.ended = False  # whether `on_train_batch_start` ended the epoch
        self.raise_hook: str | None = None
        self.calls_left = 0

    def may_raise(self, hook: str) -> None:
        if hook == self.raise_hook:
            self.calls_left -= 1
            if self.calls_left < 0:
                self.raise_hook = None
                raise ChosenError

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.layer(batch) - batch.sum(1, keepdim=True)).square().mean()

    def on_train_epoch_start(self) -> None:
        self.ended = False
        self.may_raise("on_train_epoch_start")

    def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> int | None:
        self.may_raise("on_train_batch_start")
        self.ended = batch_idx == self.plan.ends_at and self.current_epoch % 3 == 1
        return -1 if self.ended else None

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        loss = self._loss(batch)
        self.returned = None
        self.may_raise("training_step")
        # Decided by the data, so that a repeated batch is decided alike.
        if float(batch[0, 0].frac().abs()) < self.plan.skips:
            return None
        self.returned = float(loss.detach())
        if self.plan.manual:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss, "more": batch_idx} if self.plan.as_dict else loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.may_raise("on_train_batch_end")

    def on_validation_start(self) -> None:
        self.may_raise("on_validation_start")

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch))

    def on_validation_end(self) -> None:
        self.may_raise("on_validation_end")

    def on_train_epoch_end(self) -> None:
        self.may_raise("on_train_epoch_end")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Tape(pl.Callback):
    """Notes the loss of each trained batch by epoch. Checkpoints contain the notes so far."""

    def __init__(self, plan: Plan, loader: Loader) -> None:
        self.plan, self.loader = plan, loader
        self.losses: dict[int, list[float | None]] = {}
        self.complete: set[int] = set()

    def state_dict(self) -> dict[str, Any]:
        losses = {epoch: list(losses) for epoch, losses in self.losses.items()}
        return {"losses": losses, "complete": sorted(self.complete)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = {epoch: list(losses) for epoch, losses in state["losses"].items()}
        self.complete = set(state["complete"])

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Forget the epoch, which begins with its first batch, and all later ones."""
        for epoch in range(trainer.current_epoch, self.plan.epochs):
            self.losses.pop(epoch, None)
            self.complete.discard(epoch)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        losses = self.losses.setdefault(trainer.current_epoch, [])
        losses.append(module.returned)
        ends = [self.plan.batches] if self.plan.sized else []
        if self.plan.limit is not None:
            ends.append(self.plan.limit)
        # Lightning may notice only after the last batch that a loader without a length has ended.
        if len(losses) in ends or (not self.plan.sized and self.loader.ran_out):
            self.complete.add(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if self.losses.get(trainer.current_epoch) and (module.ended or self.loader.ran_out):
            self.complete.add(trainer.current_epoch)

    @property
    def is_between_epochs(self) -> bool:
        return self.losses.keys() <= self.complete

    def epoch_losses(self) -> dict[int, float]:
        """Return epoch -> mean loss, for the complete epochs that have any loss."""
        means = {}
        for epoch in sorted(self.complete):
            losses = [loss for loss in self.losses[epoch] if loss is not None]
            if losses:
                means[epoch] = math.fsum(losses) / len(losses)
        return means

    @property
    def epochs_completed(self) -> int:
        return max(self.complete, default=-1) + 1


@dataclass
class Saves(pl.Callback):
    """Saves a checkpoint at each `every`-th call of one hook."""

    folder: Path
    hook: str
    every: int
    calls: int = 0
    between_epochs: dict[Path, bool] = field(default_factory=dict)  # of each checkpoint

    def save(self, trainer: Any) -> None:
        if trainer.sanity_checking:
            return
        self.calls += 1
        if self.calls % self.every == 0 or self.hook == "on_exception":
            path = self.folder / f"{len(self.between_epochs)}.ckpt"
            trainer.save_checkpoint(path)
            [tape] = (callback for callback in trainer.callbacks if isinstance(callback, Tape))
            self.between_epochs[path] = tape.is_between_epochs


def _saving(hook: str) -> Callable[..., None]:
    def save(self: Saves, trainer: Any, *_: Any, **__: Any) -> None:
        if self.hook == hook:
            self.save(trainer)

    return save


for _hook in (*HOOKS, "on_exception"):
    setattr(Saves, _hook, _saving(_hook))


class Run:
    """A drawn training in its folder, and the comparisons after each of its attempts."""

    def __init__(self, plan: Plan, folder: Path, tally: Tally) -> None:
        self.plan, self.folder, self.tally = plan, folder, tally
        self.saves = Saves(folder / "checkpoints", plan.save_hook, plan.save_every)
        self.is_exact = True  # whether the losses must be those of an uninterrupted run
        self.history: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Create everything that a new process would create."""
        plan = self.plan
        self.loader, self.module = make_loader(plan), Net(plan)
        self.monitor = SoTLMonitor(window=(1, plan.window) if plan.window > 1 else 1)
        self.tape = Tape(plan, self.loader)
        callbacks: list[Any] = [self.tape, self.monitor]
        self.stopper = None
        if plan.stop is not None:
            self.stopper = EarlyRankingStopper(stop_epoch=plan.stop)
            callbacks.append(self.stopper)
        self.trainer = trainer(
            self.folder,
            callbacks=[*callbacks, self.saves],
            logger=pl.loggers.CSVLogger(self.folder / "logs"),
            enable_checkpointing=True,
            max_epochs=plan.epochs,
            max_steps=plan.steps or -1,
            accumulate_grad_batches=plan.accumulate,
            limit_train_batches=1.0 if plan.limit is None else plan.limit,
            **plan.options,
        )

    def fit(self, attempt: Attempt, rng: np.random.Generator) -> None:
        """Train, until the end or the exception of the attempt."""
        checkpoints = list(self.saves.between_epochs)
        if attempt.kind in ("resumed", "again from a checkpoint") and not checkpoints:
            return
        path = None
        if attempt.kind in ("resumed", "again from a checkpoint"):
            path = checkpoints[int(rng.integers(len(checkpoints)))]
            self.is_exact &= self.plan.resumes_exactly(self.saves.between_epochs[path])
        elif attempt.kind == "again":
            self.is_exact = False
        if attempt.kind == "resumed":
            self.begin()
        self.module.raise_hook, self.module.calls_left = attempt.raise_hook, attempt.raise_at
        validation = DataLoader(torch.ones(2, 4, 3), batch_size=None)
        try:
            self.trainer.fit(self.module, self.loader, validation, ckpt_path=path, **SAFELY)
            outcome = "ended"
        except ChosenError:
            outcome = f"raised in {attempt.raise_hook}"
        self.tally.count(f"fits: {attempt.kind}")
        self.tally.count(f"fits that {outcome.split()[0]}")
        self.history.append(f"{attempt.kind}{f' from {path.name}' if path else ''}: {outcome}")
        self.compare()

    @property
    def tolerance(self) -> float:
        """The relative tolerance: Lightning divides a loss, which is exact by a power of two."""
        return 1e-6 if self.plan.accumulate == 3 else 1e-12

    def expect(self, what: str, found: Any, expected: Any) -> None:
        self.tally.count("comparisons")
        if not is_close(found, expected, self.tolerance):
            self.tally.fault(
                f"seed {self.plan.seed}: {what}: {found}, not {expected}; {'; '.join(self.history)}"
            )

    def compare(self) -> None:
        """Compare the results of the callbacks and the record with the tape."""
        losses, completed = self.tape.epoch_losses(), self.tape.epochs_completed
        self.expect("L(e)", self.monitor.epoch_losses, losses)
        estimates = {}
        if completed and losses.keys() == set(range(completed)):
            estimates["sotl"] = math.fsum(losses.values())
        for window in {1, self.plan.window}:
            units = range(completed - window, completed)
            if completed and all(unit in losses for unit in units):
                estimates[f"sotl_e{window}"] = math.fsum(losses[unit] for unit in units)
        self.expect("estimates", self.monitor.estimates, estimates)
        if self.stopper is not None and self.stopper.stopping_reason in (
            StoppingReason.stop_epoch_reached,
            StoppingReason.already_stopped,
        ):
            self.tally.count("stops")
            self.expect("epochs at the stop", self.stopper.epochs_completed, completed)
            self.expect("estimate of the stop", self.stopper.estimate, estimates.get("sotl_e1"))
        path = self.monitor.record_path
        if path is not None and losses:
            # A resume from an earlier checkpoint of a run that had ended makes another run, unless
            # its losses are the same.
            rows = read_logs(self.folder / "logs", LogKeys()).curves.train_loss[:, :completed]
            records = [{e: row[e] for e in losses if e < len(row)} for row in rows.tolist()]
            matches = [record for record in records if is_close(record, losses, self.tolerance)]
            self.expect("record", (matches or records)[-1], losses)

    def compare_with(self, whole: Run) -> None:
        """Compare the losses with those of an uninterrupted run."""
        found, expected = self.tape.epoch_losses(), whole.tape.epoch_losses()
        self.tally.count("runs compared with an uninterrupted run")
        self.expect("uninterrupted L(e)", found, {e: expected.get(e) for e in found})


def is_close(found: Any, expected: Any, tolerance: float) -> bool:
    """Return whether two results have the same keys, and numbers within a relative tolerance."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            is_close(found[key], expected[key], tolerance) for key in expected
        )
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=tolerance)


def run_one(seed: int, tally: Tally) -> None:
    """Train and compare the run of one seed."""
    plan, attempts = draw_plan(seed)
    rng = np.random.default_rng([seed, 1])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(plan, Path(folder, "run"), tally)
        for attempt in attempts:
            run.fit(attempt, rng)
        tally.count("runs")
        if len(run.history) > 1 and run.is_exact:
            whole = Run(replace(plan, stop=None), Path(folder, "whole"), tally)
            whole.fit(Attempt("first", None, 0), rng)
            run.compare_with(whole)


def campaign(seeds: range) -> Tally:
    """Train and compare the runs of several seeds."""
    tally = Tally()
    for seed in seeds:
        with contextlib.redirect_stdout(None):
            run_one(seed, tally)
    return tally


def main() -> int:
    """Run the campaign, and print its counts and faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first run")
    parser.add_argument("--runs", type=int, default=2000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning", "lightning_sotl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    begun = time.monotonic()
    tally = campaign(range(arguments.seed, arguments.seed + arguments.runs))
    print(f"random-runs ({time.monotonic() - begun:.0f} s)")
    for what, value in tally.rows():
        print(f"  {what:<48}{value}")
    for fault in tally.faults:
        print(f"  FAULT {fault}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
