"""Measures the cost of a turn of a `Sweep` besides its training, inside ONE process.

A turn makes a new Trainer, loads the run's checkpoint, trains, and saves a checkpoint. Between two
turns, the sweep reads the records and decides. The benchmark trains two sweeps on scikit-learn's
digits: the 16 networks of `digits_sweep.py`, and one large network with two learning rates. The
time from the start of an epoch to the end of its last batch or its validation counts as training,
and all other time as the cost of the turns. The first turn of a process is left out, because it
imports modules.

Claim: the cost is below 5 % of a turn that trains for a minute.
Time: about a minute on one core, 10 s with `--smoke`.

    python examples/benchmarks/turns.py
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from lightning_sotl import AdaptivePolicy, Sweep
from lightning_sotl.sweep.turn import Turn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _classifier import Classifier, quieten
from _digits import load_splits, seeded
from digits_sweep import ARCHITECTURES, Training

MINUTE = 60.0


class Clock(Callback):
    """Adds up the time inside epochs, in seconds."""

    def __init__(self) -> None:
        self.trained = 0.0
        self._begun = self._newest = 0.0

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self.close_epoch()
        self._begun = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self._newest = time.perf_counter()

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._newest = time.perf_counter()

    def close_epoch(self) -> None:
        """Add the time of the epoch that has ended."""
        self.trained += max(self._newest - self._begun, 0.0)
        self._begun = self._newest = 0.0


@dataclass
class Times:
    """The times of one sweep, by turn.

    Attributes:
        inside: Seconds inside epochs.
        outside: Seconds outside epochs.
        parameters: The numbers of parameters of the networks.
        megabytes: Size of the largest checkpoint.
    """

    inside: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    parameters: set[int] = field(default_factory=set)
    megabytes: float = 0.0


def measure(candidates: Sequence[dict[str, Any]], budget: int, folder: Path) -> Times:
    """Train a sweep and time its turns, each until the next one begins."""
    training, times = Training(load_splits(), budget=budget), Times()
    sweep = Sweep(folder, candidates, policy=AdaptivePolicy(max_epochs=budget, first=2))
    clock, before = Clock(), time.perf_counter()

    def train(turn: Turn) -> None:
        params = dict(turn.params)
        with seeded(0):
            model = Classifier(params["kind"], tuple(params["widths"]), params["learning_rate"])
            trainer = training.trainer(*turn.callbacks, clock)
            turn.fit(trainer, model, *training.loaders)
        times.parameters.add(sum(parameter.numel() for parameter in model.parameters()))

    for turn in sweep:
        if clock.trained:
            add_turn(times, clock, time.perf_counter() - before)
        clock.trained, before = 0.0, time.perf_counter()
        train(turn)
        clock.close_epoch()
        sizes = [path.stat().st_size for path in turn.directory.glob("*.ckpt")]
        times.megabytes = max(times.megabytes, *(size / 1e6 for size in sizes))
    add_turn(times, clock, time.perf_counter() - before)
    times.inside, times.outside = times.inside[1:], times.outside[1:]
    return times


def add_turn(times: Times, clock: Clock, seconds: float) -> None:
    """Add a turn that took `seconds` in all."""
    times.inside.append(clock.trained)
    times.outside.append(seconds - clock.trained)


def main() -> None:
    """Measure, and print one table and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few turns, for a quick check")
    arguments = parser.parse_args()
    quieten()
    logging.getLogger("lightning_sotl").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    small = [
        {"kind": kind, "widths": list(widths), "learning_rate": 3e-3}
        for kind, widths in ARCHITECTURES[:: 5 if arguments.smoke else 1]
    ]
    width = 64 if arguments.smoke else 2048
    large = [
        {"kind": "mlp", "widths": [width, width, width], "learning_rate": rate}
        for rate in (1e-3, 1e-4)
    ]
    print(f"{'parameters':>20} {'turns':>6} {'checkpoint MB':>14} {'s per turn':>10} {'median':>7}")
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, candidates, budget in (("digits", small, 12), ("large", large, 6)):
            times = measure(candidates, 4 if arguments.smoke else budget, Path(folder) / name)
            sizes = " to ".join(
                f"{n:,}" for n in sorted({min(times.parameters), max(times.parameters)})
            )
            costs.append((sizes, float(np.mean(times.outside))))
            print(
                f"{sizes:>20} {len(times.outside):6} {times.megabytes:14.1f} {costs[-1][1]:10.3f}"
                f" {np.median(times.outside):7.3f}"
            )
    print(
        "Saving, a new Trainer, loading and deciding take "
        + " and ".join(
            f"{seconds:.2f} s per turn with {sizes} parameters" for sizes, seconds in costs
        )
        + ", which is "
        + " and ".join(f"{seconds / MINUTE:.1%}" for _, seconds in costs)
        + " of a turn of one minute."
    )


if __name__ == "__main__":
    main()
