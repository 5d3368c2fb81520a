"""The adaptive rule in a replay: the decisions of AdaptivePolicy, and the pick."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy
from lightning_sotl.policies.rungs import rungs
from lightning_sotl.policies.turns import Progress, steps
from lightning_sotl.replay.policies.adaptive import named_adaptive
from lightning_sotl.replay.simulation import simulate
from tests.support.replay_tables import assert_no_look_ahead


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    train = np.cumsum(generator.normal(size=(18, 12)), axis=1)
    return train, train + generator.normal(size=train.shape)


def by_hand(policy: AdaptivePolicy, curves: list[np.ndarray], workers: int) -> list[int]:
    """Return how many epochs each run trains, with a table that is filled epoch by epoch."""
    reported = [np.full(curve.shape, math.nan) for curve in curves]
    runs, epochs = curves[0].shape
    waiting, running, done = list(range(runs)), [], [0] * runs
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(waiting.pop(0))
        for run in running:
            for table, curve in zip(reported, curves, strict=True):
                table[run, done[run]] = curve[run, done[run]]
            done[run] += 1
        running = [
            run for run in running if done[run] < epochs and policy.decide(run, *reported).goes_on
        ]
    return done


@pytest.mark.parametrize("workers", [1, 4, 18])
@pytest.mark.parametrize(
    "name", ["adaptive", "adaptive-keep0.5-val", "adaptive-first2-keep0.25-both"]
)
def test_runs_train_as_long_as_the_rule_allows(name, workers):
    train, validation = drawn(workers)
    policy = named_adaptive(name)
    outcome = simulate(policy, train, validation, workers=workers)
    reads = {"": [train], "val": [validation], "both": [train, validation]}[policy.reads]
    rule = AdaptivePolicy(max_epochs=12, keep=policy.keep, runs=18, first=policy.first)
    assert outcome.epochs.tolist() == by_hand(rule, reads, workers)
    ended = np.flatnonzero(outcome.epochs == 12)
    assert outcome.pick == ended[np.argmin(validation[ended, -3:].mean(axis=1))]
    passes = outcome.epochs.sum() if policy.reads else np.maximum(outcome.epochs - 9, 0).sum()
    assert outcome.validations == passes


def in_turns_by_hand(
    policy: AdaptivePolicy, curves: list[np.ndarray], rungs: list[int]
) -> list[int]:
    """Return how many epochs each run trains if all wait for each other at the rungs."""
    tables = [np.full(curve.shape, math.nan) for curve in curves]
    alive, done = list(range(len(curves[0]))), [0] * len(curves[0])
    for rung in rungs:
        for run in alive:
            for table, curve in zip(tables, curves, strict=True):
                table[run, :rung] = curve[run, :rung]
            done[run] = rung
        alive = [run for run in alive if policy.decide_at_rung(rung, [run], *tables)[0].goes_on]
    return done


@pytest.mark.parametrize("workers", [1, 4, 18])
@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("adaptive-pause", [3, 4, 6, 9, 12]),
        ("adaptive-keep0.5-pause-val", [3, 4, 6, 9, 12]),
        ("adaptive-first2-keep0.25-pause2-both", [2, 4, 8, 12]),
        ("adaptive-first5-pause1.2", [5, 6, 7, 8, 10, 12]),
        ("adaptive-first40-pause", [12]),
    ],
)
def test_runs_in_turns_train_as_long_as_the_rule_allows(name, rungs, workers):
    train, validation = drawn(3)
    policy = named_adaptive(name)
    outcome = simulate(policy, train, validation, workers=workers)
    reads = {"": [train], "val": [validation], "both": [train, validation]}[policy.reads]
    rule = AdaptivePolicy(max_epochs=12, keep=policy.keep, runs=18, first=policy.first)
    assert outcome.epochs.tolist() == in_turns_by_hand(rule, reads, rungs)
    ended = np.flatnonzero(outcome.epochs == 12)
    assert outcome.pick == ended[np.argmin(validation[ended, -3:].mean(axis=1))]


@pytest.mark.parametrize("name", ["adaptive-pause", "adaptive-keep2-pause1.2-both"])
def test_runs_in_turns_are_those_that_a_sweep_admits(name):
    train, validation = drawn(9)
    policy = named_adaptive(name)
    outcome = simulate(policy, train, validation, workers=1)
    rule = AdaptivePolicy(max_epochs=12, keep=policy.keep, runs=18)
    found = rungs(3, 12, growth=policy.growth)
    epochs = [0] * 18
    while (step := plan(train, validation, epochs, rule, found, policy.reads)).pending:
        for run in step.pending:
            epochs[run] = step.stop_epoch
    assert outcome.epochs.tolist() == epochs


def plan(train, validation, epochs, rule, found, reads):
    progress = [
        Progress(
            done,
            ended=done == 12,
            losses=dict(enumerate(losses[:done])),
            validations=dict(enumerate(values[:done])),
        )
        for done, losses, values in zip(epochs, train, validation, strict=True)
    ]
    lower = True if reads else None
    return steps(progress, policy=rule, rungs=found, lower_is_better=lower)[-1]


def test_no_turn_looks_ahead():
    assert_no_look_ahead(named_adaptive("adaptive-pause-both"), workers=1)


def test_if_all_runs_diverge_the_first_is_trained_to_the_end():
    outcome = simulate(named_adaptive("adaptive-pause"), np.full((4, 12), np.inf), None, workers=1)
    assert (outcome.pick, outcome.epochs.max()) == (0, 12)


def test_without_validations_the_pick_is_by_the_training_loss():
    train, _ = drawn(7)
    outcome = simulate(named_adaptive("adaptive"), train, None, workers=18)
    ended = np.flatnonzero(outcome.epochs == 12)
    assert outcome.pick == ended[np.argmin(train[ended, -1])]
    message = (
        "'adaptive-both' needs validation values, but the curves have neither `val_metric` nor "
        "`val_loss`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        simulate(named_adaptive("adaptive-both"), train, None, workers=1)


def test_epochs_without_a_validation_do_not_decide_the_pick():
    train, validation = drawn(5)
    target = validation[:, -1].copy()
    for first in (11, 10):  # validated only at the end
        late = validation.copy()
        late[:, :first] = math.inf
        outcome = simulate(named_adaptive("adaptive"), train, late, workers=18)
        ended = np.flatnonzero(outcome.epochs == 12)
        expected = target[ended] if first == 11 else late[ended, -2:].mean(axis=1)
        assert outcome.pick == ended[np.argmin(expected)]
    late[outcome.pick, -1] = math.inf  # it diverged at the end
    again = simulate(named_adaptive("adaptive"), train, late, workers=18)
    assert again.pick != outcome.pick


def test_curves_of_one_epoch_are_all_trained_to_the_end():
    train, validation = (values[:, :1] for values in drawn(0))
    outcome = simulate(named_adaptive("adaptive-both"), train, validation, workers=18)
    assert (outcome.epochs == 1).all()
    assert outcome.pick == np.argmin(validation[:, 0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "adaptive-fast",
            "There is no policy 'adaptive-fast'; the adaptive ones are 'adaptive', "
            "'adaptive-first2-keep2', 'adaptive-pause' and "
            "'adaptive-first2-keep2-pause1.5-finalists3', with any numbers. Each also exists with "
            "the ending '-val' or '-both'.",
        ),
        ("adaptive-first1", "Expected `first` to be at least 2 but got 1."),
        ("adaptive-pause1", "Expected `growth` to be above 1 and finite but got 1.0."),
        ("adaptive-keep0", "Expected `keep` to be above 0 and finite but got 0.0."),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        named_adaptive(name)
