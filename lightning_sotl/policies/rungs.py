"""The rungs of a sweep whose runs take turns: after how many epochs runs are compared."""

from __future__ import annotations


def rungs(first: int, max_epochs: int, *, growth: float = 1.5) -> list[int]:
    """Return the completed epochs after which runs wait for each other, the budget last.

    Args:
        first: The first rung, at least 1; at most `max_epochs` of it counts.
        max_epochs: The full budget, the last rung.
        growth: The factor between two rungs, above 1; each rung is at least one epoch further.

    Example:
        >>> rungs(3, 30)
        [3, 4, 6, 9, 14, 21, 30]
    """
    found = [min(first, max_epochs)]
    while found[-1] < max_epochs:
        found.append(min(max(found[-1] + 1, round(growth * found[-1])), max_epochs))
    return found
