"""Ray Tune's own ASHA scheduler as a policy of a replay, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lightning_sotl._utils.extras import require
from lightning_sotl.policies.adaptive import Signal
from lightning_sotl.replay.policy import (
    Observations,
    PolicyRun,
    StopsForGood,
    check_signal,
    split_signal,
    validated_from,
)

require("ray.tune", extra="ray", purpose="replay its scheduler")

from ray.tune.schedulers import ASHAScheduler, TrialScheduler  # noqa: E402

NAME = "ray-asha"


@dataclass(frozen=True)
class RayPolicy:
    """Ray's ASHAScheduler with its defaults (grace period 1, reduction factor 4, one bracket).

    It must know E, its `max_t`. A stopped run stays stopped. It is told of a value in the call that
    decides, so of those of one instant it knows the ones of runs that started before. A new
    scheduler is made for every repeat.

    Args:
        name: "ray-asha", or "ray-asha-val" if validation values are reported in place of training
            losses.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> RayPolicy("ray-asha").validated_from
        -1
    """

    name: str

    def __post_init__(self) -> None:
        if split_signal(self.name)[0] != NAME:
            raise ValueError(
                f"There is no policy {self.name!r}; of Ray Tune there is '{NAME}', also with the "
                "ending '-val'."
            )

    @property
    def validated_from(self) -> int:
        """By the curve that is reported: training losses cost no validation before the end."""
        return validated_from(split_signal(self.name)[1])

    def begin(self, seen: Observations) -> PolicyRun:
        """Return a new scheduler that decides.

        Raises:
            ValueError: If there are no validation values and the policy reports them.
        """
        signal = split_signal(self.name)[1]
        check_signal(self.name, signal, seen)
        scheduler = ASHAScheduler(metric="value", mode="min", max_t=seen.max_epochs)
        return _InAScheduler(seen, signal, scheduler)


class _InAScheduler(StopsForGood):
    def __init__(self, seen: Observations, signal: Signal, scheduler: Any) -> None:
        super().__init__(seen, signal)
        self._scheduler = scheduler
        # All that the scheduler reads of a trial.
        self._trials = [SimpleNamespace(trial_id=str(run)) for run in range(len(seen.epochs))]
        with _global_generator_kept():
            for trial in self._trials:
                scheduler.on_trial_add(None, trial)

    def goes_on(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        values = self._seen.curve(self._signal)
        answers = []
        # Percentiles of infinite values, those of diverged runs, are NaN with a warning.
        with np.errstate(invalid="ignore"):
            for run, done in reports:
                result = {"training_iteration": done, "value": float(values[run, done - 1])}
                trial = self._trials[run]
                action = self._scheduler.on_trial_result(None, trial, result)
                if action == TrialScheduler.STOP:  # as Tune's controller does it
                    self._scheduler.on_trial_complete(None, trial, result)
                answers.append(action != TrialScheduler.STOP)
        return answers


@contextmanager
def _global_generator_kept() -> Iterator[None]:
    """Let the scheduler draw a trial's bracket (of one) without moving NumPy's global generator."""
    state = np.random.get_state()  # noqa: NPY002 - Ray draws from it
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
