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


def mean_movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float] | None:
    """Return noise and drift a doubling, in logarithms of places, over the last doubling.

    Noise is once in any difference of places, drift in proportion to the doublings between.
    """
    begin = max(2, epoch // 2 + 1)
    sampled = np.unique(np.round(np.linspace(begin, epoch, _SAMPLES)).astype(int)).tolist()
    movements = [_movement(curve, target, at) for at in sampled]
    known = [movement for movement in movements if movement is not None]
    if not known:
        return None
    over_half, over_one, half, one = np.mean(known, axis=0).tolist()
    if half - one < 1e-9:  # after 2 epochs both are the same
        return 0.0, over_half / half
    drift = max((over_half - over_one) / (half - one), 0.0)
    return max(over_one - drift * one, 0.0), drift


def _movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float, float, float] | None:
    """Return how far behind the leaders after `epoch` epochs once stood, in logarithms of places.

    Returns:
        The worst of the last doubling and the newest before `epoch`, and how many doublings lie
        between; None if the leaders cannot be named or followed.
    """
    first = max(1, epoch // 2)
    before = curve[first - 1 : epoch - 1]
    # A sum is NaN where one of its terms is. Only runs that have all the values are followed.
    there = ~np.isnan(before.sum(axis=0) + target[epoch - 1])
    looked = np.arange(len(before))
    if not there.any():  # some validate each second epoch only
        looked = np.flatnonzero(~np.isnan(before).all(axis=1))
        before = before[looked]
        there = ~np.isnan(before.sum(axis=0) + target[epoch - 1])
    if not len(looked) or np.count_nonzero(there) < 2:
        return None
    aims = target[epoch - 1]
    if not there.all():
        before, aims = before[:, there], aims[there]
    leaders = np.argpartition(aims, 1)[:_LEADERS]
    if not np.isfinite(aims[leaders]).all():
        return None
    ahead = before[:, np.newaxis] < before[:, leaders, np.newaxis]
    places = np.count_nonzero(ahead, axis=2) + 1
    own = (len(leaders) + 1) / 2  # their mean place now
    return (
        math.log(max(places.max(axis=0).mean() / own, 1.0)),
        math.log(max(places[-1].mean() / own, 1.0)),
        math.log2(epoch / (first + looked[0])),
        math.log2(epoch / (first + looked[-1])),
    )
