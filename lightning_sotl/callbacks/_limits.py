"""Checks, before the first batch, that a Trainer can meet the limits of a stopper."""

from __future__ import annotations

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._trainer import Trainer
from lightning_sotl.callbacks.monitor import monitors_of


def check_limits(
    trainer: Trainer, metric: MonitoredMetric, stop_epoch: int | None, stop_batches: int | None
) -> None:
    """Raise for a limit at which no estimate can exist, and warn if the run cannot stop there.

    Raises:
        ValueError: If a limit is below the window, or if `stop_batches` is not a multiple of the
            block size of the estimate.
    """
    monitor = metric.monitor
    block = None if monitor is None else monitor.every_n_train_batches
    name, limit = ("stop_epoch", stop_epoch) if block is None else ("stop_batches", stop_batches)
    if stop_batches is not None:
        if block is None:
            in_blocks = [m for m in monitors_of(trainer) if m.every_n_train_batches is not None]
            raise ValueError(
                "Expected `monitor` to be an estimate over blocks, from a SoTLMonitor with "
                f"`every_n_train_batches`, because `stop_batches` is set, but got {metric.name!r}; "
                f"available: {quote_all([own for m in in_blocks for own in m.metric_names])}."
            )
        if stop_batches % block:
            raise ValueError(
                f"Expected `stop_batches` to be a multiple of the block size {block} but got "
                f"{stop_batches}."
            )
    needed = 0 if monitor is None else monitor.units_needed(metric.name) * (block or 1)
    if limit is not None and limit < needed:
        raise ValueError(
            f"Expected `{name}` to be at least {needed}, the first at which {metric.name!r} is "
            f"available, but got {limit}."
        )
    least = 0 if trainer.fast_dev_run else trainer.min_epochs or 0
    if stop_epoch is not None and stop_epoch < least:
        warn_user(
            f"`stop_epoch={stop_epoch}` is below the Trainer's `min_epochs={least}`, so the run "
            f"ends after {least} epochs."
        )
    budget = None if trainer.fast_dev_run else trainer.max_epochs  # fast_dev_run sets it to 1
    if stop_epoch is not None and budget is not None and 0 <= budget < stop_epoch:
        warn_user(
            f"`stop_epoch={stop_epoch}` is beyond `max_epochs={budget}`, so the run ends "
            "before reaching it. Set `max_epochs` to the full budget.",
        )
