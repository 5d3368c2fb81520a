"""The interface between a stopping policy and a replay, and what most policies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import Signal

# The first epoch after which runs are validated, as an index into the epochs.
EVERY_EPOCH, LAST_EPOCH = 0, -1


@dataclass(frozen=True)
class Observations:
    """What has been reported so far. The replay fills it in place as simulated time passes.

    Column e of a curve is the value after `e + 1` completed epochs. Lower is better in both
    curves, whichever way the recorded curves pointed; `+inf` is a reported value that is not
    finite, NaN a value that has not been reported. The arrays are read-only.

    Attributes:
        train: Training losses, shape `(runs, epochs)`.
        validation: Validation values, shape `(runs, epochs)`, from `Policy.validated_from` on.
        epochs: How many epochs each run has completed, shape `(runs,)`.
        max_epochs: E, the epochs of full training.
        has_validation: Whether validation values were recorded at all.
        seed: A number of this repeat, the same for every policy, for policies that draw.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64]
    epochs: NDArray[np.int64]
    max_epochs: int
    has_validation: bool
    seed: int

    def curve(self, signal: Signal) -> NDArray[np.float64]:
        """Return the curve that a policy ranks by."""
        return self.train if signal == "train" else self.validation


class PolicyRun(Protocol):
    """A policy at work on the runs of one repeat."""

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """Decide about the runs that have completed an epoch at this instant.

        Args:
            reports: Pairs of a run and its number of completed epochs. The observations hold
                everything reported up to and at this instant, and nothing later.

        Returns:
            For each report, whether the run continues at once. A run that does not is paused, and
            its worker is free. After the last epoch the answer does not count.
        """
        ...

    def resume(self) -> Sequence[int]:
        """Return the paused runs that resume now, in this order; none to end the sweep.

        The replay calls it whenever no run is training or waiting for a worker.
        """
        ...

    def pick(self) -> int:
        """Return the run to keep. The replay trains it to the end and counts that cost."""
        ...


@runtime_checkable
class PromotingRun(PolicyRun, Protocol):
    """A policy that may prefer a paused run to a new one."""

    def promote(self) -> int | None:
        """Return the paused run that a free worker resumes now; None to leave it to new runs.

        The replay calls it for each free worker, before the worker takes a waiting run.
        """
        ...


class Policy(Protocol):
    """A stopping policy, which starts anew for every repeat."""

    @property
    def name(self) -> str:
        """Its name in tables and documents."""
        ...

    @property
    def validated_from(self) -> int:
        """The first epoch after which runs are validated, and the validation is paid for.

        It is the first index of a slice of the epochs: 0 for every epoch, -1 for the last epoch
        of full training only, -5 for the last five, 10 for all from the eleventh on. The last
        epoch is always validated, since the pick is made by its validation.
        """
        ...

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Args:
            observations: Still empty; the replay fills it while the runs are trained.

        Raises:
            ValueError: If the policy needs longer curves, or validation values.
        """
        ...


class BasicRun:
    """The parts that most policies share: stopped runs stay stopped, and the usual pick."""

    def __init__(self, observations: Observations, signal: Signal) -> None:
        self._observations = observations
        self._signal: Signal = signal

    def resume(self) -> Sequence[int]:
        """Return no run."""
        return ()

    def pick(self) -> int:
        """Return the best of the runs that were trained longest."""
        return best_of_the_longest(self._observations, self._signal)


def best_of_the_longest(observations: Observations, signal: Signal) -> int:
    """Return the best of the runs that were trained longest, the pick of most policies.

    Runs trained to the end are compared by their last validation value, or by their last training
    loss if no validation was recorded. If no run was trained to the end, the longest are compared
    by the policy's own signal. Ties go to the run that was drawn first.

    Args:
        observations: With at least one completed epoch.
        signal: The curve that the policy ranks by.

    Example:
        >>> train = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, np.nan]])
        >>> none, epochs = np.full((3, 2), np.nan), np.array([2, 2, 1])
        >>> best_of_the_longest(Observations(train, none, epochs, 2, False, 0), "train")
        0
    """
    most = int(observations.epochs.max())
    longest = np.flatnonzero(observations.epochs == most)
    if most == observations.max_epochs:
        signal = "validation" if observations.has_validation else "train"
    return int(longest[np.argmin(observations.curve(signal)[longest, most - 1])])


def check_validation(name: str, observations: Observations) -> None:
    """Raise if a policy that reads validation values is to run without them.

    Raises:
        ValueError: If there are none.
    """
    if not observations.has_validation:
        raise ValueError(
            f"'{name}' reads validation values, and the curves have neither `val_metric` nor "
            "`val_loss`."
        )


@dataclass(frozen=True)
class OneSignalPolicy:
    """A policy that ranks by training losses or, with the ending "-val", by validation values.

    Attributes:
        name: Name of the policy.

    Example:
        >>> policy = OneSignalPolicy("halving-val")
        >>> policy.stem, policy.signal
        ('halving', 'validation')
    """

    name: str

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.removesuffix("-val")

    @property
    def signal(self) -> Signal:
        """The curve that the policy ranks by."""
        return "train" if self.stem == self.name else "validation"

    @property
    def validated_from(self) -> int:
        """Every epoch for validation values; training losses need no validation before the end."""
        return LAST_EPOCH if self.signal == "train" else EVERY_EPOCH

    def check_signal(self, observations: Observations) -> None:
        """Raise if the curve that the policy ranks by was not recorded.

        Raises:
            ValueError: If it ranks by validation values and there are none.
        """
        if self.signal == "validation":
            check_validation(self.name, observations)
