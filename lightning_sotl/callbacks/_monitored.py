"""A logged metric that a callback reads by name, and messages for when it is missing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks._trainer import Module, Trainer, is_same_value
from lightning_sotl.callbacks.monitor import SoTLMonitor, monitors_of
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.metric import SumOfTrainingLosses


class MonitoredMetric:
    """A logged metric that a stopper or a reporter reads.

    Args:
        trainer: The Trainer.
        name: The logged name.
        argument: The user's argument that contains the name, for messages.

    Attributes:
        monitor: The SoTLMonitor that logs the metric, or None if none of them logs it.
        counts_blocks: Whether it is logged after blocks of training batches instead of epochs.
    """

    def __init__(self, trainer: Trainer, name: str, argument: str = "monitor") -> None:
        self.name = name
        producers = [other for other in monitors_of(trainer) if name in other.metric_names]
        self.monitor: SoTLMonitor | None = producers[0] if producers else None
        self.counts_blocks = (
            self.monitor is not None and self.monitor.every_n_train_batches is not None
        )
        # A stopper may outlive its run. It must not keep the Trainer and the model alive.
        self._trainer: Callable[[], Trainer] = weakref.ref(trainer)
        self._argument = argument
        self._marked: Any = None

    @property
    def value(self) -> float | None:
        """The newest value, or None if there is no value."""
        shown = self._shown
        return None if shown is None else float(shown)

    @property
    def is_new(self) -> bool:
        """Whether the metric was logged since `mark` was called.

        Lightning keeps the values of earlier epochs in `callback_metrics`.
        """
        return self._shown is not None and not is_same_value(self._shown, self._marked)

    def mark(self) -> None:
        """Mark the present value as not new."""
        self._marked = self._shown

    @property
    def units_completed(self) -> int | None:
        """The number of completed epochs (or blocks), or None if no SoTLMonitor logs the metric."""
        return None if self.monitor is None else self.monitor.units_completed

    def lags(self, epochs: int) -> bool:
        """Return whether a SoTLMonitor that counts epochs has not completed `epochs` epochs.

        After some resumes, Lightning ends an epoch without training any of its batches.
        """
        completed = self.units_completed
        return not self.counts_blocks and completed is not None and completed < epochs

    @property
    def batches_completed(self) -> int:
        """The number of training batches per rank in completed blocks, or 0 with epochs."""
        return 0 if self.monitor is None else self.monitor.batches_completed

    @property
    def is_between_units(self) -> bool:
        """Whether no step was trained since the newest completed epoch (or block).

        True if no SoTLMonitor logs the metric.
        """
        return self.monitor is None or self.monitor.is_between_units

    @property
    def completes_block_next(self) -> bool:
        """Whether the next batch is the last of a block."""
        return self.monitor is not None and self.monitor.completes_block_next

    def refuse_unknown(self, pl_module: Module) -> None:
        """Raise before training if the metric will certainly not be logged.

        This is certain only for names that equal or resemble an estimate's name. It is never
        certain if the module contains a SumOfTrainingLosses, with which it may log the estimate.

        Raises:
            RuntimeError: If no SoTLMonitor of this Trainer logs the estimate. The message lists the
                names that they log.
        """
        holds_metric = any(isinstance(part, SumOfTrainingLosses) for part in pl_module.modules())
        if self.monitor is None and not holds_metric and (advice := self._advice()):
            raise RuntimeError(
                f"Expected `{self._argument}` to be a metric that this Trainer logs but got "
                f"{self.name!r}.{advice}"
            )

    def refuse_lossless(self) -> None:
        """Raise after an epoch (or block) if no training step has returned a loss so far.

        Raises:
            RuntimeError: If a SoTLMonitor should log the metric but receives no losses.
        """
        if self.monitor is not None and self.monitor.lacks_losses:
            raise RuntimeError(
                f"`{self._argument}={self.name!r}` cannot have a value because no training step "
                "returned a loss. Return the loss from `training_step`, alone or in a dictionary "
                f"under the key {self.monitor.loss_key!r}, also under manual optimization. Or set "
                f"`{self._argument}` to a metric that the module logs."
            )

    def explain_missing(self, problem: str = "is not logged; available") -> str:
        """Return a message that lists the logged metrics and explains how to get this one."""
        logged = quote_all(list(self._trainer().callback_metrics))
        return f"`{self._argument}={self.name!r}` {problem}: {logged}.{self._advice()}"

    def warn_of_earlier_value(self) -> None:
        """Warn if the metric was not logged in the epoch of the stop, for lack of a validation."""
        if self.monitor is None and self._shown is not None and not self.is_new:
            warn_user(
                f"The value of `{self.name}` at the stop is from an earlier epoch because the last "
                "epoch did not log it. Compare it only with runs that log it in the same epochs.",
            )

    @property
    def _shown(self) -> Any:
        return self._trainer().callback_metrics.get(self.name)

    def _advice(self) -> str:
        """Return why no monitor logs the metric, or "" if its name resembles no estimate's."""
        monitors = monitors_of(self._trainer())
        estimate = parse_monitor(self.name)
        prefixes = {"sotl", *(monitor.prefix for monitor in monitors)}
        names = [name for monitor in monitors for name in monitor.metric_names]
        is_estimate = estimate is not None and estimate.prefix in prefixes
        known = names or ["sotl", "sotl_e1"]
        if not is_estimate and not get_close_matches(self.name, known, cutoff=0.75):
            return ""
        if monitors:
            return f" The SoTLMonitor of this Trainer logs {quote_all(names)}."
        logged = "it" if is_estimate else "'sotl_e1'"
        return f" A SoTLMonitor logs {logged}, but this Trainer has no SoTLMonitor."
