"""The adaptive rule in a replay, for runs that are stopped and for runs that take turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.policies.rungs import PICKED_BY_LAST, final_score, rungs
from lightning_sotl.replay.policy import (
    EVERY_EPOCH,
    BasicRun,
    Observations,
    Policy,
    PolicyRun,
    check_validation,
)

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_NAME = re.compile(
    rf"adaptive(?:-first([0-9]+))?(?:-keep{_NUMBER})?(-pause{_NUMBER}?)?"
    r"(?:-finalists([0-9]+))?(?:-(val|both))?"
)
_DEFAULT = AdaptivePolicy(max_epochs=1)
_GROWTH = 1.5  # the default of `Sweep`


def named_adaptive(name: str) -> Policy:
    """Return the adaptive rule with a name.

    - `adaptive` compares the runs by `sotl_e1`, the training loss of the last epoch. It validates
      only in the last three epochs of full training. It decides after each epoch of a run, from the
      values that the other runs have reported so far. A stopped run stays stopped.
    - `adaptive-pause` lets the runs take turns, as `Sweep` does. All runs reach a rung before any
      of them continues, so the decisions do not depend on the number of workers. In
      `adaptive-pause1.2`, each rung is 1.2 times the one before instead of 1.5 times.
      `adaptive-pause-finalists3` trains at least 3 runs to the end.
    - `adaptive-val` and `adaptive-pause-val` compare runs by the validation value of each epoch.
    - `adaptive-both` and `adaptive-pause-both` compare runs by training losses, but take the
      leaders from the validation. They notice if the training losses do not show which network is
      better.

    Names such as `adaptive-keep2` and `adaptive-first2-keep2-pause-val` set `keep` and `first`. The
    pick is the run with the best mean of the last three validations, among the runs trained to the
    end.

    Raises:
        ValueError: If there is no such policy, or a number is out of range.

    Examples:
        >>> named_adaptive("adaptive-keep2-pause1.2-both").growth
        1.2
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"There is no policy {name!r}; the adaptive ones are 'adaptive', "
            "'adaptive-first2-keep2', 'adaptive-pause' and "
            "'adaptive-first2-keep2-pause1.5-finalists3', with any numbers. Each also exists with "
            "the ending '-val' or '-both'."
        )
    first, keep = int(match[1] or _DEFAULT.first), float(match[2] or _DEFAULT.keep)
    finalists = int(match[5]) if match[5] else None
    # Raises if a number is out of range.
    AdaptivePolicy(max_epochs=1, keep=keep, first=first, finalists=finalists)
    growth = float(match[4] or _GROWTH) if match[3] else None
    if growth is not None:
        rungs(first, first, growth=growth)  # raises if it is out of range
    elif finalists is not None:
        raise ValueError(
            f"Expected {name!r} to have '-pause', because only runs that take turns have finalists."
        )
    return Adaptive(name, keep, first, finalists, growth, match[6] or "")


@dataclass(frozen=True)
class Adaptive:
    """`AdaptivePolicy` on recorded curves.

    Attributes:
        name: Name of the policy.
        keep: As in `AdaptivePolicy`.
        first: As in `AdaptivePolicy`.
        finalists: As in `AdaptivePolicy`.
        growth: The factor between two rungs, or None if the runs do not wait for each other.
        reads: "val", "both", or "" for training losses only.
    """

    name: str
    keep: float
    first: int
    finalists: int | None
    growth: float | None
    reads: str

    @property
    def validated_from(self) -> int:
        """The last three epochs if the policy reads only training losses, otherwise every epoch."""
        return EVERY_EPOCH if self.reads else -PICKED_BY_LAST

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Raises:
            ValueError: If the policy reads validation values and there are none.
        """
        if self.reads:
            check_validation(self.name, observations)
        if self.growth is None:
            return _StoppedRuns(observations, self)
        return _RunsInTurns(
            observations, self, rungs(self.first, observations.max_epochs, growth=self.growth)
        )


class _AdaptiveRun(BasicRun):
    def __init__(self, observations: Observations, policy: Adaptive) -> None:
        super().__init__(observations, "validation" if policy.reads == "val" else "train")
        self._reads = policy.reads
        self._rule = AdaptivePolicy(
            max_epochs=observations.max_epochs,
            keep=policy.keep,
            runs=len(observations.epochs),
            first=policy.first,
            finalists=policy.finalists,
        )

    @property
    def _curves(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        observations = self._observations
        reached = int(observations.epochs.max())  # later columns are empty
        return (
            None if self._reads == "val" else observations.train[:, :reached],
            observations.validation[:, :reached] if self._reads else None,
        )

    def pick(self) -> int:
        observations = self._observations
        ended = np.flatnonzero(observations.epochs == observations.max_epochs)
        if not (len(ended) and observations.has_validation):
            return super().pick()
        last = observations.validation[ended, -PICKED_BY_LAST:]
        # Before the first validation the values are infinite.
        scores = np.array([final_score(row[np.isfinite(row).argmax() :]) for row in last])
        return int(ended[np.lexsort((last[:, -1], scores))[0]])


class _StoppedRuns(_AdaptiveRun):
    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        decisions = self._rule.decide_all([run for run, _ in reports], *self._curves)
        return [decision.goes_on for decision in decisions]


class _RunsInTurns(_AdaptiveRun):
    def __init__(self, observations: Observations, policy: Adaptive, rungs: list[int]) -> None:
        super().__init__(observations, policy)
        self._rungs = rungs  # the runs now train to the first one
        self._training = list(range(len(observations.epochs)))

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        return [done < self._rungs[0] for _, done in reports]

    def resume(self) -> Sequence[int]:
        if len(self._rungs) == 1:
            return ()
        decisions = self._rule.decide_at_rung(self._rungs.pop(0), self._training, *self._curves)
        self._training = [
            run for run, decision in zip(self._training, decisions, strict=True) if decision.goes_on
        ]
        return self._training
