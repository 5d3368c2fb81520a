"""How well an early score orders runs: rank correlation, top-k overlap, regret, stability.

Every correlation is oriented: +1 means that the best scores belong to the best runs, for every
combination of directions.

All functions share these rules. A run without a finite target is left out. A run without a finite
score ranks last. Ties share the mean of their ranks. If no run has a score yet (for example SoTL-E
before E epochs), the result is NaN.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation
from lightning_sotl.stats.ranks import Mode, best_ranks, check_mode, midranks, oriented

Method = Literal["spearman", "kendall", "weighted-tau"]
METHODS: tuple[Method, ...] = ("spearman", "kendall", "weighted-tau")


def rank_correlation(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    method: Method = "spearman",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> float:
    """Return the oriented rank correlation of the scores of runs with their targets.

    With the default method, it is Spearman's rho, `corr(rank(scores), rank(target))`. Both are
    ranked from the best run to the worst, so +1 is full agreement. Higher is better.

    Args:
        scores: The early score of each run, for example SoTL-E at T, shape `(runs,)`. A non-finite
            score ranks last.
        target: The final result of each run, for example the test accuracy, shape `(runs,)`. Runs
            without a finite target are left out.
        method: "spearman" (the paper's), "kendall" (tau-b), or "weighted-tau" (Vigna's tau with
            hyperbolic weights, so that the best runs count most).
        mode: "min" if lower scores are better (all estimates from training losses), else "max".
        target_mode: "max" if a higher target is better (accuracy), "min" for a loss.

    Returns:
        The correlation in [-1, 1]; NaN if all scores or all targets tie, or if all scores are NaN.

    Raises:
        ValueError: If the shapes do not match, if a mode or the method is unknown, or if fewer
            than two runs have a finite target.

    Examples:
        >>> rank_correlation([0.2, 0.5, 0.9], [0.93, 0.91, 0.80])
        1.0

    Source:
        Ru et al., arXiv 2006.04492, section 5. Ties are treated as in `scipy.stats.spearmanr`,
        `kendalltau` (variant b) and `weightedtau`.
    """
    if np.ndim(scores) != 1:
        raise ValueError(
            f"Expected `scores` to have the shape (runs,) but got {np.shape(scores)}; "
            "`rank_correlation_curve` accepts (runs, epochs)."
        )
    table = np.asarray(scores, dtype=np.float64)[:, np.newaxis]
    curve = rank_correlation_curve(table, target, method=method, mode=mode, target_mode=target_mode)
    return float(curve[0])


def rank_correlation_curve(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    method: Method = "spearman",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> NDArray[np.float64]:
    """Return the oriented rank correlation with the target after each epoch.

    Args:
        scores: The score of each run after `k = 1, 2, ...` epochs, shape `(runs, epochs)`.
        target: The final result of each run, shape `(runs,)`. Runs without a finite target are
            left out.
        method: As in `rank_correlation`.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Returns:
        float64 array of shape `(epochs,)`. Entry `k - 1` is the correlation after `k` epochs, in
        [-1, 1]; higher is better. It is NaN if all scores or all targets tie, or if no run has a
        score yet.

    Raises:
        ValueError: As in `rank_correlation`.

    Examples:
        >>> curve = rank_correlation_curve([[2.0, 0.4], [1.9, 0.5], [1.8, 0.6]], [3.0, 2.0, 1.0])
        >>> curve.tolist()
        [-1.0, 1.0]
    """
    check_method(method)
    if np.ndim(scores) != 2:
        raise ValueError(
            f"Expected `scores` to have the shape (runs, epochs) but got {np.shape(scores)}."
        )
    rows, goal, unknown = prepare(scores, target, mode=mode, target_mode=target_mode)
    curve = correlate(rows, goal, method)
    curve[unknown] = np.nan
    return curve


def top_k_overlap(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    k: int,
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> NDArray[np.float64]:
    """Return the share of the k best runs by target that are also among the k best by score.

    If a tie crosses the border of the k best, the result is the mean over all ways to break it.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        target: The final result of each run, shape `(runs,)`. Runs without a finite target are
            left out.
        k: The size of both sets, from 1 to the number of runs with a finite target.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Returns:
        float64 array of shape `()` or `(epochs,)`, in [0, 1]; higher is better. NaN if no run has a
        score yet.

    Raises:
        TypeError: If `k` is not an integer.
        ValueError: If `k` is out of range; otherwise as in `rank_correlation`.

    Examples:
        >>> float(top_k_overlap([1.0, 2.0, 3.0, 4.0], [9.0, 7.0, 8.0, 1.0], k=2))
        0.5
    """
    rows, goal, unknown = prepare(scores, target, mode=mode, target_mode=target_mode)
    _check_k(k, goal.size)
    by_score = _chance_to_be_picked(rows, k)
    by_target = _chance_to_be_picked(goal[np.newaxis], k)
    overlap: NDArray[np.float64] = (by_score * by_target).sum(axis=1) / k
    overlap[unknown] = np.nan
    return overlap.reshape(np.shape(scores)[1:])


def selection_regret(
    scores: ArrayLike,
    target: ArrayLike,
    *,
    k: int = 1,
    unit: Literal["target", "rank"] = "target",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> NDArray[np.float64]:
    """Return how much worse the best of the k runs with the best scores is than the best run.

    The k best runs by score are kept, and the best of them by target is the pick. If a tie crosses
    the border of the k best, the result is the mean over all ways to break it.

    Args:
        scores: A score of each run, shape `(runs,)`, or after each epoch, `(runs, epochs)`.
        target: The final result of each run, shape `(runs,)`. Runs without a finite target are
            left out.
        k: The number of runs to keep, from 1 to the number of runs with a finite target.
        unit: "target" for the difference in the target's own unit, or "rank" for
            `(rank - 1) / (runs - 1)`, where rank is the pick's rank by the target. Tied targets
            share their lowest rank.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Returns:
        float64 array of shape `()` or `(epochs,)`, at least 0; lower is better. NaN if no run has a
        score yet.

    Raises:
        TypeError: If `k` is not an integer.
        ValueError: If `k` or `unit` is out of range; otherwise as in `rank_correlation`.

    Examples:
        >>> float(selection_regret([1.0, 2.0, 3.0], [0.5, 0.75, 0.25]))
        0.25
        >>> float(selection_regret([1.0, 2.0, 3.0], [0.5, 0.75, 0.25], k=2))
        0.0
    """
    if unit not in ("target", "rank"):
        raise ValueError(f"Expected `unit` to be 'target' or 'rank' but got {unit!r}.")
    rows, goal, unknown = prepare(scores, target, mode=mode, target_mode=target_mode)
    _check_k(k, goal.size)
    is_rank = unit == "rank"
    regrets = (best_ranks(goal) - 1) / (goal.size - 1) if is_rank else goal - goal.min()
    regret = np.array([_expected_best(row, regrets, k) for row in rows])
    regret[unknown] = np.nan
    return regret.reshape(np.shape(scores)[1:])


def order_stability(
    scores: ArrayLike, *, at: int, method: Method = "spearman", mode: Mode = "min"
) -> float:
    """Return the rank correlation between the order at T/2 and the order at T.

    A value near 1 means that the order has settled, and more epochs would change little. No target
    is needed.

    Args:
        scores: A score of each run after each epoch, shape `(runs, epochs)`.
        at: T, from 2 to the number of epochs; T/2 is rounded down.
        method: As in `rank_correlation`.
        mode: "min" if lower scores are better.

    Returns:
        The correlation in [-1, 1]; NaN if no run has a score at T/2 or at T, or if all scores tie.

    Raises:
        TypeError: If `at` is not an integer.
        ValueError: If `at` is out of range, or as in `rank_correlation`.

    Examples:
        >>> order_stability([[3.0, 1.0], [3.5, 2.0], [4.0, 3.0]], at=2)
        1.0
    """
    check_method(method)
    check_mode("mode", mode)
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2:
        raise ValueError(
            "Expected `scores` to have the shape (runs, epochs) with at least 2 runs but got "
            f"{table.shape}."
        )
    if validation.positive_int("at", at) < 2 or at > table.shape[1]:
        raise ValueError(f"Expected `at` to be in [2, {table.shape[1]}] but got {at}.")
    half, full = table[:, at // 2 - 1], table[:, at - 1]
    if np.isnan(half).all() or np.isnan(full).all():
        return float("nan")
    rows = oriented(half[np.newaxis], mode=mode)
    return float(correlate(rows, oriented(full, mode=mode), method)[0])


def check_method(method: object) -> None:
    """Check that `method` is one of `METHODS`.

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
    """Check scores and target, orient both, and leave out the runs without a finite target.

    Returns:
        Oriented scores, shape `(columns, runs)`; oriented target, shape `(runs,)`; and whether
        all scores of a column are NaN, shape `(columns,)`. Lower is better in both.

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
    rows = np.ascontiguousarray(oriented(columns, mode=mode))
    unknown: NDArray[np.bool_] = np.all(np.isnan(columns), axis=1)
    return rows, oriented(goal[has_target], mode=target_mode), unknown


def correlate(
    scores: NDArray[np.float64], target: NDArray[np.float64], method: Method
) -> NDArray[np.float64]:
    """Return the rank correlation of each row of oriented scores with the oriented target.

    Args:
        scores: Lower is better, shape `(columns, runs)`.
        target: Lower is better, shape `(runs,)`.
        method: As in `rank_correlation`.

    Returns:
        Shape `(columns,)`; NaN where all scores or all targets tie.
    """
    if method == "spearman":
        return _spearman(scores, target)
    from scipy import stats  # takes a second to import, and only tau needs it

    function = stats.kendalltau if method == "kendall" else stats.weightedtau
    # Ranks instead of values: SciPy treats an infinite score as missing.
    ranks, target_ranks = -midranks(scores), -midranks(target)
    taus = np.full(len(ranks), np.nan)
    if np.ptp(target_ranks) > 0:
        for index, row in enumerate(ranks):
            if np.ptp(row) > 0:  # otherwise `weightedtau` would divide by zero
                taus[index] = function(row, target_ranks).statistic
    return taus


def _spearman(scores: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    center = (target.size + 1) / 2
    ranks, target_ranks = midranks(scores) - center, midranks(target) - center
    # Ranks are multiples of 1/2, so sums of their products are exact.
    scale = np.sqrt(np.einsum("ij,ij->i", ranks, ranks) * (target_ranks @ target_ranks))
    with np.errstate(invalid="ignore"):
        correlation: NDArray[np.float64] = ranks @ target_ranks / scale
    return np.clip(correlation, -1.0, 1.0)


def _check_k(k: int, runs: int) -> None:
    if validation.positive_int("k", k) > runs:
        raise ValueError(
            f"Expected `k` to be at most {runs}, the runs with a finite target, but got {k}."
        )


def _chance_to_be_picked(rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return each run's chance to be among the k lowest of its row, ties broken at random."""
    border = np.partition(rows, k - 1, axis=1)[:, k - 1 : k]
    inside, at_border = rows < border, rows == border
    places = k - inside.sum(axis=1, keepdims=True)
    chance: NDArray[np.float64] = inside + at_border * places / at_border.sum(1, keepdims=True)
    return chance


def _expected_best(row: NDArray[np.float64], regrets: NDArray[np.float64], k: int) -> float:
    """Return the mean of the least regret among the k lowest of a row, ties broken at random."""
    border = np.partition(row, k - 1)[k - 1]
    inside, tied = regrets[row < border], np.sort(regrets[row == border])
    certain = inside.min(initial=np.inf)
    places = k - inside.size
    expected, chance_left = 0.0, 1.0
    for drawn, value in enumerate(tied):
        # The chance that this run is the best of `places` draws if no better one was drawn.
        chance = min(places / (tied.size - drawn), 1.0)
        expected += chance_left * chance * min(value, certain)
        chance_left *= 1.0 - chance
    return float(expected)
