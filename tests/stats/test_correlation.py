from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lightning_sotl.stats.correlation import (
    order_stability,
    rank_correlation,
    rank_correlation_curve,
    selection_regret,
    top_k_overlap,
)

SMALL = st.integers(-4, 4).map(float)
PAIRS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=SMALL), hnp.arrays(np.float64, n, elements=SMALL)
    )
)


def oracle(x: np.ndarray, y: np.ndarray, method: str) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    function = {
        "spearman": stats.spearmanr,
        "kendall": stats.kendalltau,
        "weighted-tau": stats.weightedtau,
    }[method]
    return float(function(x, y).statistic)


@pytest.mark.parametrize("method", ["spearman", "kendall", "weighted-tau"])
@given(pair=PAIRS)
def test_the_correlation_with_ties_equals_that_of_scipy(
    method: str, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = pair
    # SciPy's weighted tau counts high values most, so both are given as "higher is better".
    ours = rank_correlation(x, y, method=method, mode="max", target_mode="max")
    assert ours == pytest.approx(oracle(x, y, method), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("method", ["spearman", "kendall", "weighted-tau"])
@pytest.mark.parametrize(
    ("mode", "target_mode", "sign"),
    [("min", "max", -1), ("max", "min", -1), ("min", "min", 1), ("max", "max", 1)],
)
def test_the_correlation_is_oriented(method: str, mode: str, target_mode: str, sign: int) -> None:
    rising = np.arange(6.0)
    value = rank_correlation(rising, rising, method=method, mode=mode, target_mode=target_mode)
    assert value == pytest.approx(sign)


def test_lower_loss_and_higher_accuracy_agree_by_default() -> None:
    assert rank_correlation([0.1, 0.2, 0.3], [0.9, 0.8, 0.7]) == 1.0


@pytest.mark.parametrize("method", ["spearman", "kendall", "weighted-tau"])
@pytest.mark.parametrize("diverged", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_diverged_run_ranks_last(method: str, diverged: float, mode: str) -> None:
    worst = 9.0 if mode == "min" else -9.0
    scores, target = [0.3, diverged, 0.1, 0.2], [3.0, 1.0, 2.0, 4.0]
    finite = [worst if not np.isfinite(score) else score for score in scores]
    expected = rank_correlation(finite, target, method=method, mode=mode)
    assert rank_correlation(scores, target, method=method, mode=mode) == expected


def test_a_run_without_a_finite_target_is_left_out() -> None:
    full = rank_correlation([1.0, 2.0, 4.0], [3.0, 1.0, 2.0])
    assert rank_correlation([1.0, 0.0, 2.0, 4.0], [3.0, np.nan, 1.0, 2.0]) == full


def test_the_correlation_is_undefined_before_any_run_has_a_score() -> None:
    curve = rank_correlation_curve([[np.nan, 1.0], [np.nan, 2.0]], [2.0, 1.0])
    np.testing.assert_array_equal(curve, [np.nan, 1.0])
    np.testing.assert_array_equal(
        top_k_overlap([[np.nan, 1.0], [np.nan, 2.0]], [2.0, 1.0], k=1), [np.nan, 1.0]
    )
    np.testing.assert_array_equal(
        selection_regret([[np.nan, 1.0], [np.nan, 2.0]], [2.0, 1.0]), [np.nan, 0.0]
    )


@pytest.mark.parametrize("method", ["spearman", "kendall", "weighted-tau"])
@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [np.inf, np.inf, np.nan]])
def test_the_correlation_of_equal_scores_is_undefined(method: str, scores: list[float]) -> None:
    assert np.isnan(rank_correlation(scores, [1.0, 2.0, 3.0], method=method))


def test_the_curve_is_the_correlation_after_each_epoch() -> None:
    generator = np.random.default_rng(0)
    scores, target = generator.normal(size=(20, 5)), generator.normal(size=20)
    expected = [-stats.spearmanr(scores[:, k], target).statistic for k in range(5)]
    np.testing.assert_allclose(rank_correlation_curve(scores, target), expected, atol=1e-12)


def by_every_order(values: np.ndarray) -> list[tuple[int, ...]]:
    """Return every order of the runs, best first, that ties allow."""
    return [
        order
        for order in itertools.permutations(range(values.size))
        if all(values[a] <= values[b] for a, b in itertools.pairwise(order))
    ]


@settings(max_examples=40, deadline=None)
@given(
    pair=st.integers(2, 5).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float64, n, elements=st.integers(0, 2).map(float)),
            hnp.arrays(np.float64, n, elements=st.integers(0, 3).map(float)),
            st.integers(1, n),
        )
    )
)
def test_overlap_and_regret_are_means_over_all_ways_to_break_ties(
    pair: tuple[np.ndarray, np.ndarray, int],
) -> None:
    scores, target, k = pair
    picks = [set(order[:k]) for order in by_every_order(scores)]
    bests = [set(order[:k]) for order in by_every_order(target)]
    overlap = np.mean([len(pick & best) / k for pick in picks for best in bests])
    regret = np.mean([min(target[list(pick)]) - target.min() for pick in picks])
    assert float(top_k_overlap(scores, target, k=k, target_mode="min")) == pytest.approx(overlap)
    ours = float(selection_regret(scores, target, k=k, target_mode="min"))
    assert ours == pytest.approx(regret)


