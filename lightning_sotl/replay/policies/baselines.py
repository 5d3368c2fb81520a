"""The built-in policies: full training, a fixed T, and synchronous halving.

They pause all runs at a rung and go on with the best, so their cost does not depend on how many
runs are trained at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_sotl.policies.adaptive import Signal
from lightning_sotl.replay.policy import (
    IN_EVERY_EPOCH,
    Observations,
    Policy,
    PolicyRun,
    best_of_the_longest,
    check_signal,
    split_signal,
    validated_from,
)

ETA, FIRST_RUNG = 3, 3
_FIXED = re.compile(r"fixed-t([1-9][0-9]*)-top([1-9][0-9]*)")
_HALVING = re.compile(r"halving(?:-eta([1-9][0-9]*))?(?:-from([1-9][0-9]*))?")


def named_baseline(name: str) -> Policy:
    """Return a built-in policy.

    - `full` trains all runs to the end. It is what costs are shares of, so it validates in every
      epoch.
    - `fixed-t10-top5` stops all at T = 10 and trains the best 5 to the end.
    - `halving` stops all at T = 3, goes on with the best third (rounded down, at least 1) to
      T = 9, with the best third of these to T = 27 and so on; `halving-eta2-from1` keeps the best
      half at T = 1, 2, 4, ...

    The best are those with the lowest `sotl_e1`, the training loss of the last epoch; with
    the ending `-val`, as in `halving-val`, those with the best validation value. Ties go to the run
    that was drawn first, and a run whose value is not finite does not go on.

    Raises:
        ValueError: If there is no such policy, or if a number is out of range.

    Example:
        >>> named_baseline("halving-eta2-from1-val").name
        'halving-eta2-from1-val'
    """
    stem, signal = split_signal(name)
    if name == "full":
        return Rungs(name, "train", (), lambda runs: runs)
    if match := _FIXED.fullmatch(stem):
        top = int(match[2])
        return Rungs(name, signal, (int(match[1]),), lambda _: top)
    if match := _HALVING.fullmatch(stem):
        eta, first = int(match[1] or ETA), int(match[2] or FIRST_RUNG)
        if eta < 2:
            raise ValueError(f"Expected eta in '{name}' to be at least 2 but got {eta}.")
        return Rungs(name, signal, (first,), lambda runs: max(1, runs // eta), eta=eta)
    raise ValueError(
        f"There is no policy {name!r}; built in are 'full', 'fixed-t10-top5', 'halving' and "
        "'halving-eta3-from3' with any numbers, the last three also with the ending '-val'."
    )


@dataclass(frozen=True)
class Rungs:
    """All runs pause at a rung, and the best go on to the next one, or to the end.

    Attributes:
        name: The policy's.
        signal: What it ranks by.
        rungs: Completed epochs, ascending.
        kept: How many of so many runs go on.
        eta: The last rung is followed by further ones, each so many times as late; None for no
            further ones.
    """

    name: str
    signal: Signal
    rungs: tuple[int, ...]
    kept: Callable[[int], int]
    eta: int | None = None

    @property
    def validated_from(self) -> int:
        """Training losses cost no validation before the end."""
        return validated_from(self.signal) if self.rungs else IN_EVERY_EPOCH

    def begin(self, seen: Observations) -> PolicyRun:
        """Return what decides in one repeat.

        Raises:
            ValueError: If the first rung is not before the end, or if there are no validation
                values and the policy reads them.
        """
        check_signal(self.name, self.signal, seen)
        if self.rungs and self.rungs[0] >= seen.max_epochs:
            raise ValueError(
                f"Expected the first T of '{self.name}' to be in [1, {seen.max_epochs - 1}], "
                f"below the {seen.max_epochs} epochs of full training, but got {self.rungs[0]}."
            )
        rungs = list(self.rungs)
        while self.eta is not None and rungs[-1] * self.eta < seen.max_epochs:
            rungs.append(rungs[-1] * self.eta)
        return _AtRungs(seen, self.signal, rungs, self.kept)


class _AtRungs:
    def __init__(
        self, seen: Observations, signal: Signal, rungs: list[int], kept: Callable[[int], int]
    ) -> None:
        self._seen = seen
        self._signal: Signal = signal
        self._rungs = rungs  # those that are still to come
        self._kept = kept
        self._alive = np.arange(len(seen.epochs))

    def goes_on(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        rung = self._rungs[0] if self._rungs else self._seen.max_epochs
        return [done < rung for _, done in reports]

    def resume(self) -> Sequence[int]:
        if not self._rungs:
            return ()
        values = self._seen.curve(self._signal)[self._alive, self._rungs.pop(0) - 1]
        best = np.argsort(values, kind="stable")[: self._kept(len(values))]
        # Sorted again, so that the next rung's ties, too, go to the run that was drawn first.
        self._alive = np.sort(self._alive[best[np.isfinite(values[best])]])
        return self._alive.tolist()

    def pick(self) -> int:
        return best_of_the_longest(self._seen, self._signal)
