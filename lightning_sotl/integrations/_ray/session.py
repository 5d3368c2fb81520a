"""What a trial asks of its Ray Tune session, and how it ends in good order when Ray stops it."""

from __future__ import annotations

import threading
from typing import Any

from ray import tune
from ray.train._internal.session import get_session


def in_trial() -> bool:
    """Return whether this process runs a trial of Ray Tune."""
    return get_session() is not None


class _Join:
    """Waits for a trial's thread, for as long as it takes if Ray has stopped it in a report.

    Ray stops a trial by a SystemExit inside `report`, joins its thread with a time limit of 0 and
    ends the process: within milliseconds, so that nothing of the run would be finished. With this
    in place of the thread's own `join` it waits.
    """

    def __init__(self, join: Any) -> None:
        self._join = join
        self.stops_in_good_order = False

    def __call__(self, timeout: float | None = None) -> Any:
        return self._join(None if self.stops_in_good_order else timeout)


def report(metrics: dict[str, Any], checkpoint: Any) -> bool:
    """Report to Ray, and return whether Ray wants the trial to end.

    If so Ray waits until the trial's function has returned; what is reported until then is
    ignored.
    """
    thread: Any = threading.current_thread()
    if not isinstance(thread.join, _Join):
        thread.join = _Join(thread.join)
    session: Any = get_session()
    thread.join.stops_in_good_order = True
    try:
        tune.report(metrics, checkpoint=checkpoint)
    except SystemExit as stop:
        if stop.code != 0:
            raise
        session.pause_reporting()  # another report would wait for an answer that never comes
        return True
    thread.join.stops_in_good_order = False
    return False
