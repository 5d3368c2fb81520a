"""Spearman's correlation in bootstrap resamples of the runs, without ranking each anew.

A resample draws as many runs as there are, with replacement. Only how often each run was drawn
matters, so the runs are sorted once a column and a resample costs a cumulative sum in place of a
sort: its ranks are the sums of those numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._ranks import tie_bounds

# Resamples that are carried through together: their numbers for 15,625 runs stay in the cache.
_BLOCK = 16


@dataclass(frozen=True)
class _Column:
    """One column of scores, sorted: which runs in ascending order, and where groups of ties begin.

    `starts` is None where nothing ties.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64] | None

    @staticmethod
    def of(values: NDArray[np.float64]) -> _Column:
        order = np.argsort(values, kind="stable")
        first, _ = tie_bounds(values[order])
        starts = np.flatnonzero(first == np.arange(values.size))
        return _Column(order, None if starts.size == values.size else starts)


def spearman_samples(
    rows: NDArray[np.float64],
    goal: NDArray[np.float64],
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the correlation of each row of badness with another, shape `(resamples, rows)`.

    NaN where all values of a row, or all of the other, tie in a resample.
    """
    by_goal = np.argsort(goal, kind="stable")
    target = _Column.of(goal[by_goal])
    columns = [_Column.of(row[by_goal]) for row in rows]
    samples = np.empty((resamples, len(rows)))
    for begin in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - begin)
        block = _Resamples.draw(goal.size, size, target, generator)
        for index, column in enumerate(columns):
            samples[begin : begin + size, index] = block.spearman(column)
    return samples


class _Resamples:
    """A block of resamples, the runs in the order of the target.

    All sums are of whole numbers below 2**53, so exact in float64 up to some 100,000 runs.

    Args:
        counts: How often each run was drawn, shape `(runs, block)`.
        target: The target's ties.
    """

    def __init__(self, counts: NDArray[np.float64], target: _Column) -> None:
        self._counts = counts
        self._n = counts.shape[0]
        twice_ranks, cubes = self._twice_ranks(counts, target.starts)
        self._target_spread = self._n**3 - cubes
        self._weighted = counts * twice_ranks
        # Shared by all columns without ties.
        self._cubes = np.einsum("ij,ij,ij->j", counts, counts, counts)
        self._own = np.einsum("ij,ij->j", self._weighted, counts)
        self._picked = np.empty_like(counts)
        self._sums = np.empty_like(counts)

    @staticmethod
    def draw(runs: int, size: int, target: _Column, generator: np.random.Generator) -> _Resamples:
        counts = np.empty((runs, size))
        for sample in range(size):
            drawn = generator.integers(runs, size=runs)
            counts[:, sample] = np.bincount(drawn, minlength=runs)
        return _Resamples(counts, target)

    def spearman(self, column: _Column) -> NDArray[np.float64]:
        """Return the correlation of a column with the target in each resample."""
        order, n = column.order, self._n
        # Four times the sum of the products of the ranks, and 12 times the variance.
        if column.starts is None:
            np.take(self._counts, order, axis=0, out=self._picked, mode="clip")
            np.cumsum(self._picked, axis=0, out=self._sums)
            np.take(self._weighted, order, axis=0, out=self._picked, mode="clip")
            products = 2 * np.einsum("ij,ij->j", self._picked, self._sums)
            products += n * (n + 1) - self._own
            spread = n**3 - self._cubes
        else:
            counts = np.add.reduceat(self._counts[order], column.starts, axis=0)
            weighted = np.add.reduceat(self._weighted[order], column.starts, axis=0)
            twice_ranks = 2 * np.cumsum(counts, axis=0) - counts + 1
            products = np.einsum("ij,ij->j", weighted, twice_ranks)
            spread = n**3 - np.einsum("ij,ij,ij->j", counts, counts, counts)
        covariance = 3 * (products - n * (n + 1) ** 2)
        with np.errstate(invalid="ignore"):
            rho: NDArray[np.float64] = covariance / np.sqrt(spread * self._target_spread)
        return rho.clip(-1.0, 1.0)

    @staticmethod
    def _twice_ranks(
        counts: NDArray[np.float64], starts: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return twice the ranks of all runs, and the sum of the cubes of the groups of ties."""
        runs = counts.shape[0]
        starts = np.arange(runs) if starts is None else starts
        sizes = np.add.reduceat(counts, starts, axis=0)
        twice_ranks = 2 * np.cumsum(sizes, axis=0) - sizes + 1
        repeats = np.diff(np.append(starts, runs))
        cubes: NDArray[np.float64] = np.einsum("ij,ij,ij->j", sizes, sizes, sizes)
        return np.repeat(twice_ranks, repeats, axis=0), cubes
