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
from lightning_sotl.replay.policy import BasicRun, Observations, OneSignalPolicy, PolicyRun

require("ray.tune", extra="ray", purpose="replay its scheduler")

from ray.tune.schedulers import ASHAScheduler, TrialScheduler  # noqa: E402

NAME = "ray-asha"


@dataclass(frozen=True)
class RayPolicy(OneSignalPolicy):
    """Ray's ASHAScheduler with its defaults (grace period 1, reduction factor 4, one bracket).

    Its `max_t` is E. A stopped run stays stopped. The scheduler gets a value in the call that
    decides, so among the values of one instant it knows those of runs that started earlier. Every
    repeat has a new scheduler.

    Args:
        name: "ray-asha", or "ray-asha-val" to report validation values in place of training losses.

    Raises:
        ValueError: If the name is neither.

    Example:
        >>> RayPolicy("ray-asha").validated_from
        -1
    """

    def __post_init__(self) -> None:
        if self.stem != NAME:
            raise ValueError(
                f"There is no policy {self.name!r}; of Ray Tune there is '{NAME}', also with the "
                "ending '-val'."
            )

    def begin(self, observations: Observations) -> PolicyRun:
        """Start a new scheduler on the runs of one repeat.

        Raises:
            ValueError: If there are no validation values and the policy reports them.
        """
        self.check_signal(observations)
        scheduler = ASHAScheduler(metric="value", mode="min", max_t=observations.max_epochs)
        return _SchedulerRun(observations, self.signal, scheduler)


class _SchedulerRun(BasicRun):
    def __init__(self, observations: Observations, signal: Signal, scheduler: Any) -> None:
        super().__init__(observations, signal)
        self._scheduler = scheduler
        # The scheduler reads nothing else of a trial.
        self._trials = [
            SimpleNamespace(trial_id=str(run)) for run in range(len(observations.epochs))
        ]
        with _global_generator_kept():
            for trial in self._trials:
                scheduler.on_trial_add(None, trial)

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        values = self._observations.curve(self._signal)
        answers = []
        # Diverged runs have infinite values, and NumPy warns of their percentiles.
        with np.errstate(invalid="ignore"):
            for run, done in reports:
                result = {"training_iteration": done, "value": float(values[run, done - 1])}
                trial = self._trials[run]
                action = self._scheduler.on_trial_result(None, trial, result)
                if action == TrialScheduler.STOP:  # as Tune's controller does
                    self._scheduler.on_trial_complete(None, trial, result)
                answers.append(action != TrialScheduler.STOP)
        return answers


@contextmanager
def _global_generator_kept() -> Iterator[None]:
    """Restore NumPy's global generator, from which the scheduler draws each trial's bracket."""
    state = np.random.get_state()  # noqa: NPY002 - Ray draws from it
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
