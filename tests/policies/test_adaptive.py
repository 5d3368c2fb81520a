"""The adaptive rule on tables: computed by hand, and compared with its definition in loops."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy
from tests.support.adaptive_rule import STEADY, continuing_runs, first_epochs

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("epochs", "keep", "expected"),
    [
        (1, 1.0, [0, 1, 2, 3, 4, 5, 6, 7]),  # no decision before `first`
        (2, 1.0, [0, 1, 2, 3]),  # 8 / 2
        (3, 1.0, [0, 1, 2]),  # 8 / 3, rounded up
        (4, 1.0, [0, 1]),
        (7, 1.0, [0, 1]),
        (2, 2.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (2, 0.5, [0, 1]),
        (2, 0.01, [0]),  # the leader always continues
        (8, 1.0, [0, 1, 2, 3, 4, 5, 6, 7]),  # all runs are at their end
    ],
)
def test_if_the_order_never_changes_half_continue_at_each_doubling(epochs, keep, expected):
    policy = AdaptivePolicy(max_epochs=8, keep=keep, first=2)
    assert continuing_runs(policy, first_epochs(epochs, STEADY)) == expected


def test_by_default_the_first_decision_waits_until_noise_and_drift_can_be_distinguished():
    policy = AdaptivePolicy(max_epochs=12, keep=0.5)
    assert continuing_runs(policy, first_epochs(2, STEADY)) == list(range(8))
    assert continuing_runs(policy, first_epochs(3, STEADY)) == [0, 1]


def test_more_runs_continue_if_the_order_has_reversed():
    turned = [[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0], [5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]
    # The leaders, runs 3 and 2, were at places 4 and 3: a factor of 3.5 / 1.5 in one doubling.
    # Two doublings are left: (7/3)**2 = 5.44, so 6 places.
    decision = AdaptivePolicy(max_epochs=8, first=2).decide(4, turned)
    assert (decision.goes_on, decision.place, decision.places) == (True, 5, 6)
    assert (decision.epoch, decision.compared, decision.signal) == (2, 7, "train")
    assert not AdaptivePolicy(max_epochs=8, first=2).decide(6, turned).goes_on


def test_noise_is_not_mistaken_for_drift():
    # Two orders alternate. The leaders of epoch 4 are runs 2 and 3. They led at epoch 2 and were at
    # places 3 and 4 at epochs 1 and 3. The worst of the last doubling and of the last epoch are the
    # same, 3.5 / 1.5, so this is all noise and no drift. The same is true for epoch 3.
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 7.0, 8.0]
    train = np.array([one, other, one, other]).T
    # 7/3 for the noise, and 2 per doubling for 2 doublings: 9.33. As drift it would be (7/3)**3.
    assert AdaptivePolicy(max_epochs=16, keep=0.5, first=2).decide(0, train).places == math.ceil(
        14 / 3
    )


def definition(train, target, epoch, max_epochs, keep):
    """Return how many places continue, with the definition written out run by run."""
    logs = []
    samples = np.linspace(max(2, epoch // 2 + 1), epoch, 4)
    for at in sorted({int(np.round(sample)) for sample in samples}):
        half = max(1, at // 2)
        runs = [
            run
            for run in range(len(train))
            if not any(math.isnan(train[run][e]) for e in range(half - 1, at - 1))
            and not math.isnan(target[run][at - 1])
        ]
        leaders = sorted(runs, key=lambda run: target[run][at - 1])[:2]
        worst, newest = [], []
        for leader in leaders:
            places = [
                1 + sum(train[run][e] < train[leader][e] for run in runs)
                for e in range(half - 1, at - 1)
            ]
            worst.append(max(places))
            newest.append(places[-1])
        logs.append(
            (
                max(0.0, math.log(sum(worst) / 3)),
                max(0.0, math.log(sum(newest) / 3)),
                math.log2(at / half),
                math.log2(at / (at - 1)),
            )
        )
    worst, newest, half, one = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    noise, drift = 0.0, worst / half
    if half > one:
        drift = max(0.0, (worst - newest) / (half - one))
        noise = max(0.0, newest - drift * one)
    left = math.log2(max_epochs / epoch)
    return keep * math.exp(noise) * max(2.0, math.exp(drift)) ** left


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_of_the_definition(seed):
    generator = np.random.default_rng(seed)
    runs, epoch = int(generator.integers(3, 40)), int(generator.integers(2, 20))
    train = np.cumsum(generator.normal(size=(runs, epoch)), axis=1)
    validation = train + generator.normal(size=train.shape)
    keep = float(generator.uniform(0.2, 2))
    for given, target in [((train,), train), ((train, validation), validation)]:
        decision = AdaptivePolicy(max_epochs=24, keep=keep, first=2).decide(0, *given)
        by_train = definition(train.tolist(), target.tolist(), epoch, 24, keep)
        places, own = by_train, train[:, -1]
        if len(given) == 2:
            by_validation = definition(validation.tolist(), target.tolist(), epoch, 24, keep)
            trusted = by_train <= 3 * by_validation
            assert decision.signal == ("train" if trusted else "validation")
            places = by_train if trusted else by_validation
            own = train[:, -1] if trusted else validation[:, -1]
        assert decision.places == max(1, math.ceil(min(places, runs) - 1e-9))
        assert decision.place == 1 + int((own < own[0]).sum())
        assert decision.goes_on == (decision.place <= decision.places)


def test_a_misleading_training_loss_is_not_used():
    validation = np.array([[9.0 - 0.1 * epoch + run for epoch in range(6)] for run in range(8)])
    misleading = validation[::-1]  # steady but reversed
    decision = AdaptivePolicy(max_epochs=48, first=2).decide(0, misleading, validation)
    assert (decision.signal, decision.place) == ("validation", 1)
    # If the two agree and only the validation is noisy, the training loss is the better curve.
    noisy = validation + np.random.default_rng(0).normal(scale=2.0, size=validation.shape)
    assert AdaptivePolicy(max_epochs=48, first=2).decide(0, validation, noisy).signal == "train"


def test_two_runs_continue_until_half_of_training_and_a_single_run_always_does():
    two = [[2.0] * 7, [1.0] * 7]
    policy = AdaptivePolicy(max_epochs=8, first=2)
    continuing = [continuing_runs(policy, first_epochs(epoch, two)) for epoch in (1, 2, 4, 7)]
    assert continuing == [[0, 1]] * 4
    strict = AdaptivePolicy(max_epochs=8, keep=0.5, first=2)
    assert continuing_runs(strict, first_epochs(4, two)) == [1]
    assert continuing_runs(policy, [[1.0, 2.0, 3.0]]) == [0]


def test_the_other_curve_breaks_ties_and_full_ties_continue_together():
    ties = [[1.0, 1.0]] * 8
    assert continuing_runs(AdaptivePolicy(max_epochs=4, first=2), ties) == list(range(8))
    validation = [[float(run)] * 2 for run in range(8)]
    assert continuing_runs(AdaptivePolicy(max_epochs=4, first=2), ties, validation) == [0, 1]


def test_the_same_curves_get_the_same_decision_and_more_runs_may_change_it():
    policy = AdaptivePolicy(max_epochs=4, first=2)
    few = [[3.0, 3.0], [4.0, 4.0]]
    assert policy.decide(1, few) == policy.decide(1, few)
    assert policy.decide(1, few).goes_on
    assert not policy.decide(1, [*few, [1.0, 1.0]]).goes_on


def test_decide_all_returns_the_decisions_of_decide():
    generator = np.random.default_rng(3)
    train = generator.normal(size=(12, 9))
    for run, epochs in enumerate(generator.integers(0, 10, size=12)):
        train[run, epochs:] = NAN
    policy = AdaptivePolicy(max_epochs=20, runs=30, first=2)
    alone = [policy.decide(run, train) for run in range(12)]
    assert policy.decide_all(range(12), train) == alone


def test_the_rule_does_not_depend_on_scale_or_unit():
    generator = np.random.default_rng(1)
    train = generator.normal(size=(20, 7))
    policy = AdaptivePolicy(max_epochs=20, first=2)
    scaled = policy.decide_all(range(20), np.exp(3 * train) * 1e6)
    assert scaled == policy.decide_all(range(20), train)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "Expected `max_epochs` to be a positive integer but got 0"),
        ({"keep": 0.0}, ValueError, "Expected `keep` to be above 0 and finite but got 0.0."),
        ({"keep": INF}, ValueError, "Expected `keep` to be above 0 and finite but got inf."),
        ({"keep": NAN}, ValueError, "Expected `keep` to be above 0 and finite but got nan."),
        ({"keep": "2"}, TypeError, "Expected `keep` to be a number but got '2'."),
        ({"runs": 0}, ValueError, "Expected `runs` to be a positive integer but got 0."),
        ({"first": 1}, ValueError, "Expected `first` to be at least 2 but got 1."),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        AdaptivePolicy(**{"max_epochs": 8, **arguments})


@pytest.mark.parametrize(
    ("run", "train", "validation", "message"),
    [
        (0, None, None, "Expected `train` or `validation` to be curves but got None for both."),
        (0, [1.0], None, "Expected `train` to have the shape (runs, epochs) but got (1,)."),
        (2, [[1.0], [1.0]], None, "Expected `run` to be in [0, 1] but got 2."),
        (-1, [[1.0], [1.0]], None, "Expected `run` to be in [0, 1] but got -1."),
        (
            0,
            [[1.0]],
            [[1.0, 2.0]],
            "Expected `train` and `validation` to have the same shape but got (1, 1) and (1, 2).",
        ),
    ],
)
def test_curves_that_do_not_fit_are_refused(run, train, validation, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AdaptivePolicy(max_epochs=8, first=2).decide(run, train, validation)
