"""What a policy is in a replay: what it sees, what it is asked, and the pick that most make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import Signal

# Where a policy has validation passes made, as the first index of a slice of the epochs.
IN_EVERY_EPOCH, AFTER_THE_LAST_EPOCH = 0, -1


@dataclass(frozen=True)
class Observations:
    """What has been reported so far. The replay fills it in place as simulated time goes by.

    Column e of a curve is the value after `e + 1` completed epochs. Lower is better in both
    curves, whichever way the recorded ones pointed; `+inf` is a value that was reported and not
    finite, NaN one that has not been reported. The arrays cannot be written to.

    Attributes:
        train: Training losses, shape `(runs, epochs)`.
        validation: Validation values, shape `(runs, epochs)`; only of the epochs in which the
            policy has a validation pass made, see `Policy.validated_from`.
        epochs: How many epochs each run has completed, shape `(runs,)`.
        max_epochs: E, those of full training.
        has_validation: Whether validation values were recorded at all.
        seed: A number of this repeat, the same for every policy, for those that draw.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64]
    epochs: NDArray[np.int64]
    max_epochs: int
    has_validation: bool
    seed: int

    def curve(self, signal: Signal) -> NDArray[np.float64]:
        """Return the curve that a policy reads."""
        return self.train if signal == "train" else self.validation

    def newest(self, run: int, signal: Signal) -> float:
        """Return a run's value after its last completed epoch, of which it has at least one."""
        return float(self.curve(signal)[run, self.epochs[run] - 1])


class PolicyRun(Protocol):
    """A policy at work on the runs of one repeat."""

    def goes_on(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """Decide about the runs that have completed an epoch at this instant.

        Args:
            reports: Pairs of a run and its number of completed epochs. All that was reported up
                to and at this instant is in what the policy sees; nothing later is.

        Returns:
            For each report, whether the run goes on at once. A run that does not is paused, and
            its worker is free. After the last epoch the answer does not count.
        """
        ...

    def resume(self) -> Sequence[int]:
        """Return the paused runs that go on now, in this order; none to end the sweep.

        It is asked whenever nothing runs and no run waits for a worker.
        """
        ...

    def pick(self) -> int:
        """Return the run to keep. If it is not trained to the end, that is done and paid for."""
        ...


class Policy(Protocol):
    """A stopping policy, which starts anew for every repeat.

    Attributes:
        name: How tables and documents call it.
        validated_from: The epochs after which a run is validated, and the validation is paid for,
            as the first index of a slice: 0 for every epoch, -1 for the last epoch of full
            training only, -5 for the last five, 10 for all from the eleventh on. The last
            epoch is always among them, as the pick is made by its validation.
    """

    @property
    def name(self) -> str:
        """How tables and documents call it."""
        ...

    @property
    def validated_from(self) -> int:
        """The first index of a slice of the epochs: those after which a run is validated."""
        ...

    def begin(self, seen: Observations) -> PolicyRun:
        """Return what decides about the runs of one repeat.

        Args:
            seen: Still empty; it fills while the runs are trained.

        Raises:
            ValueError: If curves of this length, or without validation values, do not allow it.
        """
        ...


def best_of_the_longest(seen: Observations, signal: Signal) -> int:
    """Return the pick that most policies make.

    Among the runs trained to the end it is the one with the best last validation value, or with
    the lowest last training loss where no validation was recorded. If no run is trained to the
    end, it is the best by the policy's own signal among those that got furthest. Ties go to the
    run that was drawn first.

    Args:
        seen: With at least one completed epoch.
        signal: What the policy reads.

    Example:
        >>> train = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, np.nan]])
        >>> none = np.full((3, 2), np.nan)
        >>> best_of_the_longest(Seen(train, none, np.array([2, 2, 1]), 2, False, 0), "train")
        0
    """
    furthest = int(seen.epochs.max())
    longest = np.flatnonzero(seen.epochs == furthest)
    if furthest == seen.max_epochs:
        signal = "validation" if seen.has_validation else "train"
    return int(longest[np.argmin(seen.curve(signal)[longest, furthest - 1])])


def check_signal(name: str, signal: Signal, seen: Observations) -> None:
    """Raise if a policy reads what was not recorded.

    Raises:
        ValueError: If it reads validation values and there are none.
    """
    if signal == "validation" and not seen.has_validation:
        raise ValueError(
            f"'{name}' reads validation values, and the curves have neither `val_metric` nor "
            "`val_loss`."
        )


def validated_from(signal: Signal) -> int:
    """Return from which epoch on a policy that reads a curve has validation passes made.

    Training losses cost no validation before the end.
    """
    return AFTER_THE_LAST_EPOCH if signal == "train" else IN_EVERY_EPOCH


class StopsForGood:
    """The part of a decider that never takes a stopped run up again, and makes the usual pick."""

    def __init__(self, seen: Observations, signal: Signal) -> None:
        self._seen = seen
        self._signal: Signal = signal

    def resume(self) -> Sequence[int]:
        """Return no run."""
        return ()

    def pick(self) -> int:
        """Return the best of the runs that got furthest."""
        return best_of_the_longest(self._seen, self._signal)


def split_signal(name: str) -> tuple[str, Signal]:
    """Return a policy's name without the ending that says what it reads, and what that is.

    Example:
        >>> split_signal("halving-val"), split_signal("halving")
        (('halving', 'validation'), ('halving', 'train'))
    """
    stem = name.removesuffix("-val")
    return stem, "train" if stem == name else "validation"
