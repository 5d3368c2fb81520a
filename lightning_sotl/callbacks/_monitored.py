"""A logged metric by its name: its value, whether it is new, who logs it, why it is missing."""

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
    """A metric of a Trainer that a stopper or a reporter looks at.

    Args:
        trainer: The Trainer.
        name: The logged name.
        argument: The user's argument that holds the name, for messages.

    Attributes:
        monitor: The SoTLMonitor that logs it; None if the user's module does.
        counts_blocks: Whether it is logged after blocks of training batches and not after epochs.
    """

    def __init__(self, trainer: Trainer, name: str, argument: str = "monitor") -> None:
        self.name = name
        producers = [other for other in monitors_of(trainer) if name in other.metric_names]
        self.monitor: SoTLMonitor | None = producers[0] if producers else None
        self.counts_blocks = (
            self.monitor is not None and self.monitor.every_n_train_batches is not None
        )
        # A stopper that outlives its run must not keep the Trainer, and so the model, alive.
        self._trainer: Callable[[], Trainer] = weakref.ref(trainer)
        self._argument = argument
        self._marked: Any = None

    @property
    def value(self) -> float | None:
        """The newest value, or None if there is none."""
        shown = self._shown
        return None if shown is None else float(shown)

    @property
    def is_new(self) -> bool:
        """Whether it was logged since `mark` was called.

        Lightning keeps showing what was logged in an earlier epoch.
        """
        return self._shown is not None and not is_same_value(self._shown, self._marked)

    def mark(self) -> None:
        """Take note of the value that is shown now: it is not new."""
        self._marked = self._shown

    @property
    def units_completed(self) -> int | None:
        """Completed epochs (or blocks) by its SoTLMonitor; None if the module logs it."""
        return None if self.monitor is None else self.monitor.units_completed

    @property
    def batches_completed(self) -> int:
        """Training batches per rank in completed blocks; 0 if it is logged after epochs."""
        return 0 if self.monitor is None else self.monitor.batches_completed

    @property
    def is_between_units(self) -> bool:
        """Whether no loss has come since the newest completed unit; True for the module's own."""
        return self.monitor is None or self.monitor.is_between_units

    def refuse_unknown(self, pl_module: Module) -> None:
        """Raise before training if nobody will log the metric.

        This is certain only for the name of an estimate, or nearly that, and only if the module
        holds no SumOfTrainingLosses, with which it could log the estimate itself.

        Raises:
            RuntimeError: The message names what the Trainer's SoTLMonitors log.
        """
        holds_metric = any(isinstance(part, SumOfTrainingLosses) for part in pl_module.modules())
        if self.monitor is None and not holds_metric and (advice := self._advice()):
            raise RuntimeError(
                f"Expected `{self._argument}` to be a metric that this Trainer logs but got "
                f"{self.name!r}.{advice}"
            )

    def refuse_lossless(self) -> None:
        """Raise after an epoch (or block) in which no training step returned a loss.

        Raises:
            RuntimeError: If the metric is an estimate of training losses that never come.
        """
        if self.monitor is not None and self.monitor.lacks_losses:
            raise RuntimeError(
                f"`{self._argument}={self.name!r}` cannot have a value: no training step returned "
                "a loss. Return the loss from `training_step`, alone or as "
                f"{self.monitor.loss_key!r} of a dictionary, also under manual optimization; or "
                f"set `{self._argument}` to a metric that the module logs."
            )

    def explain_missing(self, problem: str = "is not logged; available") -> str:
        """Return a message that names what is logged, and how to get this metric."""
        logged = quote_all(list(self._trainer().callback_metrics))
        return f"`{self._argument}={self.name!r}` {problem}: {logged}.{self._advice()}"

    def warn_of_earlier_value(self) -> None:
        """Warn if the epoch of a stop has not logged the metric, for example no validation."""
        if self.monitor is None and self._shown is not None and not self.is_new:
            warn_user(
                f"The estimate `{self.name}` of this run is of an earlier epoch than its stop: "
                "it was not logged in the last one. Compare it only with runs that log it in the "
                "same epochs.",
            )

    @property
    def _shown(self) -> Any:
        return self._trainer().callback_metrics.get(self.name)

    def _advice(self) -> str:
        """Return why no monitor logs it; empty if the name is unlike any estimate's."""
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
        return f" A SoTLMonitor logs {logged}, and this Trainer has none among its callbacks."
