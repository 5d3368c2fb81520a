import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_sotl import sotl, sotl_e, sotl_ema
from lightning_sotl.losses.estimators import discounted_sum

NAN, INF = math.nan, math.inf
CURVE = [2.0, 1.0, 0.5, 0.25]


def test_sotl_sums_all_epochs_so_far():
    np.testing.assert_array_equal(sotl(CURVE), [2.0, 3.0, 3.5, 3.75])


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [2.0, 1.0, 0.5, 0.25]),
        (2, [NAN, 3.0, 1.5, 0.75]),
        (4, [NAN, NAN, NAN, 3.75]),
        (5, [NAN, NAN, NAN, NAN]),
    ],
)
def test_sotl_e_sums_the_last_epochs_once_there_are_enough(window, expected):
    np.testing.assert_array_equal(sotl_e(CURVE, window=window), expected)


def test_sotl_ema_weights_by_age_with_the_newest_at_one():
    expected = [2.0, 0.5 * 2 + 1, 0.25 * 2 + 0.5 * 1 + 0.5, 0.125 * 2 + 0.25 + 0.25 + 0.25]
    np.testing.assert_allclose(sotl_ema(CURVE, decay=0.5), expected, rtol=1e-15)


def test_sotl_ema_has_decay_0_999_by_default():
    np.testing.assert_allclose(sotl_ema([1.0, 1.0])[-1], 1.999, rtol=1e-15)


def test_tables_of_any_rank_are_summed_along_their_last_axis():
    table = np.random.default_rng(0).random((2, 3, 7))
    expected = np.array([[np.cumsum(curve) for curve in rows] for rows in table])
    np.testing.assert_array_equal(sotl(table), expected)
    for rows, estimates in zip(table, sotl_e(table, window=3), strict=True):
        for curve, estimate in zip(rows, estimates, strict=True):
            windows = np.convolve(curve, np.ones(3), mode="valid")
            np.testing.assert_allclose(estimate[2:], windows, rtol=1e-14)


@pytest.mark.parametrize("diverged", [NAN, INF, -INF])
def test_a_diverged_epoch_ranks_last_wherever_it_is_summed(diverged):
    curve = [1.0, diverged, 1.0, 1.0]
    np.testing.assert_array_equal(sotl(curve), [1.0, INF, INF, INF])
    np.testing.assert_array_equal(sotl_ema(curve), [1.0, INF, INF, INF])
    np.testing.assert_array_equal(sotl_e(curve), [1.0, INF, 1.0, 1.0])
    np.testing.assert_array_equal(sotl_e(curve, window=2), [NAN, INF, INF, 2.0])


@pytest.mark.parametrize("estimator", [sotl, sotl_e, sotl_ema])
def test_the_run_that_trains_faster_ranks_first_by_default_arguments(estimator):
    epochs = np.arange(20)
    fast, slow = np.exp(-0.3 * epochs), np.exp(-0.1 * epochs)
    assert np.all(estimator(fast)[1:] < estimator(slow)[1:])


@pytest.mark.parametrize("estimator", [sotl, sotl_e, sotl_ema])
def test_an_empty_curve_has_no_estimates(estimator):
    assert estimator(np.empty((3, 0))).shape == (3, 0)
    assert estimator([]).dtype == np.float64


@pytest.mark.parametrize("estimator", [sotl, sotl_e, sotl_ema])
def test_integers_and_float32_become_float64(estimator):
    assert estimator(np.array([1, 2])).dtype == np.float64
    assert estimator(np.array([1, 2], dtype=np.float32)).dtype == np.float64


losses = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e3))


@given(losses, st.integers(1, 30))
def test_the_value_after_k_epochs_depends_on_those_k_epochs_only(curve, k):
    k = min(k, curve.size)
    for estimator in (sotl, sotl_ema, lambda x: sotl_e(x, window=3)):
        np.testing.assert_array_equal(estimator(curve)[:k], estimator(curve[:k]))


@given(losses, st.floats(0.01, 1.0))
def test_a_running_sum_equals_the_table_at_every_prefix(curve, decay):
    total = 0.0
    for loss, expected in zip(curve, sotl_ema(curve, decay=decay), strict=True):
        total = discounted_sum(total, loss, decay=decay)
        assert total == expected


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: sotl_e([1.0], window=0),
            ValueError,
            "Expected `window` to be a positive integer but got 0.",
        ),
        (
            lambda: sotl_e([1.0], window=True),
            TypeError,
            "Expected `window` to be a positive integer but got True.",
        ),
        (
            lambda: sotl_e([1.0], window=1.5),
            TypeError,
            "Expected `window` to be a positive integer but got 1.5.",
        ),
        (
            lambda: sotl_ema([1.0], decay=1.5),
            ValueError,
            "Expected `decay` to be a number in (0, 1] but got 1.5.",
        ),
        (
            lambda: sotl_ema([1.0], decay=0.0),
            ValueError,
            "Expected `decay` to be a number in (0, 1] but got 0.0.",
        ),
        (
            lambda: sotl_ema([1.0], decay=NAN),
            ValueError,
            "Expected `decay` to be a number in (0, 1] but got nan.",
        ),
        (
            lambda: sotl_ema([1.0], decay="0.9"),
            TypeError,
            "Expected `decay` to be a number in (0, 1] but got '0.9'.",
        ),
        (
            lambda: sotl(3.0),
            ValueError,
            "Expected `losses` to have the shape (..., epochs) but got a single number.",
        ),
    ],
)
def test_errors_name_the_argument_and_its_value(call, error, message):
    with pytest.raises(error, match="Expected") as caught:
        call()
    assert str(caught.value) == message
