"""Which limits of a stopper a Trainer can meet: what is refused before the first batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Trainer
from lightning_sotl.callbacks.monitor import SoTLMonitor
from lightning_sotl.policies.adaptive import AdaptivePolicy


class HasLimits(Protocol):
    """The arguments of a stopper: one of the two limits, the monitored name, and a policy."""

    stop_epoch: int | None
    stop_batches: int | None
    monitor: str
    policy: AdaptivePolicy | None
    directory: str | Path | None


def check_limits(trainer: Trainer, monitors: Sequence[SoTLMonitor], stopper: HasLimits) -> None:
    """Refuse a limit at which the estimate cannot be there, and warn of one never reached.

    Raises:
        ValueError: If a limit is below the window, or `stop_batches` does not fit the blocks.
    """
    if stopper.stop_batches is not None:
        _check_stop_batches(monitors, stopper.stop_batches, stopper.monitor)
    for producer in monitors:
        if stopper.monitor in producer.metric_names:
            _check_window(producer, stopper)
    budget = None if trainer.fast_dev_run else trainer.max_epochs  # which fast_dev_run sets to 1
    if stopper.stop_epoch is not None and budget is not None and 0 <= budget < stopper.stop_epoch:
        warn_user(
            f"`stop_epoch={stopper.stop_epoch}` is beyond `max_epochs={budget}`, so the run ends "
            "before it. `max_epochs` is meant to be the full budget.",
        )


def _check_window(producer: SoTLMonitor, stopper: HasLimits) -> None:
    needed, block = producer.units_needed(stopper.monitor), producer.every_n_train_batches
    name, limit = "stop_epoch", stopper.stop_epoch
    if block is not None:
        name, limit, needed = "stop_batches", stopper.stop_batches, needed * block
    if limit is not None and limit < needed:
        raise ValueError(
            f"Expected `{name}` to be at least {needed}, where {stopper.monitor!r} is first "
            f"available, but got {limit}."
        )


def _check_stop_batches(monitors: Sequence[SoTLMonitor], stop_batches: int, monitor: str) -> None:
    in_blocks = [m for m in monitors if m.every_n_train_batches is not None]
    producers = [m for m in in_blocks if monitor in m.metric_names]
    if not producers:
        names = [name for m in in_blocks for name in m.metric_names]
        raise ValueError(
            "Expected `stop_batches` to come with the name of an estimate over blocks, from a "
            f"SoTLMonitor with `every_n_train_batches`, but got monitor={monitor!r}; "
            f"available: {', '.join(map(repr, names)) or 'nothing'}."
        )
    block = producers[0].every_n_train_batches
    if block is not None and stop_batches % block:
        raise ValueError(
            f"Expected `stop_batches` to be a multiple of the block size {block} but got "
            f"{stop_batches}."
        )
