"""Optuna's pruners in simulated time."""

from __future__ import annotations

import re

import numpy as np
import optuna
import pytest

from lightning_sotl.replay.policies import all_names
from lightning_sotl.replay.policies.optuna import PRUNERS, OptunaPolicy
from lightning_sotl.replay.simulation import simulate
from tests.support.replay_tables import (
    TRAIN,
    VALIDATION,
    assert_no_look_ahead,
    assert_same,
    many_runs,
)

# Eight runs of four epochs. The median pruner starts once five runs are complete. The first five
# have the losses 1, 2, 3, 4 and 5. The sixth is above their median from the start. The seventh is
# between their lowest quarter (2) and their median (3). The eighth is below all of them.
EIGHT = np.array([[9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]], float)
EIGHT -= np.array([[8], [7], [6], [5], [4]])
EIGHT = np.concatenate([EIGHT, [[7, 7.5, 7.5, 7], [2.5, 2.5, 2.5, 2.5], [0, 0, 0, 0]]])


@pytest.mark.parametrize(
    ("name", "workers", "epochs"),
    [
        ("optuna-median", 1, [4, 4, 4, 4, 4, 1, 4, 4]),
        ("optuna-percentile", 1, [4, 4, 4, 4, 4, 1, 1, 4]),
        # It prunes only after an epoch without a better value: 7 came before 7.5 and 7.5.
        ("optuna-patient", 1, [4, 4, 4, 4, 4, 3, 4, 4]),
        # Five runs are complete after the fourth epoch. The others start after that.
        ("optuna-median", 5, [4, 4, 4, 4, 4, 1, 4, 4]),
        # All runs end at the same instant, so none is complete before.
        ("optuna-median", 8, [4] * 8),
    ],
)
def test_pruners_that_compare_with_complete_trials(
    name: str, workers: int, epochs: list[int]
) -> None:
    outcome = simulate(OptunaPolicy(name), EIGHT, None, workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == 7


# With reduction factor 4, four epochs have a rung after two of them (steps count from 0). While
# fewer than eight trials are known there, a trial continues if it is the lowest so far or ties.
@pytest.mark.parametrize(
    ("name", "epochs", "pick", "validations"),
    [
        ("optuna-halving", [4, 4, 4, 2], 0, 3),
        ("optuna-halving-val", [4, 4, 4, 2], 0, 14),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_successive_halving(
    name: str, epochs: list[int], pick: int, validations: int, workers: int
) -> None:
    outcome = simulate(OptunaPolicy(name), TRAIN, VALIDATION, workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == pick
    assert outcome.validations == validations


def test_hyperband_has_the_same_brackets_for_the_same_seed() -> None:
    losses = many_runs(40).train_loss
    policy = OptunaPolicy("optuna-hyperband")
    outcomes = [simulate(policy, losses, None, workers=40, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert_same(outcomes[0], outcomes[1])
    assert len({tuple(outcome.epochs) for outcome in outcomes}) > 1
    assert 40 < outcomes[0].epochs.sum() < losses.size


@pytest.mark.parametrize("name", PRUNERS)
def test_no_pruner_looks_ahead(name: str) -> None:
    assert_no_look_ahead(OptunaPolicy(name), workers=3)


@pytest.mark.parametrize("name", PRUNERS)
def test_diverged_runs_are_allowed_and_not_picked(name: str) -> None:
    losses = many_runs(20).train_loss.copy()
    losses[::2, 1:] = np.inf
    outcome = simulate(OptunaPolicy(name), losses, None, workers=2)
    assert outcome.pick % 2 == 1
    simulate(OptunaPolicy(name), np.full((8, 4), np.inf), None, workers=1)


def test_optuna_prints_nothing_and_keeps_its_verbosity(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    simulate(OptunaPolicy("optuna-patient"), TRAIN, None, workers=1)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_all_pruners_are_in_the_full_comparison() -> None:
    names = all_names(50, has_validation=True)
    assert [name for name in names if name.startswith("optuna")] == [
        *PRUNERS,
        *(f"{name}-val" for name in PRUNERS),
    ]


def test_an_unknown_pruner_lists_the_available_ones() -> None:
    message = (
        "There is no policy 'optuna-asha'; available from Optuna: 'optuna-halving', "
        "'optuna-hyperband', 'optuna-median', 'optuna-percentile', 'optuna-patient', also with the "
        "ending '-val'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OptunaPolicy("optuna-asha")


def test_a_policy_by_validation_needs_validation_values() -> None:
    with pytest.raises(ValueError, match=r"^'optuna-median-val' needs validation values, but the"):
        simulate(OptunaPolicy("optuna-median-val"), TRAIN, None, workers=1)
