"""What policies cost, and how good their picks are: each repeat, means, and paired differences."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NORMAL_95 = 1.959964  # two-sided


@dataclass(frozen=True)
class PolicyScores:
    """One policy on all repeats; lower is better everywhere.

    Attributes:
        trained: Trained epochs as a share of those of full training, N * E, shape `(repeats,)`.
        validated: Validation passes as a share of N * E, shape `(repeats,)`.
        rank_regret: (rank - 1) / (N - 1) of the pick by the target among the drawn runs, ties at
            the lowest rank, shape `(repeats,)`.
        metric_regret: How far the pick's target is from the best drawn run's, in the target's unit
            and at least 0, shape `(repeats,)`.
        validation_cost: c, what a validation pass costs, as a share of a training epoch.
    """

    trained: NDArray[np.float64]
    validated: NDArray[np.float64]
    rank_regret: NDArray[np.float64]
    metric_regret: NDArray[np.float64]
    validation_cost: float = 0.0

    @property
    def cost(self) -> NDArray[np.float64]:
        r"""What was spent as a share of full training with a validation in every epoch.

        .. math:: (\mathrm{trained} + c \cdot \mathrm{validated}) / (1 + c)
        """
        c = self.validation_cost
        return (self.trained + c * self.validated) / (1 + c)

    def means(self) -> dict[str, float]:
        """Return what stands in the document: means, and standard errors over the repeats."""
        return {
            "cost": float(self.cost.mean()),
            "cost_se": standard_error(self.cost),
            "rank_regret": float(self.rank_regret.mean()),
            "rank_regret_se": standard_error(self.rank_regret),
            "metric_regret": float(self.metric_regret.mean()),
        }


@dataclass(frozen=True)
class Replay:
    """Policies on the same draws.

    Attributes:
        runs: N, how many runs a repeat has.
        repeats: How many repeats.
        workers: How many runs are trained at a time.
        left_out: How many runs of the table cannot be replayed.
        policies: Name -> scores.
        notes: What a reader should know before trusting the numbers, in sentences.
    """

    runs: int
    repeats: int
    workers: int
    left_out: int
    policies: dict[str, PolicyScores]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document that `lightning-sotl replay --json` prints."""
        return {
            "runs": self.runs,
            "repeats": self.repeats,
            "workers": self.workers,
            "left_out": self.left_out,
            "policies": {name: scores.means() for name, scores in self.policies.items()},
        }

    def at_validation_cost(self, cost: float) -> Replay:
        """Return the same with another price of a validation pass; no decision depends on it."""
        policies = {
            name: dataclasses.replace(scores, validation_cost=cost)
            for name, scores in self.policies.items()
        }
        return dataclasses.replace(self, policies=policies)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its 95 % interval, by the normal approximation."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it with a sign."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Return how much a quantity of one policy is above another's on the same draws.

    Args:
        first: As `PolicyScores.cost` or `.rank_regret`, shape `(repeats,)`, at least 2 repeats.
        second: The other policy's, of the same replay.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> str(paired_difference(np.array([0.2, 0.4]), np.array([0.1, 0.1])))
        '+0.2000 [+0.0040, +0.3960]'
    """
    if first.shape != second.shape:
        raise ValueError(
            f"Expected `second` to have the shape {first.shape} of `first` but got {second.shape}."
        )
    gaps = first - second
    half = _NORMAL_95 * standard_error(gaps)
    mean = float(gaps.mean())
    return Difference(mean, mean - half, mean + half)


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of at least 2 values."""
    return float(values.std(ddof=1)) / math.sqrt(values.size)


def undominated(means: dict[str, dict[str, float]]) -> set[str]:
    """Return the policies that no other beats in cost or rank regret without losing in the other.

    Args:
        means: Name -> what `PolicyScores.means` gives.

    Example:
        >>> a, b = {"cost": 0.1, "rank_regret": 0.2}, {"cost": 0.1, "rank_regret": 0.3}
        >>> undominated({"a": a, "b": b})
        {'a'}
    """
    points = {name: (values["cost"], values["rank_regret"]) for name, values in means.items()}
    return {
        name
        for name, (cost, regret) in points.items()
        if not any(
            other != (cost, regret) and other[0] <= cost and other[1] <= regret
            for other in points.values()
        )
    }
