"""Selection among generators of runs (section 5.4 of the paper): groups instead of single runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl.stats.correlation import Method, rank_correlation
from lightning_sotl.stats.ranks import Mode, oriented


@dataclass(frozen=True)
class Generator:
    """A group of runs with a common origin, for example one random graph generator.

    Attributes:
        key: The key that the runs share.
        runs: The number of runs of the group with a finite target.
        score: The mean of the early scores. It is not finite if one of the runs has diverged.
        score_se: The standard error of `score`, or NaN for a single run.
        target: The mean of the final metric.
        target_se: The standard error of `target`, or NaN for a single run.
    """

    key: str
    runs: int
    score: float
    score_se: float
    target: float
    target_se: float


@dataclass(frozen=True)
class GeneratorSelection:
    """Groups of runs in order of their early score.

    Attributes:
        generators: The groups by mean score, best first; groups with a diverged run come last.
        correlation: The oriented rank correlation between the means of score and target.
        left_out: The number of runs without a finite target.
    """

    generators: tuple[Generator, ...]
    correlation: float
    left_out: int


def select_generator(
    scores: ArrayLike,
    target: ArrayLike,
    keys: Sequence[object],
    *,
    method: Method = "spearman",
    mode: Mode = "min",
    target_mode: Mode = "max",
) -> GeneratorSelection:
    """Return groups of runs in the order of their mean early score, and how well it predicts.

    Args:
        scores: An early score of each run, for example SoTL-E at T, shape `(runs,)`.
        target: The final result of each run, shape `(runs,)`. Runs without a finite target are
            left out.
        keys: The origin of each run, `runs` entries. Runs with equal keys form a group.
        method: As in `rank_correlation`.
        mode: "min" if lower scores are better.
        target_mode: "max" if a higher target is better.

    Raises:
        ValueError: If the lengths differ, or if fewer than two groups are left.

    Examples:
        >>> found = select_generator([3.0, 1.0, 5.0, 7.0], [0.8, 0.9, 0.6, 0.5], [1, 1, 2, 2])
        >>> [(g.key, g.score, g.score_se) for g in found.generators], found.correlation
        ([('1', 2.0, 1.0), ('2', 6.0, 1.0)], 1.0)

    Source:
        Ru et al., arXiv 2006.04492, section 5.4 and Fig. 5.
    """
    values, goal = np.asarray(scores, dtype=np.float64), np.asarray(target, dtype=np.float64)
    names = [str(key) for key in keys]
    if values.ndim != 1 or values.shape != goal.shape or len(names) != values.size:
        raise ValueError(
            "Expected `scores`, `target` and `keys` to have one entry per run but got the shapes "
            f"{values.shape}, {goal.shape} and ({len(names)},)."
        )
    known = np.flatnonzero(np.isfinite(goal))
    groups: dict[str, list[int]] = {}
    for row in known:
        groups.setdefault(names[row], []).append(int(row))
    if len(groups) < 2:
        raise ValueError(
            f"Expected at least 2 groups of runs with a finite target but got {len(groups)}."
        )
    # A diverged run makes its group's mean the worst.
    finite = np.where(np.isfinite(values), values, np.inf if mode == "min" else -np.inf)
    found = [
        Generator(key, len(rows), *_mean_and_error(finite[rows]), *_mean_and_error(goal[rows]))
        for key, rows in groups.items()
    ]
    means = np.array([group.score for group in found])
    order = np.argsort(oriented(means, mode=mode), kind="stable")
    targets = [group.target for group in found]
    correlation = rank_correlation(
        means, targets, method=method, mode=mode, target_mode=target_mode
    )
    ordered = tuple(found[index] for index in order)
    return GeneratorSelection(ordered, correlation, goal.size - known.size)


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    if values.size < 2 or not np.isfinite(values).all():
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
