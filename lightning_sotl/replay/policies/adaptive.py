"""The adaptive rule in a replay: by training losses, by validation values, or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.replay.policy import (
    EVERY_EPOCH,
    BasicRun,
    Observations,
    Policy,
    PolicyRun,
    check_validation,
)

# A single validation is noisy, so runs trained to the end are compared by the mean of a few.
PICKED_BY_LAST = 3
_NAME = re.compile(r"adaptive(?:-first([0-9]+))?(?:-keep([0-9]+(?:\.[0-9]+)?))?(?:-(val|both))?")
_DEFAULT = AdaptivePolicy(max_epochs=1)


def named_adaptive(name: str) -> Policy:
    """Return the adaptive rule under one of its names.

    - `adaptive` compares the runs by `sotl_e1`, the training loss of the last epoch, and validates
      in the last three epochs of full training only.
    - `adaptive-val` compares them by the validation value of each epoch.
    - `adaptive-both` looks up the leaders of the validation in the training losses, and so notices
      training losses that do not tell which network is better.

    `adaptive-keep2`, `adaptive-first2-keep2-val` and so on set `keep` and `first`. A stopped run
    stays stopped. The pick is, among the runs trained to the end, the run with the best mean of
    its last three validations.

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
    AdaptivePolicy(max_epochs=1, keep=keep, first=first)  # checks the two numbers
    return Adaptive(name, keep, first, match[3] or "")


@dataclass(frozen=True)
class Adaptive:
    """`AdaptivePolicy` on recorded curves.

    Attributes:
        name: Name of the policy.
        keep: As in `AdaptivePolicy`.
        first: As in `AdaptivePolicy`.
        reads: "val", "both", or "" for training losses alone.
    """

    name: str
    keep: float
    first: int
    reads: str

    @property
    def validated_from(self) -> int:
        """The last three epochs if only training losses are compared, otherwise every epoch."""
        return EVERY_EPOCH if self.reads else -PICKED_BY_LAST

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Raises:
            ValueError: If there are no validation values and the policy reads them.
        """
        if self.reads:
            check_validation(self.name, observations)
        return _AdaptiveRun(observations, self)


class _AdaptiveRun(BasicRun):
    def __init__(self, observations: Observations, policy: Adaptive) -> None:
        super().__init__(observations, "validation" if policy.reads == "val" else "train")
        self._reads = policy.reads
        self._rule = AdaptivePolicy(
            max_epochs=observations.max_epochs,
            keep=policy.keep,
            runs=len(observations.epochs),
            first=policy.first,
        )

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        observations = self._observations
        reached = int(observations.epochs.max())  # later columns are empty
        decisions = self._rule.decide_all(
            [run for run, _ in reports],
            None if self._reads == "val" else observations.train[:, :reached],
            observations.validation[:, :reached] if self._reads else None,
        )
        return [decision.goes_on for decision in decisions]

    def pick(self) -> int:
        observations = self._observations
        ended = np.flatnonzero(observations.epochs == observations.max_epochs)
        if not (len(ended) and observations.has_validation):
            return super().pick()
        last = observations.validation[ended, -PICKED_BY_LAST:]
        # Not finite: the run has diverged, or the epoch is before the first validation.
        known = np.isfinite(last)
        means = np.where(known, last, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        means[~known[:, -1]] = np.inf
        return int(ended[np.lexsort((last[:, -1], means))[0]])
