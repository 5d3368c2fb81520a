"""Decisions about runs that take turns, on tables of losses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy


def in_order(runs: int, epochs: int) -> np.ndarray:
    """Return losses of runs whose order never changes. The first run is the best."""
    return np.array([[run + 1 / (epoch + 1) for epoch in range(epochs)] for run in range(runs)])


def continuing(policy: AdaptivePolicy, losses: np.ndarray, rung: int) -> list[int]:
    reached = list(range(len(losses)))
    decisions = policy.decide_at_rung(rung, reached, losses)
    return [run for run, decision in zip(reached, decisions, strict=True) if decision.goes_on]


def test_values_after_the_rung_are_ignored():
    losses, values = np.random.default_rng(0).uniform(size=(2, 9, 12))
    policy = AdaptivePolicy(max_epochs=12, runs=9)
    beyond = policy.decide_at_rung(4, range(9), losses, values)
    assert beyond == policy.decide_at_rung(4, range(9), losses[:, :4], values[:, :4])
    assert {decision.epoch for decision in beyond} == {4}


# If the order never changes, a large sweep keeps `max_epochs / rung` places, which is half at each
# doubling. From 3 epochs to 48 there are 4 doublings, so this needs at least 16 runs. A sweep of 12
# runs shrinks by 12 ** (1 / 4) per doubling: 12, 6.4, 3.5 places.
@pytest.mark.parametrize(
    ("runs", "rung", "places"),
    [
        (81, 3, 16),
        (81, 6, 8),
        (81, 12, 4),
        (81, 24, 3),
        (16, 3, 16),
        (16, 6, 8),
        (12, 3, 12),
        (12, 6, 7),
        (12, 12, 4),
        (12, 24, 3),
        (4, 6, 3),
        (2, 24, 2),
        (1, 24, 1),
    ],
)
def test_a_small_sweep_shrinks_evenly_and_three_runs_reach_the_end(runs, rung, places):
    policy = AdaptivePolicy(max_epochs=48, runs=runs, finalists=3)
    assert continuing(policy, in_order(runs, rung), rung) == list(range(places))


def test_without_the_number_of_runs_half_of_the_places_continue_at_each_doubling():
    assert continuing(AdaptivePolicy(max_epochs=48, finalists=3), in_order(12, 6), 6) == list(
        range(8)
    )


@pytest.mark.parametrize("first", [47, 48, 60])
def test_the_first_rung_may_be_near_the_end(first):
    policy = AdaptivePolicy(max_epochs=48, runs=12, first=first, finalists=3)
    assert len(continuing(policy, in_order(12, 47), 47)) == (3 if first == 47 else 12)


def test_a_diverged_run_is_never_a_finalist():
    losses = in_order(4, 24)
    losses[1:3, 20:] = math.inf
    policy = AdaptivePolicy(max_epochs=48, runs=4, finalists=3)
    assert continuing(policy, losses, 24) == [0, 3]
    losses[:, 20:] = math.inf
    assert continuing(policy, losses, 24) == []


def test_runs_that_tie_at_the_last_place_continue_together():
    losses = in_order(8, 24)
    losses[3:6] = losses[2]
    policy = AdaptivePolicy(max_epochs=48, runs=8, finalists=3)
    assert continuing(policy, losses, 24) == [0, 1, 2, 3, 4, 5]


def test_a_run_that_has_not_reached_the_rung_is_not_compared():
    losses = in_order(6, 24)
    losses[0, 20:] = math.nan
    decisions = AdaptivePolicy(max_epochs=48, runs=6, finalists=3).decide_at_rung(
        24, [1, 5], losses
    )
    assert [(decision.place, decision.goes_on) for decision in decisions] == [(1, True), (5, False)]
    assert [decision.compared for decision in decisions] == [5, 5]


def test_without_finalists_the_rule_is_that_of_decide_all():
    losses, values = np.random.default_rng(1).uniform(size=(2, 12, 24))
    policy = AdaptivePolicy(max_epochs=24, runs=12)
    for rung in (3, 6, 12):
        assert policy.decide_at_rung(rung, range(12), losses, values) == policy.decide_all(
            range(12), losses[:, :rung], values[:, :rung]
        )


def test_finalists_are_checked():
    message = r"^Expected `finalists` to be a positive integer but got 0\.$"
    with pytest.raises(ValueError, match=message):
        AdaptivePolicy(max_epochs=3, finalists=0)
