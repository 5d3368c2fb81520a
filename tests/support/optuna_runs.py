"""Storages, and real runs with a reporter, that the tests of Optuna share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import optuna

from tests.support.helpers import PACKAGES, door, loader, scripted_model, trainer

NEVER = optuna.pruners.NopPruner()


def storage(kind: str, folder: Path) -> Any:
    """Return a new storage, or the one that the folder has already."""
    if kind == "memory":
        return optuna.storages.InMemoryStorage()
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/study.log")
    return optuna.storages.JournalStorage(backend)


def optuna_door(package: str = PACKAGES[0]) -> Any:
    """Return our module for Optuna; a process imports only the package that it needs."""
    name = "optuna_lightning" if package == "lightning.pytorch" else "optuna"
    return importlib.import_module(f"lightning_sotl.integrations.{name}")


def fit(
    folder: Path,
    trial: Any,
    *callbacks: Any,
    package: str = PACKAGES[0],
    model: Any = None,
    first: bool = True,
    **options: Any,
) -> tuple[Any, Any]:
    """Fit a run that reports to a trial; return the reporter and the model.

    Args:
        folder: Where the run writes.
        trial: The trial.
        *callbacks: Further ones, behind the monitor.
        package: Which Lightning.
        model: By default a scripted one.
        first: Whether the reporter stands before all other callbacks, or behind them.
        **options: The Trainer's, and `ckpt_path`.
    """
    reporter = optuna_door(package).OptunaReporter(trial)
    others = [door(package).SoTLMonitor(), *callbacks]
    listed = [reporter, *others] if first else [*others, reporter]
    model = model or scripted_model(package)
    ckpt_path = options.pop("ckpt_path", None)
    trainer(folder, package, callbacks=listed, **options).fit(model, loader(4), ckpt_path=ckpt_path)
    return reporter, model
