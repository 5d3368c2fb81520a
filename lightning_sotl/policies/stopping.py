"""The rule that stops a run at a fixed limit, and the reasons for a stop."""

from __future__ import annotations

import math
from enum import Enum


class StoppingReason(str, Enum):
    """The reason why an EarlyRankingStopper ended a run, as in `stopper.stopping_reason`.

    Each reason is also a plain string, so you can compare it with its name.

    Attributes:
        not_stopped: The stopper has not ended the run.
        stop_epoch_reached: The run completed `stop_epoch` epochs and has its estimate.
        stop_batches_reached: The run trained `stop_batches` batches and has its estimate.
        non_finite_estimate: The run reached its limit with a non-finite estimate. It has diverged
            and ranks last.
        policy: A policy, pruner or scheduler ended the run before its limit.
        already_stopped: The run was resumed at or past its limit, so nothing was trained.
        paused: The run's turn in a Sweep is over. The run may continue later.

    Examples:
        >>> stopper.stopping_reason == "stop_epoch_reached"  # doctest: +SKIP
        True
        >>> StoppingReason.policy == "policy"
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
    """Return the reason why a run with a fixed limit ends now, or `not_stopped`.

    Args:
        completed: The number of epochs (or batches) that the run has completed.
        estimate: The run's estimate at that point, lower is better, or None if it has none yet.
        limit: T, the number of epochs (or batches) after which the run ends.
        reached: The reason if the run has reached `limit` with a finite estimate.

    Returns:
        `not_stopped` below the limit or without an estimate, `non_finite_estimate` for a diverged
        run, otherwise `reached`. A diverged run is not ended before its limit, because an estimate
        over the last E epochs may become finite again.

    Examples:
        >>> reached = StoppingReason.stop_epoch_reached
        >>> stop_at_limit(9, 0.4, limit=10, reached=reached).value
        'not_stopped'
        >>> stop_at_limit(10, 0.4, limit=10, reached=reached).value
        'stop_epoch_reached'
    """
    if completed < limit or estimate is None:
        return StoppingReason.not_stopped
    return reached if math.isfinite(estimate) else StoppingReason.non_finite_estimate
