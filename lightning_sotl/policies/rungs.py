"""The rungs of a sweep whose runs take turns, and the score of its finished runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray

# A single validation is noisy, so finished runs are compared by the mean of their last values.
PICKED_BY_LAST = 3


def rungs(first: int, max_epochs: int, *, growth: float = 1.5) -> list[int]:
    """Return the rungs: the numbers of completed epochs at which runs wait for each other.

    Args:
        first: The first rung, at least 1. If it is above `max_epochs`, then `max_epochs` is the
            only rung.
        max_epochs: The full budget, which is the last rung.
        growth: The factor between two rungs, above 1. Rungs are at least one epoch apart.

    Raises:
        TypeError: If `growth` is not a number.
        ValueError: If `growth` is not above 1 or not finite.

    Examples:
        >>> rungs(3, 30)
        [3, 4, 6, 9, 14, 21, 30]
    """
    given: object = growth
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"Expected `growth` to be a number but got {growth!r}.")
    if not 1.0 < growth < math.inf:
        raise ValueError(f"Expected `growth` to be above 1 and finite but got {growth!r}.")
    found = [min(first, max_epochs)]
    while found[-1] < max_epochs:
        grown = round(min(growth * found[-1], max_epochs))
        found.append(min(max(found[-1] + 1, grown), max_epochs))
    return found


def final_score(validations: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the score of a run that was trained to the end: the mean of its last three values.

    Args:
        validations: The run's validation values in order. LOWER is better.

    Returns:
        The mean, or `+inf`, the worst score, if one of these values is not finite or there are no
        values.

    Examples:
        >>> final_score([0.9, 0.5, 0.25, 0.75])
        0.5
    """
    last = validations[-PICKED_BY_LAST:]
    return float(np.mean(last)) if len(last) and np.isfinite(last).all() else math.inf
