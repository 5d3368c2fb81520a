"""The built-in policies: full training, a fixed T, synchronous halving, and ASHA with promotion.

All except ASHA pause all runs at a rung and resume the best. Their cost therefore does not depend
on the number of workers.
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
_HALVING = re.compile(r"(halving|asha-promote)(?:-eta([1-9][0-9]*))?(?:-from([1-9][0-9]*))?")


def named_baseline(name: str) -> Policy:
    """Return a built-in policy.

    - `full` trains all runs to the end and validates in every epoch. The costs of all policies are
      shares of its cost.
    - `fixed-t10-top5` stops all runs at T = 10 and trains the best 5 to the end.
    - `halving` stops all runs at T = 3. It trains the best third (rounded down, at least 1) to
      T = 9, the best third of these to T = 27, and so on. `halving-eta2-from1` keeps the best half
      at T = 1, 2, 4, ...
    - `asha-promote` uses the same rungs and numbers as `halving`, but no run waits for others (Li
      et al. 2020, Algorithm 2). A free worker searches the rungs from the latest to the first. It
      resumes the best paused run that is in the best third of the runs that have reached the rung
      so far. If no rung has such a run, the worker starts a new run. A paused run can be promoted
      at any later time.

    The best runs are those with the lowest `sotl_e1`, the training loss of the last epoch. With the
    ending `-val`, for example `halving-val`, they are those with the best validation value. Ties go
    to the run that was drawn first. A run with a non-finite value is stopped.

    Raises:
        ValueError: If there is no such policy, or if a number is out of range.

    Examples:
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
        eta, first = int(match[2] or ETA), int(match[3] or FIRST_RUNG)
        if eta < 2:
            raise ValueError(f"Expected eta in '{name}' to be at least 2 but got {eta}.")
        if match[1] == "asha-promote":
            return PromotingAsha(name, first, eta)
        return Rungs(name, first, lambda runs: max(1, runs // eta), eta)
    raise ValueError(
        f"There is no policy {name!r}; the built-in ones are 'full', 'fixed-t10-top5', 'halving', "
        "'halving-eta3-from3', 'asha-promote' and 'asha-promote-eta3-from3', with any numbers. All "
        "except 'full' also exist with the ending '-val'."
    )


@dataclass(frozen=True)
class Rungs(OneSignalPolicy):
    """All runs pause at each rung, and the best continue to the next rung or to the end.

    Attributes:
        name: Name of the policy.
        first: Completed epochs at the first rung, or None for no rung.
        kept: Returns how many runs continue, from the number of runs at the rung.
        eta: The factor between two rungs, or None for a single rung.
    """

    first: int | None = None
    kept: Callable[[int], int] = int
    eta: int | None = None

    @property
    def validated_from(self) -> int:
        """Every epoch for `full` and for validation values, otherwise only the last."""
        return EVERY_EPOCH if self.first is None else super().validated_from

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Raises:
            ValueError: If the first rung is not before the end, or if the policy reads validation
                values and there are none.
        """
        self.check_signal(observations)
        epochs = observations.max_epochs
        rungs = [] if self.first is None else _rungs(self.name, self.first, self.eta, epochs)
        return _RungsRun(observations, self, rungs)


def _rungs(name: str, first: int, eta: int | None, epochs: int) -> list[int]:
    """Return the completed epochs at the rungs below full training, at least one rung."""
    if first >= epochs:
        raise ValueError(
            f"Expected the first T of '{name}' to be in [1, {epochs - 1}], "
            f"below the {epochs} epochs of full training, but got {first}."
        )
    found = [first]
    while eta is not None and found[-1] * eta < epochs:
        found.append(found[-1] * eta)
    return found


class _RungsRun(BasicRun):
    def __init__(self, observations: Observations, policy: Rungs, rungs: list[int]) -> None:
        super().__init__(observations, policy.signal)
        self._policy = policy
        self._rungs = rungs  # those that no run has reached yet
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
        # Sorted into the order of the draw, which breaks ties at the next rung.
        self._alive = np.sort(self._alive[best[np.isfinite(values[best])]])
        return self._alive.tolist()


@dataclass(frozen=True)
class PromotingAsha(OneSignalPolicy):
    """Asynchronous successive halving that pauses runs and promotes the best (Li et al. 2020).

    Attributes:
        name: Name of the policy.
        first: Completed epochs at the first rung.
        eta: The factor between two rungs. One in `eta` runs is promoted.
    """

    first: int
    eta: int

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Raises:
            ValueError: Under the same conditions as in `Rungs.begin`.
        """
        self.check_signal(observations)
        rungs = _rungs(self.name, self.first, self.eta, observations.max_epochs)
        return _PromotingRun(observations, self, rungs)


class _PromotingRun(BasicRun):
    def __init__(self, observations: Observations, policy: PromotingAsha, rungs: list[int]) -> None:
        super().__init__(observations, policy.signal)
        self._eta = policy.eta
        self._rungs = rungs
        self._arrived: list[list[int]] = [[] for _ in rungs]  # the runs that have reached a rung
        self._promoted: list[set[int]] = [set() for _ in rungs]

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        answers = []
        for run, done in reports:
            answers.append(done not in self._rungs)
            if done in self._rungs:
                self._arrived[self._rungs.index(done)].append(run)
        return answers

    def promote(self) -> int | None:
        curve = self._observations.curve(self._signal)
        levels = list(zip(self._rungs, self._arrived, self._promoted, strict=True))
        for rung, arrived, promoted in reversed(levels):
            values = curve[arrived, rung - 1]
            best: list[int] = np.argsort(values, kind="stable")[
                : len(arrived) // self._eta
            ].tolist()
            for place in best:
                run = arrived[place]
                if run not in promoted and np.isfinite(values[place]):
                    promoted.add(run)
                    return run
        return None
