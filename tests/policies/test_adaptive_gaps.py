"""The adaptive rule with missing or non-finite values: gaps, late runs and diverged runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy
from tests.support.adaptive_rule import STEADY, continuing_runs, first_epochs

NAN, INF = math.nan, math.inf


def test_a_diverged_run_ranks_last_and_if_all_diverged_none_continues():
    train = [[1.0, INF]] + [[2.0 + run, 2.0 + run] for run in range(4)]
    decision = AdaptivePolicy(max_epochs=8, first=2).decide(0, train)
    assert (decision.goes_on, decision.place, decision.places, decision.compared) == (
        False,
        5,
        4,
        5,
    )
    assert continuing_runs(AdaptivePolicy(max_epochs=8, first=2), [[INF, INF]] * 5) == []


def test_late_runs_are_compared_with_all_earlier_runs():
    train = [*first_epochs(8, STEADY), [NAN] * 8]
    train[8][:2] = [1.0, 7.5]  # a new run, the best after 2 epochs
    late = AdaptivePolicy(max_epochs=16, first=2).decide(8, train)
    assert (late.epoch, late.place, late.compared) == (2, 1, 9)


def test_runs_that_never_report_are_not_compared_and_do_not_count_as_started():
    silent = [[NAN] * 2] * 6
    train = [*first_epochs(2, STEADY)[:4], *silent]
    assert AdaptivePolicy(max_epochs=4, keep=0.5, first=2).decide(3, train).compared == 4
    # 4 of 16 runs have started, so a quarter of the 8 places remains.
    decision = AdaptivePolicy(max_epochs=16, runs=16, first=2).decide(2, train)
    assert (decision.places, decision.goes_on) == (2, False)
    assert AdaptivePolicy(max_epochs=16, runs=4, first=2).decide(2, train).places == 8
    assert (
        AdaptivePolicy(max_epochs=16, runs=2, first=2).decide(2, train).places == 8
    )  # not more than all
    assert continuing_runs(AdaptivePolicy(max_epochs=16, first=2), silent) == list(
        range(6)
    )  # nothing is known


def test_curves_of_different_lengths_are_compared_at_the_epoch_of_the_run():
    train = [[3.0, 3.0, 3.0], [2.0, 2.0, NAN], [1.0, NAN, NAN], [0.5, 0.5, 4.0]]
    policy = AdaptivePolicy(max_epochs=8, first=2)
    decisions = [policy.decide(run, train) for run in range(4)]
    assert [decision.epoch for decision in decisions] == [3, 2, 1, 3]
    assert [decision.compared for decision in decisions] == [2, 3, 0, 2]
    assert [decision.place for decision in decisions] == [1, 2, None, 2]


def test_runs_without_the_metric_are_compared_by_the_other_curve():
    train = first_epochs(2, STEADY)
    validation = [[float(run)] * 2 for run in range(8)]
    validation[7] = [NAN, NAN]
    decision = AdaptivePolicy(max_epochs=4, first=2).decide(7, train, validation)
    assert (decision.signal, decision.place, decision.goes_on) == ("train", 8, False)
    train[0] = [NAN, NAN]
    decision = AdaptivePolicy(max_epochs=4, first=2).decide(0, train, validation)
    assert (decision.signal, decision.place, decision.compared) == ("validation", 1, 7)


def test_a_validation_every_second_epoch_is_compared_at_the_epochs_that_have_it():
    steady = np.array([[9.0 - epoch + run for epoch in range(6)] for run in range(8)])
    turned = steady.copy()
    turned[:, :4] = steady[::-1, :4]  # the order reverses after epoch 4
    # From epoch 2 to 4 nothing changes. From 4 to 6, places 8 and 7 move to the front, a factor of
    # 5 in 1 + log2(6/4) = log2(3) doublings. The same number of doublings is left.
    for table, expected in [(steady, 3), (turned, 5)]:
        validation = table.copy()
        validation[:, ::2] = NAN
        decision = AdaptivePolicy(max_epochs=18, first=2).decide(0, None, validation)
        assert (decision.signal, decision.places) == ("validation", expected)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("validated", [0, 1, 2])
def test_a_validation_without_two_leaders_changes_nothing(value, validated):
    """Fewer than two runs have a finite validation at this epoch."""
    generator = np.random.default_rng(0)
    train = np.cumsum(generator.normal(size=(40, 8)), axis=1)
    validation = np.full(train.shape, value)
    validation[:validated, -1] = 1.0
    policy = AdaptivePolicy(max_epochs=50)
    alone = [policy.decide(run, train).places for run in range(validated, 40)]
    with_it = [policy.decide(run, train, validation).places for run in range(validated, 40)]
    if validated < 2:
        assert with_it == alone
    assert min(alone) > 7  # the places if the order never changes


def test_runs_with_a_gap_can_still_be_leaders():
    generator = np.random.default_rng(0)
    train = np.cumsum(generator.normal(size=(100, 8)), axis=1)
    policy = AdaptivePolicy(max_epochs=50)
    whole = policy.decide(0, train).places
    for complete in (0, 1, 2, 50):
        gappy = train.copy()
        gappy[complete:, 5] = NAN
        assert policy.decide(0, gappy).places >= 0.5 * whole, complete


def test_minus_infinity_is_as_bad_as_infinity():
    train = np.array(first_epochs(3, STEADY))
    placed = []
    for value in (INF, -INF):
        train[7, 2] = value
        decisions = AdaptivePolicy(max_epochs=12).decide_all(range(8), train)
        placed.append([(decision.place, decision.places) for decision in decisions])
    assert placed[0] == placed[1]
    assert [place for place, _ in placed[0]] == list(range(1, 9))
