"""Checks of user arguments, with messages of the same form."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path


def positive_int(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 1.

    Raises:
        TypeError: If `value` is not an integer; `True` is not.
        ValueError: If `value` is below 1.

    Examples:
        >>> positive_int("window", 0)
        Traceback (most recent call last):
        ValueError: Expected `window` to be a positive integer but got 0.
    """
    return _integer(name, value, 1, "a positive integer")


def seed(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 0.

    Raises:
        TypeError: If `value` is not an integer; `True` is not.
        ValueError: If `value` is below 0.

    Examples:
        >>> seed("seed", -1)
        Traceback (most recent call last):
        ValueError: Expected `seed` to be a non-negative integer but got -1.
    """
    return _integer(name, value, 0, "a non-negative integer")


def optional_seed(name: str, value: object) -> int | None:
    """Return `value` if it is None or an integer of at least 0.

    Raises:
        TypeError: If `value` is neither; `True` is not an integer.
        ValueError: If `value` is below 0.
    """
    return None if value is None else _integer(name, value, 0, "a non-negative integer or None")


def _integer(name: str, value: object, least: int, expected: str) -> int:
    message = f"Expected `{name}` to be {expected} but got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(message)
    if value < least:
        raise ValueError(message)
    return int(value)  # a checkpoint with a NumPy integer cannot be loaded


def windows(name: str, value: object) -> tuple[int, ...]:
    """Return `value`, one window or a sequence of them, as a tuple without repeats.

    Raises:
        TypeError: If `value`, or one of its entries, is not an integer.
        ValueError: If a window is below 1, if there is none, or if one is repeated.

    Examples:
        >>> windows("window", 5), windows("window", [1, 10])
        ((5,), (1, 10))
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return (positive_int(name, value),)
    if not value:
        raise ValueError(f"Expected `{name}` to have at least one entry but got {value!r}.")
    entries = tuple(positive_int(name, entry) for entry in value)
    if len(set(entries)) < len(entries):
        raise ValueError(f"Expected `{name}` to have no repeated entry but got {value!r}.")
    return entries


def decay(name: str, value: object) -> float:
    """Return `value` as a float if it is a number in (0, 1].

    Raises:
        TypeError: If `value` is not a real number.
        ValueError: If `value` is outside (0, 1] or NaN.
    """
    message = f"Expected `{name}` to be a number in (0, 1] but got {value!r}."
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message)
    if not 0.0 < value <= 1.0:
        raise ValueError(message)
    return float(value)


def text(name: str, value: object) -> str:
    """Return `value` if it is a string with at least one character.

    Raises:
        TypeError: If `value` is not a string.
        ValueError: If `value` is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"Expected `{name}` to be a string but got {value!r}.")
    if not value:
        raise ValueError(f"Expected `{name}` to be a non-empty string but got {value!r}.")
    return value


def names(name: str, value: object) -> tuple[str, ...]:
    """Return `value`, a sequence of non-empty strings, as a tuple.

    Raises:
        TypeError: If it is a string or not a sequence, or if an entry is not a string.
        ValueError: If an entry is empty.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"Expected `{name}` to be a sequence of names but got {value!r}.")
    return tuple(text(name, entry) for entry in value)


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is `True` or `False`.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"Expected `{name}` to be True or False but got {value!r}.")
    return value


def local_directory(name: str, value: object) -> None:
    """Check that `value` is a path in the local file system.

    Raises:
        TypeError: If it is neither a string nor a path.
        ValueError: If it is a URL such as `s3://...`, whose files cannot be appended to.
    """
    if not isinstance(value, (str, Path)):
        raise TypeError(f"Expected `{name}` to be a path but got {value!r}.")
    if "://" in str(value):
        raise ValueError(f"Expected `{name}` to be a local directory but got {str(value)!r}.")


def validation_pair(name: object, mode: object) -> None:
    """Check the name of a validation metric and its direction, which must be given together.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If only one of them is given, or if the direction is neither "min" nor "max".
    """
    if name is not None:
        text("validation", name)
    if (name is None) != (mode is None):
        raise ValueError(
            "Expected `validation` and `validation_mode` to be given together but got "
            f"validation={name!r} and validation_mode={mode!r}."
        )
    if mode not in (None, "min", "max"):
        raise ValueError(f"Expected `validation_mode` to be 'min' or 'max' but got {mode!r}.")
