"""Words of messages: numbers with their nouns, and lists that do not grow without end."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "run"), counted(3, "run")
        ('1 run', '3 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some(names: Sequence[object], most: int = 5) -> str:
    """Return the first names, quoted, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def listed(names: Sequence[object]) -> str:
    """Return all names, quoted, or "nothing".

    Example:
        >>> listed([])
        'nothing'
    """
    return ", ".join(map(repr, names)) or "nothing"
