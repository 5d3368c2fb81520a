"""Bootstrap intervals of rank correlations, for many columns of scores at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation
from lightning_sotl.stats.correlation import (
    Method,
    check_method,
    correlate,
    prepare,
    rank_correlation_curve,
)
from lightning_sotl.stats.ranks import Mode, tie_bounds

# Resamples computed together: for 15,625 runs their arrays fit into the cache.
_BLOCK = 16


def rank_correlation_interval(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    method: Method = "spearman",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a percentile bootstrap interval of the oriented rank correlation.

    Each resample draws the runs with replacement. Ties, including those of a run drawn twice,
    share the mean of their ranks. With fewer than about 20 runs, these intervals are too narrow.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        target: The final result of each run, shape `(runs,)`. Runs without a finite one are left
            out.
        confidence: The share of the resamples between the bounds, in (0, 1).
        resamples: The number of resamples, at least 1; all epochs use the same ones.
        seed: The seed of the resamples, at least 0.
        method: As in `rank_correlation`; only "spearman" is fast.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Returns:
        The lower and the upper bound in [-1, 1], float64 arrays of shape `()` or `(epochs,)`; NaN
        where the correlation is undefined.

    Raises:
        TypeError: If `resamples` or `seed` is not an integer.
        ValueError: If `confidence`, `resamples` or `seed` is out of range; otherwise as in
            `rank_correlation`.

    Examples:
        >>> low, high = rank_correlation_interval(range(50), range(50), target_mode="min")
        >>> float(low), float(high)
        (1.0, 1.0)
    """
    _check_confidence(confidence)
    samples = bootstrap_correlations(
        scores,
        target,
        resamples=resamples,
        seed=seed,
        method=method,
        mode=mode,
        target_mode=target_mode,
    )
    low, high = percentile_bounds(samples, confidence=confidence)
    shape = np.shape(scores)[1:]
    return low.reshape(shape), high.reshape(shape)


def rank_correlation_difference(
    scores: ArrayLike,
    others: ArrayLike,
    target: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    method: Method = "spearman",
    mode: Mode = "min",
    others_mode: Mode | None = None,
    target_mode: Mode = "max",
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return how much better some scores rank the runs than others, with a bootstrap interval.

    Both use the same resamples of the runs, so the interval is that of a paired difference. If it
    excludes 0, one of them ranks these runs better, even if their separate intervals overlap.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        others: The other scores, of the same shape, or of shape `(runs,)` to compare each epoch
            with them.
        target: The final result of each run, shape `(runs,)`. Runs without a finite one are left
            out.
        confidence: The share of the resamples between the bounds, in (0, 1).
        resamples: The number of resamples, at least 1.
        seed: The seed of the resamples, at least 0.
        method: As in `rank_correlation`; only "spearman" is fast.
        mode: "min" if lower scores are better.
        others_mode: The mode of `others`; None for `mode`.
        target_mode: "max" if a higher target is better.

    Returns:
        The correlation of `scores` minus that of `others` (above 0, `scores` are better), its lower
        and its upper bound, each of shape `()` or `(epochs,)`; NaN where a correlation is
        undefined.

    Raises:
        TypeError: If `resamples` or `seed` is not an integer.
        ValueError: If the shapes do not match; otherwise as in `rank_correlation_interval`.

    Examples:
        >>> noise = np.random.default_rng(0).normal(size=50)
        >>> gap, low, high = rank_correlation_difference(range(50), noise, range(50, 0, -1))
        >>> bool(low > 0)
        True
    """
    _check_confidence(confidence)
    given = np.shape(scores)
    if np.shape(others) not in (given, given[:1]):
        raise ValueError(
            f"Expected `others` to have the shape {given[:1]} or that of `scores`, {given}, but "
            f"got {np.shape(others)}."
        )
    options: dict[str, Any] = {"method": method, "target_mode": target_mode}
    rho, samples = [], []
    for values, better in ((scores, mode), (others, others_mode or mode)):
        table = np.asarray(values, dtype=np.float64)
        table = table[:, np.newaxis] if table.ndim == 1 else table
        options["mode"] = better
        rho.append(rank_correlation_curve(table, target, **options))
        samples.append(
            bootstrap_correlations(table, target, resamples=resamples, seed=seed, **options)
        )
    low, high = percentile_bounds(samples[0] - samples[1], confidence=confidence)
    shape = given[1:]
    return (rho[0] - rho[1]).reshape(shape), low.reshape(shape), high.reshape(shape)


def bootstrap_correlations(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    method: Method = "spearman",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> NDArray[np.float64]:
    """Return the oriented rank correlation in each bootstrap resample.

    Calls with the same target, `resamples` and `seed` use the same resamples, so their results are
    paired.

    Returns:
        Shape `(resamples, columns)`; NaN where all scores or all targets of a resample tie.

    Raises:
        TypeError: If `resamples` or `seed` is not an integer.
        ValueError: As in `rank_correlation`, or if `seed` is negative.

    Examples:
        >>> bootstrap_correlations([1, 2, 3], [1, 2, 3], target_mode="min", resamples=4).shape
        (4, 1)
    """
    check_method(method)
    validation.positive_int("resamples", resamples)
    validation.seed("seed", seed)
    rows, goal, unknown = prepare(scores, target, mode=mode, target_mode=target_mode)
    samples = np.full((resamples, len(rows)), np.nan)
    known = np.flatnonzero(~unknown)
    generator = np.random.default_rng(seed)
    if method == "spearman":
        samples[:, known] = _spearman_samples(rows[known], goal, resamples, generator)
        return samples
    for sample in samples:
        drawn = generator.integers(goal.size, size=goal.size)
        sample[known] = correlate(rows[np.ix_(known, drawn)], goal[drawn], method)
    return samples


def percentile_bounds(
    samples: NDArray[np.float64], *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds of the middle share `confidence` of each column.

    Raises:
        ValueError: If `confidence` is outside (0, 1).

    Examples:
        >>> low, high = percentile_bounds(np.arange(101.0)[:, np.newaxis], confidence=0.5)
        >>> low.tolist(), high.tolist()
        ([25.0], [75.0])
    """
    _check_confidence(confidence)
    tail = 100 * (1 - confidence) / 2
    bounds = np.full((2, samples.shape[1]), np.nan)
    undefined = np.isnan(samples)
    whole = ~undefined.any(axis=0)
    bounds[:, whole] = np.percentile(samples[:, whole], [tail, 100 - tail], axis=0)
    for column in np.flatnonzero(~whole & ~undefined.all(axis=0)):
        defined = samples[~undefined[:, column], column]
        bounds[:, column] = np.percentile(defined, [tail, 100 - tail])
    return bounds[0], bounds[1]


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"Expected `confidence` to be in (0, 1) but got {confidence!r}.")


