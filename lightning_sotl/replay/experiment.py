"""Compares policies on many draws of runs from one table, with the same draws for each policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize, quote_all
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.replay.policy import Policy
from lightning_sotl.replay.recorded import Recorded, replayable
from lightning_sotl.replay.simulation import simulate
from lightning_sotl.stats.ranks import best_ranks

RUNS, REPEATS = 81, 200
_NORMAL_95 = 1.959964  # two-sided


@dataclass(frozen=True)
class PolicyScores:
    """The scores of one policy in all repeats. Lower is better everywhere.

    N is the number of runs in a repeat. Full training trains each of them for `max_epochs`.

    Attributes:
        trained: Trained epochs as a share of full training, N * max_epochs, shape `(repeats,)`.
        validated: Validation passes as a share of N * max_epochs, shape `(repeats,)`.
        rank_regret: (rank - 1) / (N - 1), where rank is the pick's rank among the drawn runs by the
            target. Ties share the lowest rank. Shape `(repeats,)`.
        metric_regret: The distance of the pick's target from the best drawn run's, in the target's
            unit and at least 0, shape `(repeats,)`.
        validation_cost: c, the cost of a validation pass as a share of a training epoch.
    """

    trained: NDArray[np.float64]
    validated: NDArray[np.float64]
    rank_regret: NDArray[np.float64]
    metric_regret: NDArray[np.float64]
    validation_cost: float = 0.0

    @property
    def cost(self) -> NDArray[np.float64]:
        """The cost as a share of full training with a validation in every epoch.

        It is `(trained + c * validated) / (1 + c)`, shape `(repeats,)`.
        """
        price = self.validation_cost
        return (self.trained + price * self.validated) / (1 + price)

    def means(self) -> dict[str, float]:
        """Return the means of the scores, and their standard errors over the repeats."""
        return {
            "cost": float(self.cost.mean()),
            "cost_se": standard_error(self.cost),
            "rank_regret": float(self.rank_regret.mean()),
            "rank_regret_se": standard_error(self.rank_regret),
            "metric_regret": float(self.metric_regret.mean()),
        }


@dataclass(frozen=True)
class Replay:
    """The scores of several policies on the same draws.

    Attributes:
        runs: N, the number of runs in a repeat.
        repeats: The number of repeats.
        workers: How many runs train at the same time.
        left_out: How many runs of the table cannot be replayed.
        policies: The scores by policy name.
        notes: Sentences that a reader should know before trusting the numbers.
        remarks: Sentences on what is in order but may surprise.
    """

    runs: int
    repeats: int
    workers: int
    left_out: int
    policies: dict[str, PolicyScores]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

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
        """Return the same decisions with another cost of a validation pass."""
        scores = self.policies.items()
        policies = {name: dataclasses.replace(old, validation_cost=cost) for name, old in scores}
        return dataclasses.replace(self, policies=policies)


def replay(
    curves: LearningCurves,
    policies: Sequence[Policy],
    *,
    runs: int = RUNS,
    repeats: int = REPEATS,
    workers: int | None = None,
    seed: int = 0,
    validation_cost: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Return the cost and the regret that each policy would have had.

    Repeat r draws its runs without replacement, with `numpy.random.default_rng([seed, r])`. The
    draws are the same for every policy, so the results are paired.

    Args:
        curves: Finished runs, with `final_metric`. `replayable` describes which of them are used.
        policies: Policies with different names.
        runs: N, the number of runs that a repeat draws, at least 2. If the table has fewer, each
            repeat has all of them.
        repeats: The number of repeats, at least 2 because of the standard errors.
        workers: How many runs train at the same time. None, or more than N, means all N.
        seed: The seed of the draws, at least 0.
        validation_cost: The cost of a validation pass as a share of a training epoch, at least 0. A
            policy that reads only training losses pays it for the last epoch of full training. The
            adaptive policies pay it for the last three epochs.
        progress: Called with the number of finished repeats of all policies and their total.

    Raises:
        TypeError: If `runs`, `repeats`, `workers` or `seed` is not an integer, or if
            `validation_cost` is not a number.
        ValueError: If a number is out of range, if two policies have the same name, if the curves
            cannot be replayed, if a policy cannot run on them, or if `validation_cost` is above 0
            and there are no validation values.

    Examples:
        >>> from lightning_sotl.replay.policies.baselines import named_baseline
        >>> curves = LearningCurves([[3.0, 2.0], [2.0, 1.0]], final_metric=[0.8, 0.9])
        >>> found = replay(curves, [named_baseline("fixed-t1-top1")], repeats=2)
        >>> found.runs, found.policies["fixed-t1-top1"].cost.tolist()
        (2, [0.75, 0.75])
    """
    _check_numbers(runs, repeats, workers, seed, validation_cost)
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected `policies` to have different names but got {quote_all(names)}.")
    recorded = replayable(curves)
    if validation_cost > 0 and recorded.validation is None:
        raise ValueError(
            f"Expected validation values at a validation cost of {validation_cost}, but the curves "
            "have neither `val_metric` nor `val_loss`."
        )
    available = len(recorded.target)
    drawn = min(runs, available)
    workers = drawn if workers is None else min(workers, drawn)
    draws = []
    for repeat in range(repeats):
        entropy = [seed, repeat]
        rows = np.random.default_rng(entropy).choice(available, drawn, replace=False)
        # The seed is for policies that draw random numbers.
        draws.append((rows, int(np.random.SeedSequence(entropy).generate_state(1)[0])))
    for policy in policies:  # a policy that cannot run on the curves raises now, not later
        _outcome(policy, recorded, *draws[0], workers)
    scores: dict[str, PolicyScores] = {}
    total, cost = repeats * len(policies), float(validation_cost)
    for index, policy in enumerate(policies):
        outcomes = []
        for draw in draws:
            outcomes.append(_outcome(policy, recorded, *draw, workers))
            if progress is not None:
                progress(index * repeats + len(outcomes), total)
        trained, validated, ranks, metrics = np.transpose(outcomes)
        scores[policy.name] = PolicyScores(trained, validated, ranks, metrics, cost)
    return Replay(
        drawn,
        repeats,
        workers,
        recorded.left_out,
        scores,
        notes=(*recorded.notes, *_notes(scores)),
        remarks=_remarks(drawn, available),
    )


