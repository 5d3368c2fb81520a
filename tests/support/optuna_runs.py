"""Storages, pruners and real runs with a reporter, which the tests of Optuna share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import optuna
from pytorch_lightning import Callback

from tests.support.helpers import PACKAGES, door, loader, scripted_model, trainer

NEVER_PRUNES = optuna.pruners.NopPruner()


class PrunesFrom(optuna.pruners.BasePruner):
    """Prunes at and after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step is not None and trial.last_step >= self.step


class PrunesOnlyAt(optuna.pruners.BasePruner):
    """Prunes at one step, or never, and stores the steps at which it was asked."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self.asked: list[int | None] = []

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.asked.append(trial.last_step)
        return trial.last_step == self.step


class LogsScore(Callback):
    """Logs the metric "score", 100 + e, in the validation of epoch e."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("score", 100.0 + trainer.current_epoch)


def storage(kind: str, folder: Path) -> Any:
    """Return the storage in a folder. Create it if it does not exist."""
    if kind == "memory":
        return optuna.storages.InMemoryStorage()
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/study.log")
    return optuna.storages.JournalStorage(backend)


def optuna_door(package: str = PACKAGES[0]) -> Any:
    """Return our Optuna module for a Lightning package."""
    name = "optuna_lightning" if package == "lightning.pytorch" else "optuna"
    return importlib.import_module(f"lightning_sotl.integrations.{name}")


def fit(
    folder: Path,
    trial: Any,
    *callbacks: Any,
    package: str = PACKAGES[0],
    model: Any = None,
    reporter_first: bool = True,
    **options: Any,
) -> tuple[Any, Any]:
    """Fit a run that reports to a trial; return the reporter and the model.

    Args:
        folder: The folder of the run.
        trial: The trial.
        *callbacks: Further callbacks, after the monitor.
        package: The Lightning package.
        model: The module; a scripted model by default.
        reporter_first: Whether the reporter is the first callback, or else the last.
        **options: Arguments of the Trainer, and `ckpt_path`.
    """
    reporter = optuna_door(package).OptunaReporter(trial)
    others = [door(package).SoTLMonitor(), *callbacks]
    ordered = [reporter, *others] if reporter_first else [*others, reporter]
    model = model or scripted_model(package)
    ckpt_path = options.pop("ckpt_path", None)
    run = trainer(folder, package, callbacks=ordered, **options)
    run.fit(model, loader(4), ckpt_path=ckpt_path)
    return reporter, model
