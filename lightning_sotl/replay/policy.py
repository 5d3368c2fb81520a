"""The interface between stopping policies and a replay, and the code that policies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import Signal

# Values of `Policy.validated_from`.
EVERY_EPOCH, LAST_EPOCH = 0, -1


@dataclass(frozen=True)
class Observations:
    """The values that have been reported so far. The replay fills them in place over time.

    Column e of a curve is the value after `e + 1` completed epochs. Lower is better in both curves,
    whatever the direction of the recorded metric. `+inf` is a reported value that is not finite,
    and NaN is a value that has not been reported. The arrays are read-only.

    Attributes:
        train: Training losses, shape `(runs, epochs)`.
        validation: Validation values, shape `(runs, epochs)`, from `Policy.validated_from` on.
        epochs: How many epochs each run has completed, shape `(runs,)`.
        max_epochs: The number of epochs of full training.
        has_validation: Whether any validation values were recorded.
        seed: The seed of this repeat, for policies that draw random numbers. It is the same for
            every policy.
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
    """The state of a policy on the runs of one repeat."""

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """Decide about the runs that have completed an epoch at this instant.

        Args:
            reports: Pairs of a run and its number of completed epochs. The observations contain
                all reports up to and including this instant, and nothing later.

        Returns:
            For each report, whether the run continues at once. Otherwise the run is paused, and
            its worker becomes free. After the last epoch the answer is ignored.
        """
        ...

    def resume(self) -> Sequence[int]:
        """Return the paused runs that resume now, in this order, or none to end the sweep.

        The replay calls it whenever no run is training or waiting for a worker.
        """
        ...

    def pick(self) -> int:
        """Return the run to keep. The replay trains it to the end and counts that cost."""
        ...


@runtime_checkable
class PromotingRun(PolicyRun, Protocol):
    """A PolicyRun that may resume a paused run before a new run starts."""

    def promote(self) -> int | None:
        """Return the paused run that a free worker resumes now, or None to start a waiting run.

        The replay calls it for each free worker, before the worker takes a waiting run.
        """
        ...


class Policy(Protocol):
    """A stopping policy. It starts from scratch in every repeat."""

    @property
    def name(self) -> str:
        """The policy's name in tables and JSON documents."""
        ...

    @property
    def validated_from(self) -> int:
        """The first epoch whose validation is run and counted in the cost.

        This is the start of a slice of the epochs: 0 for every epoch, -1 for only the last epoch of
        full training, -5 for the last five, 10 for all from the eleventh on. The last epoch is
        always validated, because its validation decides the pick.
        """
        ...

    def begin(self, observations: Observations) -> PolicyRun:
        """Start on the runs of one repeat.

        Args:
            observations: Empty at first. The replay fills it while the runs train.

        Raises:
            ValueError: If the policy needs longer curves, or validation values that do not exist.
        """
        ...


class BasicRun:
    """The methods that most policies share: stopped runs stay stopped, and the usual pick."""

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
    """Return the best of the runs that trained longest, which is the pick of most policies.

    Runs trained to the end are compared by their last validation value, or by their last training
    loss if no validation was recorded. If no run was trained to the end, those that trained longest
    are compared by the policy's own signal. Ties go to the run that was drawn first.

    Args:
        observations: The reports, with at least one completed epoch.
        signal: The curve that the policy ranks by.

    Examples:
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
    """Check that there are validation values, for a policy that reads them.

    Raises:
        ValueError: If there are none.
    """
    if not observations.has_validation:
        raise ValueError(
            f"'{name}' needs validation values, but the curves have neither `val_metric` nor "
            "`val_loss`."
        )


@dataclass(frozen=True)
class OneSignalPolicy:
    """A policy that ranks runs by training losses or, if its name ends in "-val", by validations.

    Attributes:
        name: Name of the policy.

    Examples:
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
        """Every epoch for validation values. Training losses need only the last validation."""
        return LAST_EPOCH if self.signal == "train" else EVERY_EPOCH

    def check_signal(self, observations: Observations) -> None:
        """Check that the curve that the policy ranks by was recorded.

        Raises:
            ValueError: If the policy ranks by validation values and there are none.
        """
        if self.signal == "validation":
            check_validation(self.name, observations)
