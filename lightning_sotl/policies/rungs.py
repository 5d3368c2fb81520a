"""The rungs of a sweep whose runs take turns: after how many epochs runs are compared."""

from __future__ import annotations

import math
from numbers import Real


def rungs(first: int, max_epochs: int, *, growth: float = 1.5) -> list[int]:
    """Return the completed epochs after which runs wait for each other, the budget last.

    Args:
        first: The first rung, at least 1; at most `max_epochs` of it counts.
        max_epochs: The full budget, the last rung.
        growth: The factor between two rungs, above 1; each rung is at least one epoch further.

    Raises:
        TypeError: If `growth` is no number.
        ValueError: If `growth` is not above 1, or not finite.

    Example:
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
        found.append(min(max(found[-1] + 1, round(growth * found[-1])), max_epochs))
    return found
