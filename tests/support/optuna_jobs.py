"""A sweep that a test starts in a separate process, which may kill itself.

    python optuna_jobs.py STORAGE FOLDER TRIALS [KILL_AT_TRIAL]

The process kills itself with SIGKILL in the second epoch of trial KILL_AT_TRIAL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations.optuna import OptunaReporter, requeue_interrupted
from tests.support.helpers import loader, scripted_model, trainer
from tests.support.optuna_runs import storage

STOP_EPOCH = 4


def open_study(kind: str, folder: Path) -> optuna.Study:
    """Return the study. Create it if it does not exist."""
    return optuna.create_study(
        storage=storage(kind, folder),
        study_name="sweep",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=os.getpid()),
        pruner=optuna.pruners.NopPruner(),
    )


def loss_of(trial_level: float, epoch: int, batch: int) -> float:
    """Return the loss of a step. It falls from epoch to epoch."""
    return trial_level + 4.0 / (epoch + 1) + batch / 8


def objective(folder: Path, trained: dict[int, list[int]], kill_at: int | None = None) -> Any:
    """Return an objective that resumes from the checkpoint of its trial, if there is one."""

    def train(trial: optuna.Trial) -> float:
        level = trial.suggest_float("level", 0.0, 1.0)

        def loss(epoch: int, batch: int) -> float:
            if trial.number == kill_at and (epoch, batch) == (1, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            return loss_of(level, epoch, batch)

        home = folder / f"trial_{trial.number}"
        model = scripted_model(loss=loss)
        saves = ModelCheckpoint(home, filename="newest", enable_version_counter=False)
        reporter = OptunaReporter(trial)
        callbacks = [SoTLMonitor(), EarlyRankingStopper(stop_epoch=STOP_EPOCH), reporter, saves]
        newest = home / "newest.ckpt"
        trainer(home, callbacks=callbacks, max_epochs=9, enable_checkpointing=True).fit(
            model, loader(3), ckpt_path=newest if newest.exists() else None
        )
        trained[trial.number] = sorted({epoch for epoch, _, _ in model.returned})
        return reporter.finish()

    return train


def sweep(kind: str, folder: Path, trials: int, kill_at: int | None = None) -> dict[int, list[int]]:
    """Run `trials` trials, the interrupted ones first; return trial -> the trained epochs."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, trained = open_study(kind, folder), {}
    requeue_interrupted(study)
    study.optimize(objective(folder, trained, kill_at), n_trials=trials)
    return trained


if __name__ == "__main__":
    where, count = Path(sys.argv[2]), int(sys.argv[3])
    sweep(sys.argv[1], where, count, int(sys.argv[4]) if len(sys.argv) > 4 else None)
