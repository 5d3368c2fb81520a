"""A reporter's arguments, and what of its reports goes into a checkpoint."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import optuna

from lightning_sotl import _validation
from lightning_sotl._ranks import Mode, check_mode
from lightning_sotl.callbacks.run_bound import RunBound
from lightning_sotl.integrations.optuna_direction import sign_of
from lightning_sotl.integrations.optuna_restart import process_key
from lightning_sotl.integrations.optuna_storage import patiently
from lightning_sotl.integrations.process_identity import own_identity
from lightning_sotl.monitor_name import parse_monitor


class ReporterState(RunBound["ReporterState"]):
    """Reports each available estimate to an Optuna trial and ends the run if it shall be pruned.

    The value after epochs 0 to e is reported once, at step e (or at the index of the block). A
    pruned run ends through `trainer.should_stop`, so its loggers and checkpoints are complete;
    call `finish()` after `fit`, and return what it returns from the objective. A run whose first
    estimate is not finite has diverged from the start and ends there. Rank 0 reports and decides,
    and all ranks stop together.

    A storage that fails during a report is tried three times within a second; the run then goes
    on with a warning, and the report is made with the next one or in `finish()`.

    Args:
        trial: The trial of a study with one objective. With several processes only rank 0 needs
            it, and the others may give None.
        monitor: The logged metric to report; any that is logged in training or validation steps
            will do, in the epochs in which it is logged anew. SoTL-E is lower-better and refuses
            a study that maximises.
        validation: A logged validation metric that `AdaptivePruner` shall look at too. It is noted
            with each report of an epoch in which it was logged anew; other pruners do not see it.
        validation_mode: "min" if lower is better, "max" if higher is; has to be said.

    Raises:
        TypeError: If `monitor` is no string.
        ValueError: If a mode is unknown, if the study has several objectives or maximises a sum of
            training losses; in `setup`, if rank 0 has no trial.

    Example:
        >>> import optuna
        >>> from lightning_sotl.integrations.optuna import OptunaReporter
        >>> OptunaReporter(optuna.create_study().ask()).monitor
        'sotl_e1'
    """

    _reported: dict[int, float]  # step -> value
    _pending: dict[int, float]  # the same, not in the storage yet
    _value: float | None
    _checkpoint: str | None
    _pruned: bool
    _hopeless: bool  # not finite from the start
    _reached_limit: bool
    _in_blocks: bool
    _shown_before: dict[str, Any]  # at the begin of the epoch
    _validations: dict[int, float]  # step -> value for the pruner, lower is better
    _to_compare: dict[int, float]  # what the study had before this run

    def __init__(
        self,
        trial: optuna.trial.BaseTrial | None,
        monitor: str = "sotl_e1",
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
        super().__init__()
        self.trial = trial
        self.monitor = _validation.text("monitor", monitor)
        self.validation = (
            validation if validation is None else _validation.text("validation", validation)
        )
        if validation is not None:
            check_mode("validation_mode", validation_mode)
        self.validation_mode = validation_mode
        self._worst = math.inf
        if isinstance(trial, optuna.Trial):
            self._worst = _sign_of(trial, monitor) * math.inf
            name = partial(trial.set_user_attr, process_key(trial.number), own_identity())
            patiently(name, otherwise=None)
        self._forget()

    @property
    def state_key(self) -> str:
        """The state belongs to the monitored name."""
        return f"OptunaReporter{{'monitor': {self.monitor!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Return what was reported and decided, in plain types."""
        return {
            "reported": self._reported,
            "pending": self._pending,
            "value": self._value,
            "pruned": self._pruned,
            "reached_limit": self._reached_limit,
            "checkpoint": self._checkpoint,
        }

    def _take_back(self, state: dict[str, Any]) -> None:
        self._reported, self._pending = dict(state["reported"]), dict(state["pending"])
        self._value, self._pruned = state["value"], state["pruned"]
        self._reached_limit, self._checkpoint = state["reached_limit"], state["checkpoint"]

    def _forget(self) -> None:
        self._reported = {}
        self._pending = {}
        self._value = None
        self._pruned = self._hopeless = self._reached_limit = False
        self._checkpoint = None
        self._in_blocks = False
        self._shown_before = {}
        self._validations = {}
        self._to_compare = {}


def _sign_of(trial: optuna.Trial, monitor: str) -> float:
    """Return the sign of the trial's study, in which the monitored value has a place.

    Raises:
        ValueError: If the study has several objectives, or maximises a sum of training losses.
    """
    sign = sign_of(
        trial.study,
        several=(
            ": Optuna cannot prune trials of several. Return `stopper.estimate` as one of the "
            "objectives instead."
        ),
    )
    if sign < 0 and parse_monitor(monitor) is not None:
        raise ValueError(
            f"Expected a study with direction='minimize' for monitor={monitor!r}, of which lower "
            "is better, but got 'maximize'."
        )
    return sign
