"""Access to the parts of Ray Tune that have no public API.

Only this file uses private names of Ray. Tests on a real Ray pin each of them.
"""

from __future__ import annotations

import threading
from typing import Any

from ray import tune
from ray.train._internal.session import get_session
from ray.tune.experiment import Trial
from ray.tune.experimental.output import ProgressReporter
from ray.tune.result import SHOULD_CHECKPOINT

__all__ = [
    "SHOULD_CHECKPOINT",
    "ProgressReporter",
    "in_trial",
    "pause_after_failed_reset",
    "pause_retried",
    "report",
]


def in_trial() -> bool:
    """Return whether this process runs a Ray Tune trial."""
    return get_session() is not None


class _WaitingJoin:
    """Replaces `join` of a trial's thread, and waits without a timeout if Ray has stopped it.

    To stop a trial, Ray raises SystemExit inside `report`, joins the trial's thread with a timeout
    of 0, and ends the process within milliseconds. The run would have no time to finish.
    """

    def __init__(self, join: Any) -> None:
        self._join = join
        self.waits = False

    def __call__(self, timeout: float | None = None) -> Any:
        return self._join(None if self.waits else timeout)


def report(metrics: dict[str, Any], checkpoint: Any) -> bool:
    """Report to Ray, and return whether Ray stops the trial.

    If so, Ray waits until the trial's function returns, and ignores further reports.
    """
    thread: Any = threading.current_thread()
    if not isinstance(thread.join, _WaitingJoin):
        thread.join = _WaitingJoin(thread.join)
    session: Any = get_session()
    thread.join.waits = True
    try:
        tune.report(metrics, checkpoint=checkpoint)
    except SystemExit as stop:
        if stop.code != 0:
            raise
        session.pause_reporting()  # another report would wait forever
        return True
    thread.join.waits = False
    return False


def pause_retried(tune_controller: Any, trial: Any) -> None:
    """Pause a trial that Ray is about to start again after a failure."""
    _controller(tune_controller)._set_trial_status(trial, Trial.PAUSED)


def pause_after_failed_reset(tune_controller: Any, trial: Any) -> None:
    """Pause a retried trial if the worker that it was about to reuse has died.

    Ray handles such a failure twice. The second time it ends the trial, whatever `max_failures` is,
    unless the trial is paused. Ray also still waits for the reset, and would never start the trial.
    """
    resetting: set[Any] = getattr(_controller(tune_controller), "_resetting_trials", set())
    if trial in resetting:
        resetting.remove(trial)
        pause_retried(tune_controller, trial)


def _controller(tune_controller: Any) -> Any:
    """Return the controller itself. Ray passes schedulers a wrapper that logs private access."""
    return getattr(tune_controller, "_tune_controller", tune_controller)
