"""Ray Tune's schedulers as policies of a replay, without a cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_sotl._utils.extras import require
from lightning_sotl.policies.adaptive import Signal
from lightning_sotl.replay.policy import BasicRun, Observations, OneSignalPolicy, PolicyRun

require("ray.tune", extra="ray", purpose="replay its schedulers")

from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, TrialScheduler  # noqa: E402

ASHA, HYPERBAND = "ray-asha", "ray-hyperband"


@dataclass(frozen=True)
class RayPolicy(OneSignalPolicy):
    """One of Ray's schedulers, created anew for each repeat, with `max_epochs` as `max_t`.

    - `ray-asha` is the ASHAScheduler with its defaults (grace period 1, reduction factor 4, one
      bracket). A stopped run stays stopped. The scheduler receives each value in the call that
      decides about it. Among the values of one instant, it therefore knows only those of runs that
      started earlier.
    - `ray-hyperband` is the HyperBandScheduler with its default (reduction factor 3). It pauses the
      runs of a bracket until all have reached a rung. `stop_last_trials` is False, so that the last
      runs of each bracket train for `max_epochs`. Otherwise Ray ends them at the last rung, for
      example at 48, 45 or 27 of 50 epochs.

    Args:
        name: "ray-asha" or "ray-hyperband". Add "-val" to report validation values instead of
            training losses.

    Raises:
        ValueError: If there is no such scheduler.

    Examples:
        >>> RayPolicy("ray-asha").validated_from
        -1
    """

    def __post_init__(self) -> None:
        if self.stem not in (ASHA, HYPERBAND):
            raise ValueError(
                f"There is no policy {self.name!r}; available from Ray Tune: '{ASHA}' and "
                f"'{HYPERBAND}', also with the ending '-val'."
            )

    def begin(self, observations: Observations) -> PolicyRun:
        """Start a new scheduler on the runs of one repeat.

        Raises:
            ValueError: If the policy reports validation values and there are none.
        """
        self.check_signal(observations)
        options: dict[str, Any] = {
            "metric": "value",
            "mode": "min",
            "max_t": observations.max_epochs,
        }
        if self.stem == ASHA:
            return _SchedulerRun(observations, self.signal, ASHAScheduler(**options))
        scheduler = HyperBandScheduler(**options, stop_last_trials=False)
        return _HyperbandRun(observations, self.signal, scheduler)


class _Trial:
    """The attributes of a trial that the schedulers read.

    Hyperband also reads the status of the other trials of a bracket, and stops them.
    """

    is_saving = False

    def __init__(self, run: int) -> None:
        self.run = run
        self.trial_id = str(run)
        self.status = Trial.PENDING


class _Controller:
    """The methods of Tune's controller that Hyperband calls."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def stop_trial(self, trial: _Trial) -> None:
        """Stop a paused trial, as Tune's controller does."""
        self._scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED


class _SchedulerRun(BasicRun):
    def __init__(self, observations: Observations, signal: Signal, scheduler: Any) -> None:
        super().__init__(observations, signal)
        self._scheduler = scheduler
        self._controller = _Controller(scheduler)
        self._trials = [_Trial(run) for run in range(len(observations.epochs))]
        with _silent(), _preserved_global_generator():
            for trial in self._trials:
                scheduler.on_trial_add(self._controller, trial)

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        values = self._observations.curve(self._signal)
        answers = []
        for run, _ in reports:
            self._trials[run].status = Trial.RUNNING
        # Diverged runs have infinite values, and NumPy warns about their percentiles.
        with np.errstate(invalid="ignore"):
            for run, done in reports:
                result = {"training_iteration": done, "value": float(values[run, done - 1])}
                answers.append(self._report(self._trials[run], result))
        return answers

    def _report(self, trial: _Trial, result: dict[str, Any]) -> bool:
        """Return whether the trial continues at once."""
        action = self._scheduler.on_trial_result(self._controller, trial, result)
        if action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        is_complete = result["training_iteration"] == self._observations.max_epochs
        if action == TrialScheduler.STOP or is_complete:
            trial.status = Trial.TERMINATED  # as Tune's controller does
            self._scheduler.on_trial_complete(self._controller, trial, result)
        return bool(action == TrialScheduler.CONTINUE)


class _HyperbandRun(_SchedulerRun):
    def resume(self) -> Sequence[int]:
        resumed: list[int] = []
        while trial := self._scheduler.choose_trial_to_run(self._controller):
            trial.status = Trial.RUNNING  # otherwise the scheduler chooses it again
            resumed.append(trial.run)
        return resumed


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress Hyperband's log line for every bracket that `max_epochs` does not allow."""
    logger = logging.getLogger(HyperBandScheduler.__module__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _preserved_global_generator() -> Iterator[None]:
    """Restore NumPy's global generator, from which the scheduler draws a bracket for each trial."""
    state = np.random.get_state()  # noqa: NPY002 - Ray draws from it
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
