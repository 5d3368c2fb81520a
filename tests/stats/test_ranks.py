from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lightning_sotl.stats.ranks import best_ranks, midranks, oriented, tie_bounds

TABLES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=2, max_side=8),
    elements=st.one_of(st.integers(-3, 3).map(float), st.just(float("inf"))),
)


@given(TABLES)
def test_midranks_equal_those_of_scipy(table: np.ndarray) -> None:
    np.testing.assert_array_equal(midranks(table), stats.rankdata(table, axis=-1))


@given(TABLES)
def test_best_ranks_equal_those_of_scipy(table: np.ndarray) -> None:
    np.testing.assert_array_equal(best_ranks(table), stats.rankdata(table, "min", axis=-1))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("min", [1.0, np.inf, np.inf, np.inf]), ("max", [-1.0, np.inf, np.inf, np.inf])],
)
def test_oriented_values_that_are_not_finite_are_the_worst(
    mode: str, expected: list[float]
) -> None:
    assert oriented([1.0, np.nan, np.inf, -np.inf], mode=mode).tolist() == expected


def test_tie_bounds_are_the_first_and_last_index_of_each_group() -> None:
    first, last = tie_bounds(np.array([1.0, 1.0, 2.0, np.inf, np.inf]))
    assert first.tolist() == [0, 0, 2, 3, 3]
    assert last.tolist() == [1, 1, 2, 4, 4]
