"""Stopping decisions as pure rules, values in, decision out: at a fixed limit, or adaptive."""

from __future__ import annotations

import math
from enum import Enum

from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision, Signal

__all__ = ["AdaptivePolicy", "Decision", "Signal", "StoppingReason", "stop_at_limit"]


class StoppingReason(str, Enum):
    """Why a run was ended, or that it was not.

    The values are plain strings, so that they can stand in a checkpoint and in a record.

    Attributes:
        not_stopped: Nothing here has ended the run.
        stop_epoch_reached: The run has completed `stop_epoch` epochs and has its estimate.
        stop_batches_reached: The run has trained `stop_batches` batches and has its estimate.
        non_finite_estimate: The limit was reached with an estimate that is not finite: the
            run has diverged and ranks last.
        policy: An adaptive rule has ended the run before its limit.
        already_stopped: The run was resumed at or past its limit, so nothing was trained.

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

    def __str__(self) -> str:
        return self.value


def stop_at_limit(
    completed: int, estimate: float | None, *, limit: int, reached: StoppingReason
) -> StoppingReason:
    """Decide whether a run with a fixed limit ends now.

    Args:
        completed: Epochs (or batches) that the run has completed.
        estimate: The run's estimate after them, lower is better; None while there is none.
        limit: T, the epochs (or batches) after which the run ends.
        reached: The reason to give for a run that has reached `limit` in good order.

    Returns:
        `not_stopped` below the limit and while there is no estimate, `non_finite_estimate` for a
        diverged run, otherwise `reached`. A run that has diverged is not ended before its limit:
        an estimate over the last E epochs may become finite again.

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
