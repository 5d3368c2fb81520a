"""Simulated time: runs on workers, one unit of time an epoch, and a policy that decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.replay.policy import Observations, Policy, PolicyRun

_Number = TypeVar("_Number", np.float64, np.int64)


@dataclass(frozen=True)
class Outcome:
    """What a policy has done with the runs of one repeat.

    Attributes:
        pick: The run that it keeps, trained to the end.
        epochs: Of each run those that were trained, shape `(runs,)`.
        validations: How many validation passes were made.
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
    """Return what a policy does with some runs.

    Runs start in the order of their rows. A free worker takes the next run that waits: the fresh
    ones first, then those that the policy has go on; it asks the policy for these whenever nothing
    runs and none waits. All reports of one instant can be seen before any decision of it is made.

    Args:
        policy: Decides, and sees only what was reported.
        train: Training losses, lower is better, without NaN, shape `(runs, epochs)`.
        validation: Validation values, lower is better, without NaN, of the same shape; None if
            there are none.
        workers: How many runs are trained at a time, at least 1.
        seed: Of this repeat, for policies that draw.

    Raises:
        ValueError: If the policy does not allow such curves.
        RuntimeError: If the policy answers what it cannot.

    Example:
        >>> from lightning_sotl.replay.baselines import named_baseline
        >>> losses = np.array([[3.0, 2.0], [2.0, 1.0], [4.0, 3.0]])
        >>> outcome = simulate(named_baseline("fixed-t1-top1"), losses, None, workers=1)
        >>> outcome.pick, outcome.epochs.tolist()
        (1, [1, 2, 1])
    """
    runs, epochs = train.shape
    clock = _Clock(policy, train, validation, seed)
    waiting: deque[int] = deque(range(runs))
    running: list[int] = []
    while True:
        while waiting and len(running) < workers:
            running.append(waiting.popleft())
        if not running:
            resumed = clock.decider.resume()
            if len(resumed) == 0:
                break
            waiting.extend(clock.checked(resumed))
            continue
        reports = clock.train_an_epoch(running)
        answers = clock.decider.goes_on(reports)
        if len(answers) != len(reports):
            raise RuntimeError(
                f"Expected '{policy.name}' to give {len(reports)} answers but got {len(answers)}."
            )
        running = [
            run
            for (run, done), answer in zip(reports, answers, strict=True)
            if answer and done < epochs
        ]
    return clock.outcome(int(clock.decider.pick()))


class _Clock:
    """What was recorded, what of it has been reported by now, and to whom."""

    def __init__(
        self,
        policy: Policy,
        train: NDArray[np.float64],
        validation: NDArray[np.float64] | None,
        seed: int,
    ) -> None:
        self._name = policy.name
        self._epochs = int(train.shape[1])
        first = policy.validated_from
        last = self._epochs - 1
        self._validated_from = min(last, first if first >= 0 else max(0, self._epochs + first))
        # Lists, as single elements of an array cost three times as much to read.
        self._train: list[list[float]] = train.tolist()
        self._validation: list[list[float]] | None = None
        if validation is not None:
            self._validation = validation.tolist()
        self._reported = (np.full(train.shape, np.nan), np.full(train.shape, np.nan))
        self._done = np.zeros(len(train), dtype=np.int64)
        self.decider: PolicyRun = policy.begin(
            Observations(
                train=_read_only(self._reported[0]),
                validation=_read_only(self._reported[1]),
                epochs=_read_only(self._done),
                max_epochs=self._epochs,
                has_validation=validation is not None,
                seed=seed,
            )
        )
        self._counts = [0] * len(train)

    def train_an_epoch(self, running: Sequence[int]) -> list[tuple[int, int]]:
        """Let one unit of time go by, and return what is reported at its end."""
        train, validation = self._reported
        recorded, first = self._validation, self._validated_from
        reports = []
        for run in running:
            epoch = self._counts[run]
            train[run, epoch] = self._train[run][epoch]
            if recorded is not None and epoch >= first:
                validation[run, epoch] = recorded[run][epoch]
            self._counts[run] = self._done[run] = epoch + 1
            reports.append((run, epoch + 1))
        return reports

    def checked(self, resumed: Sequence[int]) -> list[int]:
        """Return the runs that the policy has go on, if they can: when asked, nothing runs."""
        runs = [int(run) for run in resumed]
        for place, run in enumerate(runs):
            can_go_on = 0 <= run < len(self._counts) and self._counts[run] < self._epochs
            if not can_go_on or run in runs[:place]:
                raise RuntimeError(
                    f"Expected '{self._name}' to go on with paused runs, each once, but got {runs}."
                )
        return runs

    def outcome(self, pick: int) -> Outcome:
        """Return the end, with the pick trained on if it is not there yet."""
        if not 0 <= pick < len(self._done):
            raise RuntimeError(
                f"Expected '{self._name}' to pick a run in [0, {len(self._done) - 1}] but got "
                f"{pick}."
            )
        epochs = self._done.copy()
        epochs[pick] = self._epochs
        validations = int(np.maximum(epochs - self._validated_from, 0).sum())
        return Outcome(pick, epochs, validations if self._validation is not None else 0)


def _read_only(array: NDArray[_Number]) -> NDArray[_Number]:
    view = array.view()
    view.setflags(write=False)
    return view