def test_regret_in_ranks_counts_ties_at_the_lowest_rank() -> None:
    target = [0.9, 0.8, 0.8, 0.5, 0.1]
    picks_the_second = [2.0, 1.0, 3.0, 4.0, 5.0]
    picks_the_third = [2.0, 3.0, 1.0, 4.0, 5.0]
    assert float(selection_regret(picks_the_second, target, unit="rank")) == 0.25
    assert float(selection_regret(picks_the_third, target, unit="rank")) == 0.25


def test_a_diverged_run_is_picked_only_if_no_other_run_is_left() -> None:
    assert float(selection_regret([-np.inf, np.nan, 5.0], [1.0, 0.8, 0.5])) == 0.5


def test_stability_compares_the_orders_at_half_of_t_and_at_t() -> None:
    scores = np.array([[9.0, 3.0, 9.0, 9.0, 1.0], [9.0, 1.0, 9.0, 9.0, 2.0], [9.0, 2, 9, 9, 3.0]])
    expected = stats.spearmanr([3.0, 1.0, 2.0], [1.0, 2.0, 3.0]).statistic
    assert order_stability(scores, at=5) == pytest.approx(expected)


def test_stability_is_undefined_before_the_score_exists() -> None:
    assert np.isnan(order_stability([[np.nan, 1.0], [np.nan, 2.0]], at=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rank_correlation([1.0, 2.0], [1.0, np.nan]),
            "Expected at least 2 runs with a finite target but got 1 of 2.",
        ),
        (
            lambda: rank_correlation([1.0], [1.0]),
            "Expected at least 2 runs with a finite target but got 1 of 1.",
        ),
        (
            lambda: rank_correlation([], []),
            "Expected at least 2 runs with a finite target but got 0 of 0.",
        ),
        (
            lambda: rank_correlation([[1.0], [2.0]], [1.0, 2.0]),
            "Expected `scores` to have the shape (runs,) but got (2, 1); "
            "`rank_correlation_curve` accepts (runs, epochs).",
        ),
        (
            lambda: rank_correlation_curve([1.0, 2.0], [1.0, 2.0]),
            "Expected `scores` to have the shape (runs, epochs) but got (2,).",
        ),
        (
            lambda: rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0]),
            "Expected `scores` of shape (runs,) or (runs, epochs) and `target` of shape (runs,) "
            "but got (3, 1) and (2,).",
        ),
        (
            lambda: rank_correlation([1.0, 2.0], [1.0, 2.0], mode="up"),
            "Expected `mode` to be 'min' or 'max' but got 'up'.",
        ),
        (
            lambda: rank_correlation([1.0, 2.0], [1.0, 2.0], target_mode=1),
            "Expected `target_mode` to be 'min' or 'max' but got 1.",
        ),
        (
            lambda: rank_correlation([1.0, 2.0], [1.0, 2.0], method="pearson"),
            "Expected `method` to be one of 'spearman', 'kendall', 'weighted-tau' but got "
            "'pearson'.",
        ),
        (
            lambda: top_k_overlap([1.0, 2.0], [1.0, 2.0], k=3),
            "Expected `k` to be at most 2, the runs with a finite target, but got 3.",
        ),
        (
            lambda: top_k_overlap([1.0, 2.0], [1.0, 2.0], k=0),
            "Expected `k` to be a positive integer but got 0.",
        ),
        (
            lambda: selection_regret([1.0, 2.0], [1.0, 2.0], unit="metric"),
            "Expected `unit` to be 'target' or 'rank' but got 'metric'.",
        ),
        (
            lambda: order_stability([[1.0, 2.0], [2.0, 3.0]], at=3),
            "Expected `at` to be in [2, 2] but got 3.",
        ),
        (
            lambda: order_stability([[1.0, 2.0]], at=2),
            "Expected `scores` to have the shape (runs, epochs) with at least 2 runs but got "
            "(1, 2).",
        ),
    ],
)
def test_wrong_arguments_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
