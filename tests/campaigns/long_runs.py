"""Runs of very many steps: neither the memory nor the time per step may grow."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_sotl import SoTLMonitor
from tests.campaigns import forked
from tests.campaigns.tally import Tally
from tests.support.helpers import trainer

PARTS = 100
# Limits for the growth from the first tenth of a run to the last. They allow for the noise of a
# shared machine, and for the losses that a run keeps for each unit.
MORE_SECONDS, MORE_BYTES = 1.25, 2_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")


class Trivial(pl.LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Measure(pl.Callback):
    """Stores the time and the memory after each hundredth of the run."""

    def __init__(self, steps: int, *, traces: bool) -> None:
        self.every, self.traces = steps // PARTS, traces
        self.rows: list[tuple[float, int, int]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, i: int) -> None:
        if trainer.global_step % self.every == 0:
            self.note()

    def note(self) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        traced = tracemalloc.get_traced_memory()[0] if self.traces else 0
        self.rows.append((time.process_time(), resident, traced))


def train(folder: Path, steps: int, block: int | None, *, monitored: bool, traces: bool) -> None:
    measure = Measure(steps, traces=traces)
    epochs = 1 if block else steps // 200
    monitor = SoTLMonitor(window=(1, 5), ema_decay=0.9, every_n_train_batches=block)
    if traces:
        tracemalloc.start()
    run = trainer(
        folder,
        callbacks=[measure, *([monitor] if monitored else [])],
        logger=pl.loggers.CSVLogger(folder),
        max_epochs=epochs,
        log_every_n_steps=50,
    )
    run.fit(Trivial(), DataLoader(torch.ones(steps // epochs), batch_size=None))
    note = {"rows": measure.rows, "units": monitor.units_completed}
    (folder / "measured.json").write_text(json.dumps(note))


def campaign(folder: Path, steps: int) -> Tally:
    """Train `steps` steps in epochs and in blocks, and compare the last tenth with the first.

    Tracing memory makes a step four times as slow, so those runs have a tenth of the steps.
    """
    tally = Tally()
    kinds = {
        "epochs of 200": (None, True, False),
        "blocks of 100": (100, True, False),
        "epochs of 200, traced": (None, True, True),
        "blocks of 100, traced": (100, True, True),
        "without monitor, traced": (None, False, True),
    }
    for name, (block, monitored, traces) in kinds.items():
        home = folder / name.replace(" ", "-")
        home.mkdir(parents=True)
        count = steps // 10 if traces else steps
        job = partial(train, home, count, block, monitored=monitored, traces=traces)
        code = forked.ended(forked.fork(job, home / "log.txt"), 1800)
        tally.count("runs")
        if code != 0:
            tally.fault(f"{name}: exit code {code}: {(home / 'log.txt').read_text()[-500:]}")
            continue
        note = json.loads((home / "measured.json").read_text())
        report(name, np.array(note["rows"]), count, note["units"], traces, tally)
    return tally


def report(name: str, rows: Any, steps: int, units: int, traces: bool, tally: Tally) -> None:
    """Compare the last tenth of the run with the first, each by its fastest hundredth."""
    tenth = PARTS // 10
    seconds = np.diff(rows[:, 0]) / (steps / PARTS)
    first, last = seconds[:tenth].min(), seconds[-tenth:].min()
    resident, traced = rows[-1, 1:] - rows[tenth, 1:]
    text = f"{steps} steps, {units} units: "
    if traces:
        text += f"{traced / 1e3:+.0f} kB traced"
        tally.expect(f"{name}: kB more in traced memory", traced > MORE_BYTES, False)
    else:
        text += f"{first * 1e6:.0f} us per step at first, {last * 1e6:.0f} at last"
        tally.expect(f"{name}: slower", last > MORE_SECONDS * first, False)
        tally.expect(f"{name}: kB more in resident memory", resident > MORE_BYTES, False)
    tally.measures[name] = f"{text}, {resident / 1e3:+.0f} kB resident"