def _check_numbers(
    runs: int, repeats: int, workers: int | None, seed: int, validation_cost: object
) -> None:
    for name, value in {"runs": runs, "repeats": repeats}.items():
        if validation.positive_int(name, value) < 2:
            raise ValueError(f"Expected `{name}` to be at least 2 but got {value}.")
    if workers is not None:
        validation.positive_int("workers", workers)
    validation.seed("seed", seed)
    numbers = (int, float, np.integer, np.floating)
    if isinstance(validation_cost, bool) or not isinstance(validation_cost, numbers):
        raise TypeError(
            f"Expected `validation_cost` to be a number of at least 0 but got {validation_cost!r}."
        )
    if not (math.isfinite(validation_cost) and validation_cost >= 0):
        raise ValueError(
            f"Expected `validation_cost` to be at least 0 and finite but got {validation_cost!r}."
        )


def _outcome(
    policy: Policy, recorded: Recorded, rows: NDArray[np.int64], seed: int, workers: int
) -> tuple[float, float, float, float]:
    """Return the trained and validated shares of full training, and both regrets, in one draw."""
    train, target = recorded.train[rows], recorded.target[rows]
    validation = None if recorded.validation is None else recorded.validation[rows]
    outcome = simulate(policy, train, validation, workers=workers, seed=seed)
    rank = int(best_ranks(target)[outcome.pick])
    return (
        float(outcome.epochs.sum()) / train.size,
        outcome.validations / train.size,
        (rank - 1) / (len(rows) - 1),
        float(target[outcome.pick] - target.min()),
    )


def _notes(scores: dict[str, PolicyScores]) -> list[str]:
    full = [name for name, found in scores.items() if name != "full" and found.trained.min() == 1]
    if not full:
        return []
    return [
        f"{quote_all(full)} stopped no run in any repeat. A policy that compares with complete "
        "runs cannot stop any while all runs train at the same time."
    ]


def _remarks(drawn: int, available: int) -> tuple[str, ...]:
    if drawn < available:
        return ()
    return (
        f"Each repeat draws all {pluralize(available, 'run')}, in a different order. The standard "
        "errors show the effect of the order, not of other runs.",
    )


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its 95% interval, by the normal approximation."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the mean and the interval, with signs."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Return by how much a quantity of one policy exceeds that of another on the same draws.

    Args:
        first: For example `PolicyScores.cost`, shape `(repeats,)`, at least 2 repeats.
        second: The same quantity of the other policy in the same replay.

    Raises:
        ValueError: If the shapes differ.

    Examples:
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
    """Return the policies on the frontier of cost and rank regret.

    A policy is not on the frontier if another is at least as good in both and better in one.

    Args:
        means: `PolicyScores.means()` by policy name.

    Examples:
        >>> a, b = {"cost": 0.1, "rank_regret": 0.2}, {"cost": 0.1, "rank_regret": 0.3}
        >>> undominated({"a": a, "b": b})
        {'a'}
    """
    points = {name: (values["cost"], values["rank_regret"]) for name, values in means.items()}

    def is_beaten(point: tuple[float, float]) -> bool:
        others = (other for other in points.values() if other != point)
        return any(other[0] <= point[0] and other[1] <= point[1] for other in others)

    return {name for name, point in points.items() if not is_beaten(point)}
