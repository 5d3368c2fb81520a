"""Stopping at a fixed limit as a pure rule, and the reasons of a stop."""

from __future__ import annotations

import math
from enum import Enum


class StoppingReason(str, Enum):
    """Why a run was stopped, or that it was not.

    The values are plain strings, which checkpoints and records can hold.

    Attributes:
        not_stopped: The stopper has not ended the run.
        stop_epoch_reached: The run has completed `stop_epoch` epochs and has its estimate.
        stop_batches_reached: The run has trained `stop_batches` batches and has its estimate.
        non_finite_estimate: The limit was reached with an estimate that is not finite: the
            run has diverged and ranks last.
        policy: An adaptive rule ended the run before its limit.
        already_stopped: The run was resumed at or past its limit, so nothing was trained.
        paused: The run's turn in a sweep is over; it may continue later.

    Example:
        >>> StoppingReason.stop_epoch_reached == "stop_epoch_reached"
        True
    """

    not_stopped = "not_stopped"
    stop_epoch_reached = "stop_epoch_reached"
    stop_batches_reached = "stop_batches_reached"
    non_finite_estimate = "non_finite_estimate"
    policy = "policy"
    already_stopped = "already_stopped"
    paused = "paused"

    def __str__(self) -> str:
        return self.value


def stop_at_limit(
    completed: int, estimate: float | None, *, limit: int, reached: StoppingReason
) -> StoppingReason:
    """Return whether a run with a fixed limit ends now, and why.

    Args:
        completed: Epochs (or batches) that the run has completed.
        estimate: The run's estimate after them, lower is better; None while there is none.
        limit: T, the epochs (or batches) after which the run ends.
        reached: The reason for a run that has reached `limit` with a finite estimate.

    Returns:
        `not_stopped` below the limit and while there is no estimate, `non_finite_estimate` for a
        diverged run, otherwise `reached`. A diverged run is not ended before its limit: an estimate
        over the last E epochs may become finite again.

    Example:
        >>> reached = StoppingReason.stop_epoch_reached
        >>> stop_at_limit(9, 0.4, limit=10, reached=reached).value
        'not_stopped'
        >>> stop_at_limit(10, 0.4, limit=10, reached=reached).value
        'stop_epoch_reached'
    """
    if completed < limit or estimate is None:
        return StoppingReason.not_stopped
    return reached if math.isfinite(estimate) else StoppingReason.non_finite_estimate
