"""Simulated time: workers train runs, one epoch per unit of time, and a policy decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.replay.policy import Observations, Policy, PromotingRun


@dataclass(frozen=True)
class Outcome:
    """The result of a policy on the runs of one repeat.

    Attributes:
        pick: The run that the policy chose. It was trained to the end.
        epochs: Trained epochs of each run, shape `(runs,)`.
        validations: The number of validation passes.
    """

    pick: int
    epochs: NDArray[np.int64]
    validations: int


def simulate(
    policy: Policy,
    train: NDArray[np.float64],
    validation: NDArray[np.float64] | None,
    *,
    workers: int,
    seed: int = 0,
) -> Outcome:
    """Return how long a policy trains each run, and which run it picks.

    Runs start in the order of their rows. A free worker takes the run that the policy promotes, if
    any. Otherwise it takes the next waiting run: new runs first, then the runs that the policy
    resumes. The replay asks the policy to resume runs whenever none is training or waiting. The
    policy sees all reports of an instant before it decides about any of them.

    Args:
        policy: Decides which runs continue. It sees only what has been reported.
        train: Training losses, lower is better, without NaN, shape `(runs, epochs)`.
        validation: Validation values, lower is better, without NaN, in the same shape. None if
            there are none.
        workers: How many runs train at the same time, at least 1.
        seed: The seed of this repeat, for policies that draw random numbers.

    Raises:
        ValueError: If the policy cannot run on such curves.
        RuntimeError: If the policy returns an impossible answer.

    Examples:
        >>> from lightning_sotl.replay.policies.baselines import named_baseline
        >>> losses = np.array([[3.0, 2.0], [2.0, 1.0], [4.0, 3.0]])
        >>> outcome = simulate(named_baseline("fixed-t1-top1"), losses, None, workers=1)
        >>> outcome.pick, outcome.epochs.tolist()
        (1, [1, 2, 1])
    """
    runs, epochs = train.shape
    recording = _Recording(train, validation, policy.validated_from, seed)
    policy_run = policy.begin(recording.observations)
    promote = policy_run.promote if isinstance(policy_run, PromotingRun) else lambda: None
    waiting: deque[int] = deque(range(runs))
    training: list[int] = []

    def check_paused(chosen: list[int]) -> None:
        unfinished = np.flatnonzero(recording.observations.epochs < epochs).tolist()
        paused = set(unfinished).difference(training, waiting)
        if len(set(chosen)) < len(chosen) or not paused.issuperset(chosen):
            raise RuntimeError(
                f"Expected '{policy.name}' to resume paused runs, each once, but got {chosen}."
            )

    while True:
        while len(training) < workers:
            promoted = promote()
            if promoted is not None:
                check_paused([promoted])
                training.append(promoted)
            elif waiting:
                training.append(waiting.popleft())
            else:
                break
        if not training:
            resumed = [int(run) for run in policy_run.resume()]
            if not resumed:
                break
            check_paused(resumed)
            waiting.extend(resumed)
            continue
        reports = recording.train_epoch(training)
        answers = policy_run.decide(reports)
        if len(answers) != len(reports):
            raise RuntimeError(
                f"Expected '{policy.name}' to return {len(reports)} answers but got {len(answers)}."
            )
        training = [
            run
            for (run, done), continues in zip(reports, answers, strict=True)
            if continues and done < epochs
        ]
    pick = int(policy_run.pick())
    if not 0 <= pick < runs:
        raise RuntimeError(
            f"Expected '{policy.name}' to pick a run in [0, {runs - 1}] but got {pick}."
        )
    return recording.outcome(pick)


class _Recording:
    """Copies recorded curves to the observations, one epoch at a time."""

    def __init__(
        self,
        train: NDArray[np.float64],
        validation: NDArray[np.float64] | None,
        validated_from: int,
        seed: int,
    ) -> None:
        self._epochs = train.shape[1]
        self._validated_from = min(
            slice(validated_from, None).indices(self._epochs)[0], self._epochs - 1
        )
        # Lists, because reading a single element of an array takes three times as long.
        self._train = train.tolist()
        self._validation = None if validation is None else validation.tolist()
        self._done = [0] * len(train)
        self._reported_train = np.full(train.shape, np.nan)
        self._reported_validation = np.full(train.shape, np.nan)
        self._completed = np.zeros(len(train), dtype=np.int64)
        self.observations = Observations(
            train=_read_only(self._reported_train),
            validation=_read_only(self._reported_validation),
            epochs=_read_only(self._completed),
            max_epochs=self._epochs,
            has_validation=validation is not None,
            seed=seed,
        )

    def train_epoch(self, training: Sequence[int]) -> list[tuple[int, int]]:
        """Train one epoch of each run, and return the runs with their completed epochs."""
        for run in training:
            epoch = self._done[run]
            self._reported_train[run, epoch] = self._train[run][epoch]
            if self._validation is not None and epoch >= self._validated_from:
                self._reported_validation[run, epoch] = self._validation[run][epoch]
            self._done[run] = self._completed[run] = epoch + 1
        return [(run, self._done[run]) for run in training]

    def outcome(self, pick: int) -> Outcome:
        """Return the outcome, with the pick trained to the end."""
        epochs = self._completed.copy()
        epochs[pick] = self._epochs
        validations = int(np.maximum(epochs - self._validated_from, 0).sum())
        return Outcome(pick, epochs, validations if self._validation is not None else 0)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.setflags(write=False)
    return view
