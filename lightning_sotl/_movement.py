"""How far the leaders of today have come through the order of the runs: noise and drift of places.

The question at epoch k is how many of the runs that have got so far have to go on, so that the run
that will be the best at the end is among them. The curves answer it themselves. If today's leaders
stood at place 6 when training was half as long, the order still moves, and today's place 6 may
lead when training is twice as long. If they led back then, too, it has settled.

What moves a place between two epochs is of two kinds. Noise is as large between neighbouring
epochs as over a long time; drift adds up with every doubling of training. All of it is ranks, so
no unit and no scale of a loss enters.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# One leader may be there by luck; the mean of many is not what the winner did.
_LEADERS = 2  # `argpartition` below is written for two
# Epochs of the last doubling at which the movement is measured; more say the same again.
_SAMPLES = 4


def _first_looked_at(epoch: int) -> int:
    """Return the first epoch count whose values the movement at `epoch` rests on."""
    return max(1, _first_sample(epoch) // 2)


def recent_values(curve: NDArray[np.float64], epoch: int) -> NDArray[np.float64]:
    """Return what a decision after `epoch` epochs rests on, shape `(epochs, runs)`."""
    values = np.array(curve[:, _first_looked_at(epoch) - 1 : epoch].T, order="C")
    values[np.isneginf(values)] = math.inf  # not finite is the worst, whatever its sign
    return values


def mean_movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float] | None:
    """Return noise and drift a doubling, in logarithms of places, over the last doubling.

    Noise is once in any difference of places, drift in proportion to the doublings between.

    Args:
        curve: Values after the epochs that `recent_values` gives, shape `(epochs, runs)`.
        target: The same of the curve whose leaders are looked at.
        epoch: Completed epochs, at least 2.

    Returns:
        None if leaders can be named and followed at none of the epochs looked at.
    """
    first = _first_looked_at(epoch)
    samples = np.linspace(_first_sample(epoch), epoch, _SAMPLES)
    sampled = np.unique(np.round(samples).astype(int)).tolist()
    movements = [_movement(curve, target, at, first) for at in sampled]
    known = [movement for movement in movements if movement is not None]
    if not known:
        return None
    over_half, over_one, half, one = np.mean(known, axis=0).tolist()
    if half - one < 1e-9:  # after 2 epochs both are the same
        return 0.0, over_half / half
    drift = max((over_half - over_one) / (half - one), 0.0)
    return max(over_one - drift * one, 0.0), drift


def _first_sample(epoch: int) -> int:
    return max(2, epoch // 2 + 1)


def _movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int, first: int
) -> tuple[float, float, float, float] | None:
    """Return how far behind the leaders after `epoch` epochs once stood, in logarithms of places.

    Args:
        curve: As in `mean_movement`.
        target: The same.
        epoch: After how many epochs the leaders lead.
        first: After how many epochs the first row of both stands.

    Returns:
        The worst of the last doubling and the newest before `epoch`, and how many doublings lie
        between; None if the leaders cannot be named or followed.
    """
    half = max(1, epoch // 2)
    before, aims = curve[half - first : epoch - first], target[epoch - first]
    reached = ~np.isnan(aims)
    if np.count_nonzero(reached) < 2:
        return None
    if not reached.all():  # only with those that have come so far
        before, aims = before[:, reached], aims[reached]
    leaders = np.argpartition(aims, 1)[:_LEADERS]
    # Some validate each second epoch only.
    rows = np.flatnonzero(~np.isnan(before[:, leaders]).any(axis=1))
    if not (np.isfinite(aims[leaders]).all() and len(rows)):
        return None
    before = before[rows] if len(rows) < len(before) else before
    places = np.count_nonzero(before[:, np.newaxis] < before[:, leaders, np.newaxis], axis=2) + 1
    own = (len(leaders) + 1) / 2  # their mean place now
    return (
        math.log(max(places.max(axis=0).mean() / own, 1.0)),
        math.log(max(places[-1].mean() / own, 1.0)),
        math.log2(epoch / (half + rows[0])),
        math.log2(epoch / (half + rows[-1])),
    )
