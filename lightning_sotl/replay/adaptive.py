"""The adaptive rule in a replay: by training losses, by validation values, or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies import AdaptivePolicy
from lightning_sotl.replay.policy import (
    IN_EVERY_EPOCH,
    Decider,
    Policy,
    Seen,
    best_of_the_longest,
    check_signal,
)

# A single validation is noisy; the runs that are trained to the end are told apart by a few.
PICKED_BY_LAST = 3
_NAME = re.compile(r"adaptive(?:-keep([0-9]+(?:\.[0-9]+)?))?(?:-(val|both))?")


def named_adaptive(name: str) -> Policy:
    """Return the adaptive rule under one of its names.

    - `adaptive` compares the runs by `sotl_e1`, the training loss of the last epoch, and validates
      in the last three epochs of full training only.
    - `adaptive-val` compares them by the validation value of each epoch.
    - `adaptive-both` takes the steadier of the two, and so notices training losses that do not
      say which network is better.

    `adaptive-keep2`, `adaptive-keep2-val` and so on set `keep`. A run that is stopped stays so. Of
    the runs at the end the pick is the one with the best mean of its last three validations.

    Raises:
        ValueError: If the name is none of these, or `keep` is 0.

    Example:
        >>> named_adaptive("adaptive-keep2-both").keep
        2.0
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"There is no policy {name!r}; adaptive are 'adaptive', 'adaptive-keep2' with any "
            "number, and the same with the ending '-val' or '-both'."
        )
    policy = Adaptive(name, float(match[1] or 1.0), match[2] or "")
    AdaptivePolicy(max_epochs=2, keep=policy.keep)  # refuses what `keep` cannot be
    return policy


@dataclass(frozen=True)
class Adaptive:
    """`AdaptivePolicy` on recorded curves.

    Attributes:
        name: The policy's.
        keep: As in `AdaptivePolicy`.
        reads: "val", "both", or "" for training losses alone.
    """

    name: str
    keep: float
    reads: str

    @property
    def validated_from(self) -> int:
        """Training losses cost no validation before the end."""
        return IN_EVERY_EPOCH if self.reads else -PICKED_BY_LAST

    def begin(self, seen: Seen) -> Decider:
        """Return what decides in one repeat.

        Raises:
            ValueError: If there are no validation values and the policy reads them.
        """
        check_signal(self.name, "validation" if self.reads else "train", seen)
        return _Adaptive(seen, self)


class _Adaptive:
    def __init__(self, seen: Seen, policy: Adaptive) -> None:
        self._seen = seen
        self._reads = policy.reads
        runs = len(seen.epochs)
        self._rule = AdaptivePolicy(max_epochs=seen.max_epochs, keep=policy.keep, runs=runs)

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

    def resume(self) -> Sequence[int]:
        return ()

    def pick(self) -> int:
        seen = self._seen
        ended = np.flatnonzero(seen.epochs == seen.max_epochs)
        if not (len(ended) and seen.has_validation):
            return best_of_the_longest(seen, "validation" if self._reads == "val" else "train")
        last = min(PICKED_BY_LAST, seen.max_epochs)
        return int(ended[np.argmin(seen.validation[ended, -last:].mean(axis=1))])
