from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from lightning_sotl.replay.experiment import (
    PolicyScores,
    Replay,
    paired_difference,
    standard_error,
    undominated,
)

TRAINED = np.array([0.2, 0.4])
ZERO = np.zeros(2)


@pytest.mark.parametrize(
    ("validated", "price", "cost"),
    [
        (TRAINED, 0.0, [0.2, 0.4]),
        (TRAINED, 0.5, [0.2, 0.4]),  # it validates in each epoch, as full training does
        (np.array([0.05, 0.1]), 1.0, [0.125, 0.25]),
        (ZERO, 0.25, [0.16, 0.32]),
    ],
)
def test_cost_is_a_share_of_full_training_with_its_validations(
    validated: np.ndarray, price: float, cost: list[float]
) -> None:
    scores = PolicyScores(TRAINED, validated, ZERO, ZERO)
    result = Replay(2, 2, 1, 0, {"a": scores}).at_validation_cost(price)
    np.testing.assert_allclose(result.policies["a"].cost, cost, rtol=1e-12)


def test_means_and_standard_errors() -> None:
    values = np.array([0.1, 0.4, 0.4])
    scores = PolicyScores(values, values, values / 2, values * 3)
    means = scores.means()
    assert means == {
        "cost": pytest.approx(0.3),
        "cost_se": pytest.approx(stats.sem(values)),
        "rank_regret": pytest.approx(0.15),
        "rank_regret_se": pytest.approx(stats.sem(values / 2)),
        "metric_regret": pytest.approx(0.9),
    }


def test_paired_difference_has_the_normal_interval() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(size=50)
    first, second = shared + 0.1, shared + generator.normal(size=50) / 10
    found = paired_difference(first, second)
    low, high = stats.norm.interval(0.95, (first - second).mean(), stats.sem(first - second))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.high - found.low < 4 * standard_error(first)  # the shared part cancels


def test_paired_difference_needs_the_same_repeats() -> None:
    message = "Expected `second` to have the shape (2,) of `first` but got (3,)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        paired_difference(ZERO, np.zeros(3))


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ({"a": (1, 0), "b": (0.5, 0), "c": (0.5, 1)}, {"b"}),
        ({"a": (1, 0), "b": (0.5, 0.5)}, {"a", "b"}),
        ({"a": (1, 0), "b": (1, 0)}, {"a", "b"}),
        ({"a": (1, math.inf)}, {"a"}),
    ],
)
def test_undominated(points: dict[str, tuple[float, float]], best: set[str]) -> None:
    means = {name: {"cost": cost, "rank_regret": r} for name, (cost, r) in points.items()}
    assert undominated(means) == best
