"""Ranks, with the rules for ties and diverged runs that all statistics share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mode = Literal["min", "max"]


def check_mode(name: str, mode: object) -> None:
    """Check that `mode` is "min" or "max".

    Raises:
        ValueError: If it is neither.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"Expected `{name}` to be 'min' or 'max' but got {mode!r}.")


def oriented(values: ArrayLike, *, mode: Mode) -> NDArray[np.float64]:
    """Return `values` oriented so that lower is better and non-finite values are worst.

    A diverged run ranks last, regardless of the sign of its values.

    Args:
        values: Scores or targets, any shape.
        mode: "min" if lower values are better, "max" if higher ones are.

    Returns:
        float64 of the same shape, `+inf` where `values` is not finite.

    Examples:
        >>> oriented([0.5, float("nan"), 0.9], mode="max").tolist()
        [-0.5, inf, -0.9]
    """
    numbers = np.asarray(values, dtype=np.float64)
    signed = numbers if mode == "min" else -numbers
    return np.where(np.isfinite(numbers), signed, np.inf)


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks 1, 2, ... along the last axis; ties share the mean of their ranks.

    Args:
        values: Numbers without NaN, shape `(..., n)`.

    Returns:
        float64 of the same shape.

    Examples:
        >>> midranks(np.array([0.3, 0.1, 0.3])).tolist()
        [2.5, 1.0, 2.5]
    """
    order = np.argsort(values, axis=-1)
    first, last = tie_bounds(np.take_along_axis(values, order, axis=-1))
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def best_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the ranks 1, 2, ... along the last axis; ties share the lowest of their ranks.

    Examples:
        >>> best_ranks(np.array([0.3, 0.1, 0.3])).tolist()
        [2, 1, 2]
    """
    order = np.argsort(values, axis=-1)
    first, _ = tie_bounds(np.take_along_axis(values, order, axis=-1))
    ranks = np.empty(values.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, first + 1, axis=-1)
    return ranks


def tie_bounds(ascending: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each entry, where its group of equal values begins and ends.

    Args:
        ascending: Sorted numbers without NaN, shape `(..., n)`.

    Returns:
        First and last index of the group, each of the same shape.
    """
    n = ascending.shape[-1]
    places = np.broadcast_to(np.arange(n), ascending.shape)
    differs = ascending[..., 1:] != ascending[..., :-1]
    edge = np.ones((*ascending.shape[:-1], min(n, 1)), dtype=bool)
    begins = np.concatenate([edge, differs], axis=-1)
    ends = np.concatenate([differs, edge], axis=-1)
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    last = np.where(ends, places, n)[..., ::-1]
    return first, np.minimum.accumulate(last, axis=-1)[..., ::-1]
