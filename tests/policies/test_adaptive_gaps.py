"""The adaptive rule where values are missing or not finite: gaps, late runs, diverged ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy
from tests.support.adaptive_rule import STEADY, after, going_on

NAN, INF = math.nan, math.inf


def test_a_diverged_run_stands_last_and_if_all_have_diverged_none_goes_on():
    train = [[1.0, INF]] + [[2.0 + run, 2.0 + run] for run in range(4)]
    decision = AdaptivePolicy(max_epochs=8, first=2).decide(0, train)
    assert (decision.goes_on, decision.place, decision.places, decision.compared) == (
        False,
        5,
        4,
        5,
    )
    assert going_on(AdaptivePolicy(max_epochs=8, first=2), [[INF, INF]] * 5) == []


def test_runs_that_come_late_are_compared_with_all_that_were_there_before():
    train = [*after(8, STEADY), [NAN] * 8]
    train[8][:2] = [1.0, 7.5]  # a new run, after 2 epochs: nearly the best of that time
    late = AdaptivePolicy(max_epochs=16, first=2).decide(8, train)
    assert (late.epoch, late.place, late.compared) == (2, 1, 9)


def test_runs_that_never_report_count_neither_as_rivals_nor_as_begun():
    silent = [[NAN] * 2] * 6
    train = [*after(2, STEADY)[:4], *silent]
    assert AdaptivePolicy(max_epochs=4, keep=0.5, first=2).decide(3, train).compared == 4
    # 4 of 16 runs have begun, so a quarter of the 8 places.
    decision = AdaptivePolicy(max_epochs=16, runs=16, first=2).decide(2, train)
    assert (decision.places, decision.goes_on) == (2, False)
    assert AdaptivePolicy(max_epochs=16, runs=4, first=2).decide(2, train).places == 8
    assert (
        AdaptivePolicy(max_epochs=16, runs=2, first=2).decide(2, train).places == 8
    )  # not more than all
    assert going_on(AdaptivePolicy(max_epochs=16, first=2), silent) == list(
        range(6)
    )  # nothing is known


def test_curves_of_different_lengths_are_compared_at_the_run_s_own_epoch():
    train = [[3.0, 3.0, 3.0], [2.0, 2.0, NAN], [1.0, NAN, NAN], [0.5, 0.5, 4.0]]
    policy = AdaptivePolicy(max_epochs=8, first=2)
    seen = [policy.decide(run, train) for run in range(4)]
    assert [decision.epoch for decision in seen] == [3, 2, 1, 3]
    assert [decision.compared for decision in seen] == [2, 3, 0, 2]
    assert [decision.place for decision in seen] == [1, 2, None, 2]


def test_a_metric_that_some_runs_lack_is_not_held_against_them():
    train = after(2, STEADY)
    validation = [[float(run)] * 2 for run in range(8)]
    validation[7] = [NAN, NAN]
    decision = AdaptivePolicy(max_epochs=4, first=2).decide(7, train, validation)
    assert (decision.signal, decision.place, decision.goes_on) == ("train", 8, False)
    train[0] = [NAN, NAN]
    decision = AdaptivePolicy(max_epochs=4, first=2).decide(0, train, validation)
    assert (decision.signal, decision.place, decision.compared) == ("validation", 1, 7)


def test_a_validation_of_each_second_epoch_is_followed_over_the_epochs_that_have_it():
    steady = np.array([[9.0 - epoch + run for epoch in range(6)] for run in range(8)])
    turned = steady.copy()
    turned[:, :4] = steady[::-1, :4]  # the order turns round behind epoch 4
    # From epoch 2 to 4 nothing moves, from 4 to 6 places 8 and 7 come to the front: a factor of 5.
    # So a factor of 5 in 1 + log2(6/4) doublings = log2(3), which are also those that are left.
    for table, expected in [(steady, 3), (turned, 5)]:
        validation = table.copy()
        validation[:, ::2] = NAN
        decision = AdaptivePolicy(max_epochs=18, first=2).decide(0, None, validation)
        assert (decision.signal, decision.places) == ("validation", expected)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("but", [0, 1, 2])
def test_a_validation_that_names_no_leaders_changes_nothing(value, but):
    """As where one run, or none, has been validated at this epoch."""
    generator = np.random.default_rng(0)
    train = np.cumsum(generator.normal(size=(40, 8)), axis=1)
    validation = np.full(train.shape, value)
    validation[:but, -1] = 1.0
    policy = AdaptivePolicy(max_epochs=50)
    alone = [policy.decide(run, train).places for run in range(but, 40)]
    with_it = [policy.decide(run, train, validation).places for run in range(but, 40)]
    if but < 2:
        assert with_it == alone
    assert min(alone) > 7  # the places of an order that never moves


def test_runs_that_lack_a_value_in_between_are_leaders_all_the_same():
    generator = np.random.default_rng(0)
    train = np.cumsum(generator.normal(size=(100, 8)), axis=1)
    policy = AdaptivePolicy(max_epochs=50)
    whole = policy.decide(0, train).places
    for complete in (0, 1, 2, 50):
        gappy = train.copy()
        gappy[complete:, 5] = NAN
        assert policy.decide(0, gappy).places >= 0.5 * whole, complete


def test_minus_infinity_is_no_better_than_infinity():
    train = np.array(after(3, STEADY))
    placed = []
    for value in (INF, -INF):
        train[7, 2] = value
        decisions = AdaptivePolicy(max_epochs=12).decide_all(range(8), train)
        placed.append([(decision.place, decision.places) for decision in decisions])
    assert placed[0] == placed[1]
    assert [place for place, _ in placed[0]] == list(range(1, 9))
