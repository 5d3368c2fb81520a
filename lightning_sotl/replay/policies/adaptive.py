"""The adaptive rule in a replay: by training losses, by validation values, or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.replay.policy import (
    IN_EVERY_EPOCH,
    Observations,
    Policy,
    PolicyRun,
    StopsForGood,
    check_signal,
)

# A single validation is noisy; the runs that are trained to the end are told apart by a few.
PICKED_BY_LAST = 3
_NAME = re.compile(r"adaptive(?:-first([0-9]+))?(?:-keep([0-9]+(?:\.[0-9]+)?))?(?:-(val|both))?")
_DEFAULT = AdaptivePolicy(max_epochs=1)


def named_adaptive(name: str) -> Policy:
    """Return the adaptive rule under one of its names.

    - `adaptive` compares the runs by `sotl_e1`, the training loss of the last epoch, and validates
      in the last three epochs of full training only.
    - `adaptive-val` compares them by the validation value of each epoch.
    - `adaptive-both` looks in the training losses at the leaders of the validation, and so notices
      training losses that do not say which network is better.

    `adaptive-keep2`, `adaptive-first2-keep2-val` and so on set `keep` and `first`. A run that is
    stopped stays so. Of the runs at the end the pick is the one with the best mean of its last
    three validations.

    Raises:
        ValueError: If the name is none of these, or a number is out of range.

    Example:
        >>> named_adaptive("adaptive-keep2-both").keep
        2.0
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"There is no policy {name!r}; adaptive are 'adaptive', 'adaptive-first2-keep2' with "
            "any numbers, and the same with the ending '-val' or '-both'."
        )
    first, keep = int(match[1] or _DEFAULT.first), float(match[2] or _DEFAULT.keep)
    AdaptivePolicy(max_epochs=1, keep=keep, first=first)  # refuses what they cannot be
    return Adaptive(name, keep, first, match[3] or "")


@dataclass(frozen=True)
class Adaptive:
    """`AdaptivePolicy` on recorded curves.

    Attributes:
        name: The policy's.
        keep: As in `AdaptivePolicy`.
        first: The same.
        reads: "val", "both", or "" for training losses alone.
    """

    name: str
    keep: float
    first: int
    reads: str

    @property
    def validated_from(self) -> int:
        """Training losses cost no validation before the end."""
        return IN_EVERY_EPOCH if self.reads else -PICKED_BY_LAST

    def begin(self, seen: Observations) -> PolicyRun:
        """Return what decides in one repeat.

        Raises:
            ValueError: If there are no validation values and the policy reads them.
        """
        check_signal(self.name, "validation" if self.reads else "train", seen)
        return _Adaptive(seen, self)


class _Adaptive(StopsForGood):
    def __init__(self, seen: Observations, policy: Adaptive) -> None:
        super().__init__(seen, "validation" if policy.reads == "val" else "train")
        self._reads = policy.reads
        runs = len(seen.epochs)
        self._rule = AdaptivePolicy(
            max_epochs=seen.max_epochs, keep=policy.keep, runs=runs, first=policy.first
        )

    def goes_on(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        # The columns behind the furthest run are empty.
        furthest = max(int(self._seen.epochs.max()), 1)
        train: NDArray[np.float64] | None = self._seen.train[:, :furthest]
        validation: NDArray[np.float64] | None = self._seen.validation[:, :furthest]
        if self._reads == "val":
            train = None
        elif not self._reads:
            validation = None
        runs = [run for run, _ in reports]
        return [decision.goes_on for decision in self._rule.decide_all(runs, train, validation)]

    def pick(self) -> int:
        seen = self._seen
        ended = np.flatnonzero(seen.epochs == seen.max_epochs)
        if not (len(ended) and seen.has_validation):
            return super().pick()
        last = seen.validation[ended, -min(PICKED_BY_LAST, seen.max_epochs) :]
        # What is not finite is of a run that has diverged, or of an epoch before the first
        # validation.
        known = np.isfinite(last)
        means = np.where(known, last, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        means[~known[:, -1]] = np.inf
        return int(ended[np.lexsort((last[:, -1], means))[0]])
