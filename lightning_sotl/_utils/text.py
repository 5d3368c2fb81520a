"""Parts of messages: counted nouns, lists and quotes of bounded length, escaped text."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_NAMES = 100
_MOST_CHARACTERS = 200


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural.

    Examples:
        >>> pluralize(1, "run"), pluralize(3, "run")
        ('1 run', '3 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def quote_few(names: Sequence[object], most: int = 5) -> str:
    """Return the first names, quoted, and the number of the others.

    Examples:
        >>> quote_few(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(quoted, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def quote_all(names: Sequence[object]) -> str:
    """Return all names, quoted, or "nothing". Only the first 100 are listed.

    Examples:
        >>> quote_all([])
        'nothing'
    """
    return quote_few(names, _MOST_NAMES) or "nothing"


def quoted(value: object) -> str:
    """Return the `repr` of a value for a message, shortened if it is long.

    Examples:
        >>> quoted("a"), len(quoted("a" * 1000))
        ("'a'", 203)
    """
    return shortened(repr(value))


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return a text, cut and followed by dots if it is longer than `most` characters.

    Examples:
        >>> shortened("abcdef", 3)
        'abc...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def visible(text: str) -> str:
    r"""Return a text with all unprintable characters escaped, so that it is safe on a terminal.

    Control characters, line breaks, marks of writing direction, lone surrogates, and all spaces
    except the plain one are written as in a Python string.

    Examples:
        >>> print(visible("run\x1b[2J\n"))
        run\x1b[2J\n
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
