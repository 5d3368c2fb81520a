"""How sure a rank correlation is: bootstrap over the runs, many columns of scores at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl import _validation
from lightning_sotl._correlation import Method, check_method, correlate, prepare
from lightning_sotl._ranks import Mode
from lightning_sotl._resamples import spearman_samples
from lightning_sotl.ranking import rank_correlation_curve


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

    The runs are drawn with replacement; ties, those of a run drawn twice among them, share the
    mean of their ranks. With few runs (below about 20) such intervals are too narrow.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        target: What the runs came to, shape `(runs,)`. Runs without a finite one are left out.
        confidence: Share of the resamples between the bounds, in (0, 1).
        resamples: How many resamples, at least 1; all columns share them.
        seed: Of the resamples.
        method: As in `rank_correlation`; only "spearman" is fast.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Returns:
        Lower and upper bound, each of shape `()` or `(epochs,)`; NaN where the correlation is.

    Raises:
        TypeError: If `resamples` or `seed` is no integer.
        ValueError: If `confidence` is out of range; otherwise as in `rank_correlation`.

    Example:
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
    """Return by how much scores order runs better than others do, and an interval of that.

    Both see the same resamples of the runs, so the interval is that of a paired difference. Where
    it does not hold 0, one of them orders these runs better; two intervals of their own may
    overlap all the same.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        others: The other scores: of the same shape, or of shape `(runs,)`, which all epochs are
            then compared with.
        target: What the runs came to, shape `(runs,)`. Runs without a finite one are left out.
        confidence: Share of the resamples between the bounds, in (0, 1).
        resamples: How many resamples, at least 1.
        seed: Of the resamples.
        method: As in `rank_correlation`; only "spearman" is fast.
        mode: "min" if lower scores are better.
        others_mode: The same for `others`; None for `mode`.
        target_mode: "max" if a higher target is better.

    Returns:
        Correlation of `scores` less that of `others` (above 0: `scores` are better), its lower
        and its upper bound, each of shape `()` or `(epochs,)`; NaN where a correlation is.

    Raises:
        TypeError: If `resamples` or `seed` is no integer.
        ValueError: As `rank_correlation_interval`, or if the shapes do not fit.

    Example:
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
    for values, end in ((scores, mode), (others, others_mode or mode)):
        table = np.asarray(values, dtype=np.float64)
        table = table[:, np.newaxis] if table.ndim == 1 else table
        rho.append(rank_correlation_curve(table, target, mode=end, **options))
        samples.append(
            bootstrap_correlations(
                table, target, mode=end, resamples=resamples, seed=seed, **options
            )
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

    Two calls with the same target, `resamples` and `seed` see the same resamples, so that their
    results can be compared pairwise.

    Returns:
        Shape `(resamples, columns)`; NaN where all scores or all targets of a resample tie.

    Raises:
        TypeError: If `resamples` or `seed` is no integer.
        ValueError: As in `rank_correlation`, or if `seed` is negative.

    Example:
        >>> bootstrap_correlations([1, 2, 3], [1, 2, 3], target_mode="min", resamples=4).shape
        (4, 1)
    """
    check_method(method)
    _validation.positive_int("resamples", resamples)
    _validation.seed("seed", seed)
    rows, goal, unknown = prepare(scores, target, mode=mode, target_mode=target_mode)
    samples = np.full((resamples, len(rows)), np.nan)
    known = np.flatnonzero(~unknown)
    generator = np.random.default_rng(seed)
    if method == "spearman":
        samples[:, known] = spearman_samples(rows[known], goal, resamples, generator)
        return samples
    for sample in samples:
        drawn = generator.integers(goal.size, size=goal.size)
        sample[known] = correlate(rows[np.ix_(known, drawn)], goal[drawn], method)
    return samples


def percentile_bounds(
    samples: NDArray[np.float64], *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds that hold the middle share `confidence` of each column.

    Raises:
        ValueError: If `confidence` is outside (0, 1).

    Example:
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
    for column in np.flatnonzero(undefined.any(axis=0) & ~undefined.all(axis=0)):
        defined = samples[~undefined[:, column], column]
        bounds[:, column] = np.percentile(defined, [tail, 100 - tail])
    return bounds[0], bounds[1]


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"Expected `confidence` to be in (0, 1) but got {confidence!r}.")
