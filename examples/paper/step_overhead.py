"""Measures how much Lightning and the monitor add to a training step of the benchmark's networks.

Three loops train the same networks on the same batches, in turns in one process: a bare PyTorch
loop, a Trainer with only the clock, and a Trainer that also has the SoTLMonitor. Times are
processor times of whole epochs without validation. The median over many epochs is least sensitive
to a busy machine.

Time: about 1 minute on 1 CPU core, 15 seconds with `--smoke`.

    python examples/paper/step_overhead.py [--seed 0] [--smoke]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from cell_training import (
    CellClassifier,
    EpochClock,
    build_network,
    load_images,
    make_optimizer,
    make_trainer,
    quieten,
    training_loss,
)
from image_tasks import ShuffledBatches
from recipes import RECIPE, SMOKE, SMOKE_RECIPE, Recipe, Run, plan_cells

from lightning_sotl import SoTLMonitor

Loop = Callable[[Recipe, Run, ShuffledBatches], list[float]]


class EpochTimes(EpochClock):
    """Keeps the processor time of each epoch's training separately."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []

    def _add(self, part: str) -> None:
        before = self.cpu[part]
        super()._add(part)
        self.epochs.append(self.cpu[part] - before)


def bare_loop(recipe: Recipe, run: Run, batches: ShuffledBatches) -> list[float]:
    """Train in a hand-written loop; return the processor time of each epoch."""
    network = build_network(recipe, run).train()
    optimizer = make_optimizer(network, recipe, run)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    seconds = []
    for _ in range(recipe.epochs):
        since = time.process_time()
        for batch in batches:
            loss = training_loss(network, batch, run)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.process_time() - since)
        schedule.step()
    return seconds


def lightning_alone(recipe: Recipe, run: Run, batches: ShuffledBatches) -> list[float]:
    """Train with a Trainer without the monitor; return the processor time of each epoch."""
    return _by_trainer(recipe, run, batches, [])


def lightning_with_monitor(recipe: Recipe, run: Run, batches: ShuffledBatches) -> list[float]:
    """Train with a Trainer and the monitor; return the processor time of each epoch."""
    return _by_trainer(recipe, run, batches, [SoTLMonitor(record=False)])


LOOPS: dict[str, Loop] = {
    "bare loop": bare_loop,
    "Lightning": lightning_alone,
    "with monitor": lightning_with_monitor,
}


def measure(recipe: Recipe, run: Run, *, rounds: int) -> dict[str, float]:
    """Return the milliseconds of a training step for each loop, as the median over epochs."""
    task = load_images(recipe)
    batches = ShuffledBatches(task.train, recipe.batch_size, shift=recipe.shift)
    epochs: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(rounds):
        for name, loop in LOOPS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run.seed)
                # The first epoch is a warm-up.
                epochs[name] += loop(recipe, run, batches)[1:]
    return {name: 1e3 * float(np.median(each)) / len(batches) for name, each in epochs.items()}


def main() -> None:
    """Measure each network, and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of networks and trainings")
    parser.add_argument("--smoke", action="store_true", help="2 networks, 2 epochs, digits")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    recipe, networks, rounds = dataclasses.replace(RECIPE, epochs=8), 8, 4
    if options.smoke:
        recipe, networks, rounds = SMOKE_RECIPE, 2, 1
    runs = plan_cells(dataclasses.replace(SMOKE, networks=networks, repeated=0), options.seed)

    print("milliseconds per step")
    print("parameters  " + "  ".join(f"{name:>12}" for name in LOOPS))
    measured = []
    for run in runs:
        steps = measure(recipe, run, rounds=rounds)
        parameters = sum(each.numel() for each in build_network(recipe, run).parameters())
        print(f"{parameters:10}  " + "  ".join(f"{each:12.3f}" for each in steps.values()))
        measured.append(list(steps.values()))
    bare, alone, monitored = np.mean(measured, axis=0)
    print(
        f"\nOver {len(runs)} networks, a step takes {bare:.2f} ms in a bare loop, "
        f"{alone / bare:.2f} times that in Lightning and {monitored / bare:.2f} times with the "
        f"monitor; the monitor adds {(monitored - alone) / bare:.0%} of a bare step."
    )


def _by_trainer(
    recipe: Recipe, run: Run, batches: ShuffledBatches, callbacks: list[SoTLMonitor]
) -> list[float]:
    clock = EpochTimes()
    trainer = make_trainer(recipe.epochs, [*callbacks, clock])
    trainer.fit(CellClassifier(build_network(recipe, run), recipe, run), batches)
    return clock.epochs


if __name__ == "__main__":
    main()
