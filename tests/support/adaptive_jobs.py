"""A loop over the runs of an adaptive sweep. test_restarted_sweeps.py starts it as a script.

    python -m tests.support.adaptive_jobs FOLDER SHIFT LEVELS [--resume] [--kill LEVEL EPOCH]

The loss of a run in epoch e is its level + SHIFT + 1 / (e + 1). The script prints the level and
the number of completed epochs of each run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import loader, scripted_model, trainer

POLICY = AdaptivePolicy(max_epochs=12, keep=0.5, first=2)


def curve(level: float, shift: float = 0.0) -> list[float]:
    """Return L(e) of a run."""
    return [level + shift + 1.0 / (epoch + 1) for epoch in range(POLICY.max_epochs)]


def main() -> None:
    """Train the runs. With `--kill`, the process kills itself at the start of that epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("shift", type=float)
    parser.add_argument("levels", type=float, nargs="+")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill", type=float, nargs=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for level in options.levels:

        def loss(epoch: int, batch: int, level: float = level) -> float:
            if options.kill == [level, epoch]:
                os.kill(os.getpid(), signal.SIGKILL)
            return curve(level, options.shift)[epoch]

        epochs = train(options.folder, level, loss, resume=options.resume)
        sys.stdout.write(f"{level} {epochs}\n")


def train(folder: Path, level: float, loss: Any, *, resume: bool) -> int:
    """Train a run and return its number of completed epochs."""
    model = scripted_model(loss=loss)
    model.save_hyperparameters({"level": level})
    home = folder / f"level_{level}"
    newest = home / "newest.ckpt"
    saves = pl.callbacks.ModelCheckpoint(home, "newest", enable_version_counter=False)
    stopper = EarlyRankingStopper(policy=POLICY, directory=folder)
    run = trainer(
        home,
        callbacks=[SoTLMonitor(), stopper, saves],
        logger=pl.loggers.CSVLogger(folder, name=f"level_{level}"),
        max_epochs=POLICY.max_epochs,
        enable_checkpointing=True,
    )
    run.fit(model, loader(2), ckpt_path=newest if resume and newest.exists() else None)
    return int(run.current_epoch)


if __name__ == "__main__":
    main()