def _spearman_samples(
    rows: NDArray[np.float64],
    goal: NDArray[np.float64],
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return Spearman's correlation of each row with the goal, shape `(resamples, rows)`.

    A resample is represented by how often it draws each run. The rows are sorted once, and the
    ranks in each resample follow from cumulative sums of these counts. The correlation is NaN
    where all values of a row, or all values of the goal, tie in a resample.
    """
    by_goal = np.argsort(goal, kind="stable")
    _, target_starts = _order_and_ties(goal[by_goal])
    columns = [_order_and_ties(row[by_goal]) for row in rows]
    samples = np.empty((resamples, len(rows)))
    for begin in range(0, resamples, _BLOCK):
        block = samples[begin : begin + _BLOCK]
        counts = np.empty((goal.size, len(block)))
        for sample in range(len(block)):
            drawn = generator.integers(goal.size, size=goal.size)
            counts[:, sample] = np.bincount(drawn, minlength=goal.size)
        drawn_runs = _Resamples(counts, target_starts)
        for index, (order, starts) in enumerate(columns):
            block[:, index] = drawn_runs.spearman(order, starts)
    return samples


def _order_and_ties(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order that sorts the values, and where groups of ties begin in it."""
    order = np.argsort(values, kind="stable")
    first, _ = tie_bounds(values[order])
    return order, np.unique(first)


class _Resamples:
    """A block of resamples, with the runs in the order of the target.

    All sums are of integers below 2**53, so they are exact in float64 up to about 100,000 runs.

    Args:
        counts: How often each run was drawn, shape `(runs, block)`.
        target_starts: Where groups of ties in the target begin.
    """

    def __init__(self, counts: NDArray[np.float64], target_starts: NDArray[np.int64]) -> None:
        self._counts = counts
        self._n = counts.shape[0]
        sizes = np.add.reduceat(counts, target_starts, axis=0)
        lengths = np.diff(target_starts, append=self._n)
        self._target_spread = self._n**3 - _cubes(sizes)
        self._weighted = counts * np.repeat(_twice_ranks(sizes), lengths, axis=0)
        # The same for all columns without ties.
        self._spread = self._n**3 - _cubes(counts)
        self._own = np.einsum("ij,ij->j", self._weighted, counts)
        self._picked = np.empty_like(counts)
        self._sums = np.empty_like(counts)

    def spearman(self, order: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the correlation of a sorted column with the target in each resample."""
        n = self._n
        # Four times the sum of the products of the ranks, and 12 times the variance.
        if starts.size == n:  # without ties
            np.take(self._counts, order, axis=0, out=self._picked, mode="clip")
            np.cumsum(self._picked, axis=0, out=self._sums)
            np.take(self._weighted, order, axis=0, out=self._picked, mode="clip")
            products = 2 * np.einsum("ij,ij->j", self._picked, self._sums)
            products += n * (n + 1) - self._own
            spread = self._spread
        else:
            sizes = np.add.reduceat(self._counts[order], starts, axis=0)
            weighted = np.add.reduceat(self._weighted[order], starts, axis=0)
            products = np.einsum("ij,ij->j", weighted, _twice_ranks(sizes))
            spread = n**3 - _cubes(sizes)
        covariance = 3 * (products - n * (n + 1) ** 2)
        with np.errstate(invalid="ignore"):
            rho: NDArray[np.float64] = covariance / np.sqrt(spread * self._target_spread)
        return rho.clip(-1.0, 1.0)


def _twice_ranks(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return twice the mean rank of each group of ties, from the sizes of the sorted groups."""
    return 2 * np.cumsum(sizes, axis=0) - sizes + 1


def _cubes(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    cubes: NDArray[np.float64] = np.einsum("ij,ij,ij->j", sizes, sizes, sizes)
    return cubes
