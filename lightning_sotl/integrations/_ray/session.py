"""Access to a trial's Ray Tune session. A run that Ray stops can finish cleanly."""

from __future__ import annotations

import threading
from typing import Any

from ray import tune
from ray.train._internal.session import get_session


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
