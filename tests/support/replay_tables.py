"""Tables and policies that the tests of `replay` share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_sotl import LearningCurves
from lightning_sotl.replay.policy import Observations, Policy
from lightning_sotl.replay.simulation import Outcome, simulate

# Four runs of four epochs, few enough to check by hand.
TRAIN = np.array(
    [
        [4.0, 3.0, 2.0, 1.0],
        [3.0, 2.0, 1.0, 0.0],
        [2.0, 2.0, 2.0, 2.0],
        [9.0, 9.0, 9.0, 9.0],
    ]
)
VALIDATION = np.array(
    [
        [0.9, 0.8, 0.6, 0.5],
        [0.8, 0.7, 0.7, 0.6],
        [0.7, 0.7, 0.7, 0.7],
        [0.9, 0.9, 0.9, 0.9],
    ]
)
ACCURACY = np.array([0.9, 0.8, 0.7, 0.1])


def four_runs(**changes: Any) -> LearningCurves:
    fields = {"val_loss": VALIDATION, "final_metric": ACCURACY, **changes}
    return LearningCurves(fields.pop("train_loss", TRAIN), **fields)


def many_runs(runs: int = 60, epochs: int = 12, *, seed: int = 0) -> LearningCurves:
    generator = np.random.default_rng(seed)
    quality = generator.uniform(size=runs)
    losses = 2 - quality[:, np.newaxis] + generator.normal(size=(runs, epochs)) / 6
    return LearningCurves(
        losses,
        val_loss=losses + generator.normal(size=(runs, epochs)) / 9,
        final_metric=quality + generator.normal(size=runs) / 20,
    )


class Logged:
    """A policy that logs each question, the losses that it could see, and its answer."""

    def __init__(self, policy: Policy) -> None:
        self.name, self.validated_from = policy.name, policy.validated_from
        self.policy = policy
        self.log: list[tuple[Any, ...]] = []

    def begin(self, observations: Observations) -> Logged:
        self.observations, self.policy_run = observations, self.policy.begin(observations)
        return self

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        # The policy gets a copy, so that it cannot change the logged reports.
        answers = list(self.policy_run.decide(copy.copy(reports)))
        self.log.append((list(reports), self.observations.train.copy(), answers))
        return answers

    def resume(self) -> Sequence[int]:
        answer = list(self.policy_run.resume())
        self.log.append(("resume", self.observations.train.copy(), answer))
        return answer

    def promote(self) -> int | None:
        promote = getattr(self.policy_run, "promote", None)
        return None if promote is None else promote()

    def pick(self) -> int:
        return self.policy_run.pick()

    @property
    def decisions(self) -> list[tuple[Any, ...]]:
        """The questions and answers of the log, without the tables."""
        return [(question, answer) for question, _, answer in self.log]


def assert_no_look_ahead(policy: Policy, *, workers: int) -> None:
    """Check that no decision depends on a value that was not reported before it."""
    curves = many_runs(20)
    train, validation = curves.train_loss, curves.val_loss
    first = Logged(policy)
    outcome = simulate(first, train, validation, workers=workers)
    assert_same(outcome, _with_garbage(policy, curves, outcome, workers))
    for instant in (1, 2, 5):
        later = np.isnan(first.log[instant - 1][1])  # not reported at that time
        again = Logged(policy)
        simulate(again, _replaced(train, later), _replaced(validation, later), workers=workers)
        assert again.decisions[:instant] == first.decisions[:instant]


def _with_garbage(
    policy: Policy, curves: LearningCurves, outcome: Outcome, workers: int
) -> Outcome:
    trained = np.arange(curves.epochs) < outcome.epochs[:, np.newaxis]
    losses = _replaced(curves.train_loss, ~trained)
    return simulate(policy, losses, _replaced(curves.val_loss, ~trained), workers=workers)


def _replaced(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    garbage = np.random.default_rng(1).normal(scale=100, size=values.shape)
    return np.where(where, garbage, values)


def assert_same(first: Outcome, second: Outcome) -> None:
    assert first.pick == second.pick
    np.testing.assert_array_equal(first.epochs, second.epochs)
    assert first.validations == second.validations
