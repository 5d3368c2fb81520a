"""Which of a Trainer's callbacks are ours: the monitor behind a name, and the stoppers."""

from __future__ import annotations

from lightning_sotl.callbacks.monitor import MonitorLogic, monitors_of
from lightning_sotl.callbacks.stopper import StopperLogic
from lightning_sotl.callbacks.trainer_facts import Trainer


def producer_of(trainer: Trainer, name: str) -> MonitorLogic | None:
    """Return the monitor that logs `name`; None if it is a metric of the module's own."""
    return next((one for one in monitors_of(trainer) if name in one.metric_names), None)


def counts_blocks(trainer: Trainer, name: str) -> bool:
    """Return whether `name` is logged after blocks of training batches, and not after epochs."""
    producer = producer_of(trainer, name)
    return producer is not None and producer.every_n_train_batches is not None


def stoppers_of(trainer: Trainer) -> list[StopperLogic]:
    """Return the stoppers."""
    return [callback for callback in trainer.callbacks if isinstance(callback, StopperLogic)]
