"""Rank correlation of many scores with one target at once, on badness (lower is better)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._ranks import Mode, badness, check_mode, midranks

Method = Literal["spearman", "kendall", "weighted-tau"]
METHODS: tuple[Method, ...] = ("spearman", "kendall", "weighted-tau")


def check_method(method: object) -> None:
    """Raise unless `method` is one of `METHODS`.

    Raises:
        ValueError: If it is not.
    """
    if method not in METHODS:
        raise ValueError(
            f"Expected `method` to be one of {', '.join(map(repr, METHODS))} but got {method!r}."
        )


def prepare(
    scores: ArrayLike, target: ArrayLike, *, mode: Mode, target_mode: Mode
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Check scores and target and return what the statistics compare.

    Returns:
        Badness of the scores, shape `(columns, runs)`; badness of the target, shape `(runs,)`,
        both without the runs that have no finite target; and which columns no run has yet.

    Raises:
        ValueError: As in `rank_correlation`.
    """
    check_mode("mode", mode)
    check_mode("target_mode", target_mode)
    values, goal = np.asarray(scores, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if goal.ndim != 1 or values.ndim not in (1, 2) or values.shape[0] != goal.size:
        raise ValueError(
            "Expected `scores` of shape (runs,) or (runs, epochs) and `target` of shape (runs,) "
            f"but got {values.shape} and {goal.shape}."
        )
    has_target = np.isfinite(goal)
    if has_target.sum() < 2:
        raise ValueError(
            f"Expected at least 2 runs with a finite target but got {has_target.sum()} of "
            f"{goal.size}."
        )
    columns = np.atleast_2d(values[has_target].T)
    rows = np.ascontiguousarray(badness(columns, mode=mode))
    unknown: NDArray[np.bool_] = np.all(np.isnan(columns), axis=1)
    return rows, badness(goal[has_target], mode=target_mode), unknown


def correlate(
    rows: NDArray[np.float64], other: NDArray[np.float64], method: Method
) -> NDArray[np.float64]:
    """Return the correlation of each row of badness with another badness, shape `(rows,)`."""
    if method == "spearman":
        return _spearman(rows, other)
    statistic = _tau(method)
    # Ranks in place of values: SciPy would take an infinite badness for a missing number.
    goodness, rank = -midranks(rows), -midranks(other)
    return np.array([statistic(row, rank) for row in goodness])


def _spearman(rows: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    center = (other.size + 1) / 2
    ranks, goal = midranks(rows) - center, midranks(other) - center
    # Ranks are multiples of 1/2, so that sums of their products are exact.
    scale = np.sqrt(np.einsum("ij,ij->i", ranks, ranks) * (goal @ goal))
    with np.errstate(invalid="ignore"):
        correlation: NDArray[np.float64] = ranks @ goal / scale
    return np.clip(correlation, -1.0, 1.0)


def _tau(method: Method) -> Callable[[NDArray[np.float64], NDArray[np.float64]], float]:
    from scipy import stats  # a second to import, and only needed here

    def statistic(goodness: NDArray[np.float64], goal: NDArray[np.float64]) -> float:
        if np.ptp(goodness) == 0 or np.ptp(goal) == 0:
            return float("nan")  # `weightedtau` would divide by zero
        function = stats.kendalltau if method == "kendall" else stats.weightedtau
        return float(function(goodness, goal).statistic)

    return statistic
