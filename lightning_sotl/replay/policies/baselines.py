"""The built-in policies: full training, a fixed T, and synchronous halving.

They pause all runs at a rung and resume the best, so their cost does not depend on how many runs
are trained at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_sotl.replay.policy import (
    EVERY_EPOCH,
    BasicRun,
    Observations,
    OneSignalPolicy,
    Policy,
    PolicyRun,
)

ETA, FIRST_RUNG = 3, 3
_FIXED = re.compile(r"fixed-t([1-9][0-9]*)-top([1-9][0-9]*)")
_HALVING = re.compile(r"halving(?:-eta([1-9][0-9]*))?(?:-from([1-9][0-9]*))?")


def named_baseline(name: str) -> Policy:
    """Return a built-in policy.

    - `full` trains all runs to the end and validates in every epoch. Costs are shares of its cost.
    - `fixed-t10-top5` stops all at T = 10 and trains the best 5 to the end.
    - `halving` stops all at T = 3, trains the best third (rounded down, at least 1) to T = 9, the
      best third of these to T = 27 and so on; `halving-eta2-from1` keeps the best half at
      T = 1, 2, 4, ...

    The best runs have the lowest `sotl_e1`, the training loss of the last epoch; with the ending
    `-val`, as in `halving-val`, the best validation value. Ties go to the run that was drawn
    first, and a run whose value is not finite is stopped.

    Raises:
        ValueError: If there is no such policy, or if a number is out of range.

    Example:
        >>> named_baseline("halving-eta2-from1-val").name
        'halving-eta2-from1-val'
    """
    stem = name.removesuffix("-val")
    if name == "full":
        return Rungs(name)
    if match := _FIXED.fullmatch(stem):
        top = int(match[2])
        return Rungs(name, int(match[1]), lambda _: top)
    if match := _HALVING.fullmatch(stem):
        eta, first = int(match[1] or ETA), int(match[2] or FIRST_RUNG)
        if eta < 2:
            raise ValueError(f"Expected eta in '{name}' to be at least 2 but got {eta}.")
        return Rungs(name, first, lambda runs: max(1, runs // eta), eta)
    raise ValueError(
        f"There is no policy {name!r}; built in are 'full', 'fixed-t10-top5', 'halving' and "
        "'halving-eta3-from3' with any numbers, the last three also with the ending '-val'."
    )


@dataclass(frozen=True)
class Rungs(OneSignalPolicy):
    """All runs pause at a rung, and the best continue to the next rung, or to the end.

    Attributes:
        name: Name of the policy.
        first: Completed epochs at the first rung; None for no rung.
        kept: (runs at a rung) -> how many of them continue.
        eta: Each further rung is so many times as late as the one before; None for a single rung.
    """

    first: int | None = None
    kept: Callable[[int], int] = int
    eta: int | None = None

    @property
    def validated_from(self) -> int:
        """Every epoch for `full` and for validation values, otherwise the last."""
        return EVERY_EPOCH if self.first is None else super().validated_from

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Raises:
            ValueError: If the first rung is not before the end, or if there are no validation
                values and the policy reads them.
        """
        self.check_signal(observations)
        epochs = observations.max_epochs
        if self.first is not None and self.first >= epochs:
            raise ValueError(
                f"Expected the first T of '{self.name}' to be in [1, {epochs - 1}], "
                f"below the {epochs} epochs of full training, but got {self.first}."
            )
        rungs = [] if self.first is None else [self.first]
        while self.eta is not None and rungs[-1] * self.eta < epochs:
            rungs.append(rungs[-1] * self.eta)
        return _RungsRun(observations, self, rungs)


class _RungsRun(BasicRun):
    def __init__(self, observations: Observations, policy: Rungs, rungs: list[int]) -> None:
        super().__init__(observations, policy.signal)
        self._policy = policy
        self._rungs = rungs  # that no run has reached yet
        self._alive = np.arange(len(observations.epochs))

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        rung = self._rungs[0] if self._rungs else self._observations.max_epochs
        return [done < rung for _, done in reports]

    def resume(self) -> Sequence[int]:
        if not self._rungs:
            return ()
        curve = self._observations.curve(self._signal)
        values = curve[self._alive, self._rungs.pop(0) - 1]
        best = np.argsort(values, kind="stable")[: self._policy.kept(len(values))]
        # In the order of the draw again, to which ties at the next rung go.
        self._alive = np.sort(self._alive[best[np.isfinite(values[best])]])
        return self._alive.tolist()
