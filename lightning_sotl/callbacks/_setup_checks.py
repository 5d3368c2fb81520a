"""Checks before the first batch, with messages that name the fix."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks._trainer import MonitoringSchedule, Trainer, monitoring_schedule


def refuse_shared_names(names_of_monitors: Iterable[Iterable[str]]) -> None:
    """Raise if two monitors of a Trainer log the same name, because Lightning would average them.

    Raises:
        ValueError: If two monitors log the same name. The message lists the names.
    """
    counts = Counter(name for names in names_of_monitors for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            "Expected each SoTLMonitor of a Trainer to log different names but two of them log "
            f"{quote_all(twice)}. Give one of them another `prefix`."
        )


def warn_of_early_reads(trainer: Trainer, first_values: Mapping[str, int]) -> None:
    """Warn if EarlyStopping or ModelCheckpoint will fail because it reads a metric too early.

    Args:
        trainer: The Trainer, after its loaders are set up.
        first_values: Name -> number of training batches after which the metric has its first value.
    """
    if not math.isfinite(trainer.num_training_batches):
        return
    for callback in trainer.callbacks:
        name = str(getattr(callback, "monitor", None))
        problem = _problem(trainer, callback, first_values[name]) if name in first_values else None
        if problem:
            warn_user(f"{type(callback).__name__}(monitor={name!r}) {problem}")


def _problem(trainer: Trainer, callback: Any, first_value: int) -> str | None:
    """Return what is wrong with the first reading of a callback, or None if nothing is wrong."""
    schedule = monitoring_schedule(trainer, callback)
    if schedule is None:
        return None
    stops, at_epoch_end = schedule.is_early_stopping, schedule.at_epoch_end
    fix = f"Pass `{'check' if stops else 'save'}_on_train_epoch_end=True`."
    if stops and not at_epoch_end and not trainer.enable_validation:
        return f"reads its metric only after validation, but there is no validation. {fix}"
    epoch = trainer.num_training_batches
    if not schedule.raises_if_missing or (first := _first_read(trainer, schedule)) >= first_value:
        return None
    if not at_epoch_end and schedule.every_n_epochs * epoch >= first_value:
        return (
            "reads its metric after each validation. It will raise an error because the first "
            f"validation comes before an epoch is complete, so there is no value yet. {fix}"
        )
    fix = "strict=False" if stops else f"every_n_epochs={math.ceil(first_value / epoch)}"
    return (
        f"reads its metric after {first:.0f} batches. It will raise an error because the first "
        f"value is available after {first_value} batches. Pass `{fix}`."
    )


def _first_read(trainer: Trainer, schedule: MonitoringSchedule) -> float:
    """Return the number of batches after which a callback first reads its metric."""
    epoch = trainer.num_training_batches
    if schedule.at_epoch_end:
        return float(schedule.every_n_epochs * epoch)
    interval = trainer.val_check_batch
    if interval is None:  # validation by the clock
        return math.inf
    if trainer.check_val_every_n_epoch is None:
        return float(interval)
    epochs = math.lcm(schedule.every_n_epochs, trainer.check_val_every_n_epoch)
    return float((epochs - 1) * epoch + min(interval, epoch))
