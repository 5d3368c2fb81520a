"""AdaptiveScheduler, with the results passed as Ray Tune passes them."""

import math
import pickle
import re

import numpy as np
import pytest
from ray.tune.experiment import Trial

from lightning_sotl import AdaptivePolicy
from lightning_sotl.integrations.ray import AdaptiveScheduler

POLICY = AdaptivePolicy(max_epochs=10, keep=0.5, first=2)


def replay(scheduler, **curves):
    """Let all trials report one epoch after another, and return the epochs of each trial."""
    runs, epochs = next(iter(curves.values())).shape
    alive, reached = list(range(runs)), [0] * runs
    for epoch in range(epochs):
        for run in list(alive):
            reached[run] += 1
            result = {name: values[run, epoch] for name, values in curves.items()}
            result["training_iteration"] = epoch + 1
            trial = Trial("trial", stub=True, trial_id=f"trial_{run}")
            if scheduler.on_trial_result(None, trial, result) == scheduler.STOP:
                alive.remove(run)
    return reached


def expected(*curves):
    """Return the epochs of each trial if the policy decides after each report."""
    table = [np.full(curves[0].shape, math.nan) for _ in curves]
    alive, reached = list(range(len(curves[0]))), [0] * len(curves[0])
    for epoch in range(curves[0].shape[1]):
        for run in list(alive):
            reached[run] += 1
            for own, values in zip(table, curves, strict=True):
                own[run, epoch] = values[run, epoch]
            if not POLICY.decide(run, *table).goes_on:
                alive.remove(run)
    return reached


def curves(seed):
    return np.cumsum(np.random.default_rng(seed).normal(size=(20, 10)), axis=1)


def test_trials_stop_when_the_policy_decides_for_one_or_two_metrics_in_either_mode():
    losses = curves(0)
    accuracy = -losses + np.random.default_rng(1).normal(size=losses.shape)
    assert replay(AdaptiveScheduler(POLICY), sotl_e1=losses) == expected(losses)
    by_accuracy = AdaptiveScheduler(POLICY, metric="val_acc", mode="max")
    assert replay(by_accuracy, val_acc=accuracy) == expected(-accuracy)
    both = AdaptiveScheduler(POLICY, validation="val_acc", validation_mode="max")
    assert replay(both, sotl_e1=losses, val_acc=accuracy) == expected(losses, -accuracy)
    assert expected(losses, -accuracy) != expected(losses)


def test_a_pickled_scheduler_keeps_its_curves_and_its_count():
    losses = curves(2)
    first = AdaptiveScheduler(POLICY)
    replay(first, sotl_e1=losses[:10])
    again = pickle.loads(pickle.dumps(first))  # noqa: S301
    trial = Trial("trial", stub=True, trial_id="late")
    for epoch, value in enumerate([losses[:, 0].max() + 1, losses[:, 1].max() + 1]):
        result = {"sotl_e1": value, "training_iteration": epoch + 1}
        answers = [each.on_trial_result(None, trial, result) for each in (first, again)]
    assert answers == [first.STOP, first.STOP]
    assert again.debug_string() == f"AdaptiveScheduler: {first.stopped} trials stopped by {POLICY}"


def test_a_report_without_the_metric_or_at_the_full_budget_never_stops_a_trial():
    scheduler = AdaptiveScheduler(POLICY)
    bad = Trial("trial", stub=True, trial_id="bad")
    for epoch in range(1, 4):  # it continues because it is the only trial
        result = {"training_iteration": epoch, "sotl_e1": 99.0}
        assert scheduler.on_trial_result(None, bad, result) == "CONTINUE"
    replay(scheduler, sotl_e1=curves(3))
    message = re.escape("'sotl_e1' is not reported; available: 'training_iteration'.")
    with pytest.warns(UserWarning, match=f"^{message}$") as caught:
        answer = scheduler.on_trial_result(None, bad, {"training_iteration": 4})
    assert answer == "CONTINUE"
    assert caught[0].filename == __file__
    for result in (
        {"training_iteration": 4, "sotl_e1": None},
        {"training_iteration": 10, "sotl_e1": 99.0},
        {"training_iteration": 11, "sotl_e1": 99.0},
    ):
        assert scheduler.on_trial_result(None, bad, result) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, {"training_iteration": 5, "sotl_e1": 9e9}) == "STOP"


def test_a_trial_restored_from_a_checkpoint_is_compared_at_its_current_epoch():
    scheduler = AdaptiveScheduler(AdaptivePolicy(max_epochs=4, keep=0.5, first=2))
    rivals = np.array([[1.0, 1.0, 5.0], [2.0, 2.0, 6.0]])
    replay(scheduler, sotl_e1=rivals[:1])
    trial = Trial("trial", stub=True, trial_id="again")
    reports = [(1, 3.0), (2, 0.5), (3, 0.5), (2, 1.5)]
    answers = [
        scheduler.on_trial_result(None, trial, {"training_iteration": epoch, "sotl_e1": value})
        for epoch, value in reports
    ]
    assert answers == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": None}, TypeError, "Expected `policy` to be an AdaptivePolicy but got None."),
        ({"mode": "up"}, ValueError, "Expected `mode` to be 'min' or 'max' but got 'up'."),
        ({"metric": 3}, TypeError, "Expected `metric` to be a string but got 3."),
        (
            {"validation": "val_acc"},
            ValueError,
            "Expected `validation` and `validation_mode` to be given together but got "
            "validation='val_acc' and validation_mode=None.",
        ),
        (
            {"validation_mode": "max"},
            ValueError,
            "Expected `validation` and `validation_mode` to be given together but got "
            "validation=None and validation_mode='max'.",
        ),
        ({"pause": 1}, TypeError, "Expected `pause` to be True or False but got 1."),
        (
            {"pause": True},
            ValueError,
            "Expected `policy.runs` to be the number of trials with `pause=True` but got None.",
        ),
        (
            {"growth": 1.2},
            ValueError,
            "Expected `growth` only with `pause=True` but got 1.2.",
        ),
        (
            {"pause": True, "growth": 1.0},
            ValueError,
            "Expected `growth` to be above 1 and finite but got 1.0.",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        AdaptiveScheduler(**{"policy": POLICY, **options})
