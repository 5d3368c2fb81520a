from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lightning_sotl.stats.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
    rank_correlation_interval,
)


def resampled_by_scipy(
    scores: np.ndarray, target: np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """Draw as the fast code does, with the runs in the order of the target, and rank each draw."""
    order = np.argsort(target, kind="stable")
    scores, target = scores[order], target[order]
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(resamples):
        drawn = generator.integers(target.size, size=target.size)
        x, y = scores[drawn], target[drawn]
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        samples.append(np.nan if constant else stats.spearmanr(x, y).statistic)
    return np.array(samples)


@settings(max_examples=60, deadline=None)
@given(
    pair=st.integers(2, 15).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float64, n, elements=st.integers(-9, 9).map(float)),
            hnp.arrays(np.float64, n, elements=st.integers(-9, 9).map(float)),
        )
    ),
    seed=st.integers(0, 99),
)
def test_the_fast_resamples_equal_those_ranked_by_scipy(
    pair: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    scores, target = pair
    ours = bootstrap_correlations(scores, target, resamples=20, seed=seed, target_mode="min")
    expected = resampled_by_scipy(scores, target, resamples=20, seed=seed)
    np.testing.assert_allclose(ours[:, 0], expected, atol=1e-12)


def test_columns_share_their_resamples() -> None:
    generator = np.random.default_rng(0)
    scores, target = generator.normal(size=(40, 3)), generator.normal(size=40)
    together = bootstrap_correlations(scores, target, resamples=50)
    alone = bootstrap_correlations(scores[:, 1], target, resamples=50)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])


def test_diverged_scores_tie_in_last_place_in_resamples() -> None:
    scores, target = np.arange(12.0), np.random.default_rng(0).normal(size=12)
    diverged = np.where(scores > 8, np.nan, scores)
    last = np.where(scores > 8, 99.0, scores)
    np.testing.assert_array_equal(
        bootstrap_correlations(diverged, target, resamples=30),
        bootstrap_correlations(last, target, resamples=30),
    )


@pytest.mark.parametrize("method", ["spearman", "kendall", "weighted-tau"])
def test_the_interval_contains_the_estimate_and_narrows_with_more_runs(method: str) -> None:
    generator = np.random.default_rng(1)
    widths = []
    for runs in (30, 300):
        scores = generator.normal(size=runs)
        target = scores + generator.normal(size=runs)
        low, high = rank_correlation_interval(
            scores, target, method=method, target_mode="min", resamples=60
        )
        assert low.shape == high.shape == ()
        assert -1 <= low < high <= 1
        widths.append(float(high - low))
    assert widths[1] < widths[0] / 2


def test_the_interval_covers_the_true_correlation_at_about_its_confidence() -> None:
    # For normal pairs with correlation r, Spearman's rho is 6 / pi * asin(r / 2).
    generator, r, hits = np.random.default_rng(2), 0.6, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(200):
        x = generator.normal(size=80)
        y = r * x + np.sqrt(1 - r**2) * generator.normal(size=80)
        low, high = rank_correlation_interval(x, y, target_mode="min", resamples=200, seed=seed)
        hits += bool(low <= truth <= high)
    assert 0.88 <= hits / 200 <= 0.99


def test_columns_without_scores_have_no_interval() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, 2.0], [np.nan, 3.0]])
    low, high = rank_correlation_interval(scores, [3.0, 2.0, 1.0], resamples=50)
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert high[1] == 1.0


def test_resamples_in_which_all_runs_tie_are_ignored() -> None:
    samples = np.array([[np.nan, np.nan], [1.0, np.nan], [3.0, np.nan]])
    low, high = percentile_bounds(samples, confidence=0.5)
    np.testing.assert_array_equal(low, [1.5, np.nan])
    np.testing.assert_array_equal(high, [2.5, np.nan])


def test_the_difference_equals_that_of_scipy_on_the_same_resamples() -> None:
    generator = np.random.default_rng(3)
    losses, accuracies, target = generator.normal(size=(3, 40))
    gap, low, high = rank_correlation_difference(
        losses, accuracies, target, resamples=200, seed=5, others_mode="max", confidence=0.8
    )
    options = {"resamples": 200, "seed": 5}
    paired = resampled_by_scipy(losses, -target, **options)
    paired -= resampled_by_scipy(-accuracies, -target, **options)
    np.testing.assert_allclose([low, high], np.percentile(paired, [10, 90]))
    rho = [stats.spearmanr(one, target).statistic for one in (-losses, accuracies)]
    assert gap == pytest.approx(rho[0] - rho[1])


def test_each_epoch_is_compared_with_one_score_and_a_score_equals_itself() -> None:
    generator = np.random.default_rng(4)
    target = generator.normal(size=60)
    scores = np.stack([generator.normal(size=60), -target, np.full(60, np.nan)], axis=1)
    gap, low, high = rank_correlation_difference(scores, -target, target, resamples=50)
    assert high[0] < 0  # significantly worse
    assert (gap[1], low[1], high[1]) == (0, 0, 0)
    assert np.isnan([gap[2], low[2], high[2]]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"confidence": 1.0},
            ValueError,
            "Expected `confidence` to be in (0, 1) but got 1.0.",
        ),
        (
            {"confidence": 0.0},
            ValueError,
            "Expected `confidence` to be in (0, 1) but got 0.0.",
        ),
        (
            {"resamples": 0},
            ValueError,
            "Expected `resamples` to be a positive integer but got 0.",
        ),
        (
            {"resamples": 1.5},
            TypeError,
            "Expected `resamples` to be a positive integer but got 1.5.",
        ),
        ({"seed": -1}, ValueError, "Expected `seed` to be a non-negative integer but got -1."),
        ({"seed": None}, TypeError, "Expected `seed` to be a non-negative integer but got None."),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        rank_correlation_interval([1.0, 2.0], [1.0, 2.0], **arguments)


@pytest.mark.parametrize("shape", [(3, 2), (2,), ()])
def test_other_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = (
        f"Expected `others` to have the shape (3,) or that of `scores`, (3, 5), but got {shape}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rank_correlation_difference(np.ones((3, 5)), np.ones(shape), [1.0, 2.0, 3.0])
