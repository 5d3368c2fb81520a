"""What a turn of a `Sweep` costs beside its training, measured inside ONE process.

A turn makes a new Trainer, loads the run's checkpoint, trains, and saves a checkpoint; between two
turns the sweep reads the records and decides. Two sweeps on scikit-learn's digits are trained, the
16 networks of `digits_sweep.py` and one large network with two learning rates. The clock counts as
training what lies between the start of an epoch and the end of its last batch or of its validation,
and everything else as the cost of the turns, so both are measured on the same machine at the same
time. The first turn of a process is left out, since it imports modules.

Claim: a turn costs below 5 % of a turn that trains for a minute. Takes about a minute on one core;
`--smoke` 10 s.

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
    """Adds up the seconds inside epochs, over all turns."""

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
        """Count the epoch that is over."""
        self.trained += max(self._newest - self._begun, 0.0)
        self._begun = self._newest = 0.0


@dataclass
class Measured:
    """What one sweep has taken, by turn.

    Attributes:
        trained: Seconds inside epochs.
        beside: Seconds outside.
        parameters: Of each network.
        megabytes: Of the largest checkpoint.
    """

    trained: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    parameters: set[int] = field(default_factory=set)
    megabytes: float = 0.0


def measure(candidates: Sequence[dict[str, Any]], budget: int, folder: Path) -> Measured:
    """Train a sweep and time its turns, each to the moment at which the next one begins."""
    training, found = Training(load_splits(), budget=budget), Measured()
    sweep = Sweep(folder, candidates, policy=AdaptivePolicy(max_epochs=budget, first=2))
    clock, before = Clock(), time.perf_counter()

    def train(turn: Turn) -> None:
        params = dict(turn.params)
        with seeded(0):
            model = Classifier(params["kind"], tuple(params["widths"]), params["learning_rate"])
            trainer = training.trainer(*turn.callbacks, clock)
            turn.fit(trainer, model, *training.loaders)
        found.parameters.add(sum(parameter.numel() for parameter in model.parameters()))

    for turn in sweep:
        if clock.trained:
            note(found, clock, time.perf_counter() - before)
        clock.trained, before = 0.0, time.perf_counter()
        train(turn)
        clock.close_epoch()
        sizes = [path.stat().st_size for path in turn.directory.glob("*.ckpt")]
        found.megabytes = max(found.megabytes, *(size / 1e6 for size in sizes))
    note(found, clock, time.perf_counter() - before)
    found.trained, found.beside = found.trained[1:], found.beside[1:]
    return found


def note(found: Measured, clock: Clock, seconds: float) -> None:
    """Note a turn that took so many seconds in all."""
    found.trained.append(clock.trained)
    found.beside.append(seconds - clock.trained)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few turns: no numbers to quote")
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
    print(f"{'parameters':>20} {'turns':>6} {'checkpoint MB':>14} {'s a turn':>9} {'median':>7}")
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, candidates, budget in (("digits", small, 12), ("large", large, 6)):
            found = measure(candidates, 4 if arguments.smoke else budget, Path(folder) / name)
            sizes = " to ".join(
                f"{n:,}" for n in sorted({min(found.parameters), max(found.parameters)})
            )
            costs.append((sizes, float(np.mean(found.beside))))
            print(
                f"{sizes:>20} {len(found.beside):6} {found.megabytes:14.1f} {costs[-1][1]:9.3f}"
                f" {np.median(found.beside):7.3f}"
            )
    print(
        "Saving, a new Trainer, loading and deciding take "
        + " and ".join(
            f"{seconds:.2f} s a turn with {sizes} parameters" for sizes, seconds in costs
        )
        + ", which is "
        + " and ".join(f"{seconds / MINUTE:.1%}" for _, seconds in costs)
        + " of a turn of one minute."
    )


if __name__ == "__main__":
    main()
