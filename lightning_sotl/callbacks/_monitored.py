"""Which of a Trainer's callbacks are ours: the monitor behind a name, and the stoppers."""

from __future__ import annotations

from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks._trainer import (
    Trainer,
)
from lightning_sotl.callbacks.monitor import MonitorLogic, monitors_of
from lightning_sotl.losses.names import parse_monitor


def missing_monitor(trainer: Trainer, name: str) -> str:
    """Return a sentence on why no monitor logs `name`; empty if that is not an estimate's name."""
    monitors = monitors_of(trainer)
    estimate = parse_monitor(name)
    if estimate is None or estimate.prefix not in {"sotl", *(one.prefix for one in monitors)}:
        return ""
    if not monitors:
        return " A SoTLMonitor logs it, and this Trainer has none among its callbacks."
    names = quote_all([name for one in monitors for name in one.metric_names])
    return f" The SoTLMonitor of this Trainer logs {names}."


def producer_of(trainer: Trainer, name: str) -> MonitorLogic | None:
    """Return the monitor that logs `name`; None if it is a metric of the module's own."""
    return next((one for one in monitors_of(trainer) if name in one.metric_names), None)


def counts_blocks(trainer: Trainer, name: str) -> bool:
    """Return whether `name` is logged after blocks of training batches, and not after epochs."""
    producer = producer_of(trainer, name)
    return producer is not None and producer.every_n_train_batches is not None
