"""The adaptive rule: which runs continue, among those that have reached the same epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation

Signal = Literal["train", "validation"]

# A single leader may lead by luck, and the mean of many leaders does not follow the winner.
_LEADERS = 2  # `_movement` calls `argpartition` for exactly two
# The movement is measured at this many epochs of the last doubling. More do not help.
_SAMPLES = 4
_LEAST_DRIFT = 2.0  # per doubling: if the order never changes, half continue at each doubling
# Switching to the validation is costly, because a run then has to rank well in both curves. The
# validation ranks the runs only if the training losses need this many times the places.
_VALIDATION_HANDICAP = 3.0


@dataclass(frozen=True)
class Decision:
    """The decision of an AdaptivePolicy about one run, with its reasons.

    Attributes:
        goes_on: Whether the run continues.
        epoch: The number of epochs (or blocks) that the run has completed.
        place: The run's place among the runs that have completed the same number of epochs. 1 is
            the best, and tied runs share the best of their places. None if the policy did not
            compare the run: it has no value, it is below `first`, or it is at its end.
        places: How many places continue.
        compared: How many runs have a value after this number of epochs, including this run.
        signal: The curve that ranks the run, "train" or "validation". None if the policy did not
            compare the run.

    Examples:
        >>> losses = [[3.0, 2.0, 1.0 + run] for run in range(8)]  # 8 runs after 3 epochs
        >>> AdaptivePolicy(max_epochs=12).decide(7, losses)
        Decision(goes_on=False, epoch=3, place=8, places=4, compared=8, signal='train')
    """

    goes_on: bool
    epoch: int
    place: int | None
    places: int
    compared: int
    signal: Signal | None


@dataclass(frozen=True)
class AdaptivePolicy:
    """Decides which runs continue, by comparing runs that have reached the same epoch.

    After k epochs, a run continues if its place among these runs (1 is the best) is at most

        keep * noise * drift ** log2(max_epochs / k)

    `noise` and `drift` are factors that the policy measures on the runs themselves. They describe
    how far the places of the two current leaders moved during the last doubling of training.
    `drift` is the factor per doubling, and at least 2. If the leaders were far behind earlier, many
    runs continue. If they have always led, `keep * max_epochs / k` runs continue.

    With a validation curve, the leaders are the two runs with the best validation values. The
    training losses still rank the runs, and `noise` and `drift` describe the places of these
    leaders by training loss. If the training loss does not show which network generalizes, these
    leaders are far behind by training loss, and more runs continue. If the training losses would
    need more than three times as many places as the validation itself, the validation ranks the
    runs.

    A run is compared only with runs that have started. If the runs of a sweep train one after
    another, the first runs are therefore trained longer than the later ones. With `runs`, the
    number of places is scaled by the share of the sweep that has started.

    Pass a policy to `Sweep(policy=...)` or `EarlyRankingStopper(policy=...)`, or call `decide` on
    curves of your own.

    Args:
        max_epochs: The full budget of a run, in epochs (or in blocks, if the curves count blocks).
        keep: A factor above 0. A higher value costs more epochs and lowers the risk of losing the
            best run. 2 takes a quarter to a half more epochs than 1.
        runs: How many runs the sweep will have. If None, the number is unknown, and the policy
            keeps more runs.
        first: The number of epochs before the first decision, at least 2. After 2 epochs, the
            policy cannot distinguish noise from drift. From 3 epochs on it can.
        finalists: The least number of runs that are trained to the end if runs take turns
            (`decide_at_rung`, `Sweep`). With it, a small sweep also stops its first runs sooner. 3
            suits fewer than 50 runs. None means the rule of `decide_all` without changes.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Examples:
        >>> policy = AdaptivePolicy(max_epochs=12)
        >>> losses = [[3.0, 2.0, 1.0 + run] for run in range(8)]  # 8 runs after 3 epochs
        >>> policy.decide(7, losses).goes_on, policy.decide(0, losses).goes_on
        (False, True)
    """

    max_epochs: int
    keep: float = 1.0
    runs: int | None = None
    first: int = 3
    finalists: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        validation.positive_int("max_epochs", self.max_epochs)
        keep: object = self.keep
        if isinstance(keep, bool) or not isinstance(keep, Real):
            raise TypeError(f"Expected `keep` to be a number but got {self.keep!r}.")
        if not 0.0 < self.keep < math.inf:
            raise ValueError(f"Expected `keep` to be above 0 and finite but got {self.keep!r}.")
        if self.runs is not None:
            validation.positive_int("runs", self.runs)
        if validation.positive_int("first", self.first) < 2:
            raise ValueError(f"Expected `first` to be at least 2 but got {self.first}.")
        if self.finalists is not None:
            validation.positive_int("finalists", self.finalists)

    def decide(
        self, run: int, train: ArrayLike | None, validation: ArrayLike | None = None
    ) -> Decision:
        """Decide whether a run continues after the epochs that it has completed.

        The decision depends only on the arguments. It may change when more runs have reported.

        A run without any value continues, because nothing is known about it. A run that has
        completed `max_epochs` also continues. A run with a non-finite value ranks last, and is
        stopped unless all places continue. The other curve breaks ties. Runs that tie in both
        curves continue or stop together.

        Args:
            run: The row of the run in the curves.
            train: L(e) of every run, shape `(runs, epochs)`. Lower is better. NaN means that a run
                has no value. None if there is only a validation curve.
            validation: A validation metric in the same shape. LOWER is better, so negate an
                accuracy. None if there is none.

        Raises:
            ValueError: If both curves are None, if their shapes do not match, or if the row does
                not exist.

        Examples:
            >>> losses = [[3.0, 2.0, 1.0 + run] for run in range(8)]  # 8 runs after 3 epochs
            >>> AdaptivePolicy(max_epochs=12).decide(0, losses).goes_on
            True
        """
        return self.decide_all([run], train, validation)[0]

    def decide_all(
        self, runs: Sequence[int], train: ArrayLike | None, validation: ArrayLike | None = None
    ) -> list[Decision]:
        """Decide about several runs with the same curves, faster than calling `decide` for each.

        Args:
            runs: The rows of the runs in the curves.
            train: As in `decide`.
            validation: As in `decide`.

        Returns:
            A decision for each of `runs`, in their order.

        Raises:
            ValueError: As in `decide`.
        """
        curves = _checked(train, validation)
        share = 1.0 if self.runs is None else min(_count_started(curves) / self.runs, 1.0)
        return self._decide_all(runs, curves, _Bounds(share=share))

    def decide_at_rung(
        self,
        rung: int,
        runs: Sequence[int],
        train: ArrayLike | None,
        validation: ArrayLike | None = None,
    ) -> list[Decision]:
        """Decide which runs continue, when all runs of a sweep have reached a rung.

        This applies the rule of `decide_all` to the curves up to the rung. `finalists` changes two
        bounds for small sweeps. At least that many runs continue, so that several runs trained to
        the end can be compared. And instead of 2, `drift` is at least

            min(2, runs ** (1 / log2(max_epochs / first)))

        With 2, a small sweep would stop no run before `max_epochs / runs` epochs.

        Args:
            rung: The number of completed epochs at the rung. Later values are ignored.
            runs: The rows of the runs that have reached the rung.
            train: As in `decide`.
            validation: As in `decide`.

        Returns:
            A decision for each of `runs`, in their order.

        Raises:
            ValueError: As in `decide`.

        Examples:
            >>> losses = [[3.0, 2.0, 1.0 + run] for run in range(8)]
            >>> found = AdaptivePolicy(max_epochs=12, runs=8).decide_at_rung(3, range(8), losses)
            >>> [decision.goes_on for decision in found]
            [True, True, True, True, False, False, False, False]
        """
        curves = {name: curve[:, :rung] for name, curve in _checked(train, validation).items()}
        if self.finalists is None:
            return self.decide_all(runs, curves.get("train"), curves.get("validation"))
        drift = math.log(_LEAST_DRIFT)
        if self.runs is not None and self.first < self.max_epochs:
            drift = min(drift, math.log(self.runs) / math.log2(self.max_epochs / self.first))
        return self._decide_all(runs, curves, _Bounds(drift=drift, places=self.finalists))

    def _decide_all(
        self, runs: Sequence[int], curves: dict[Signal, NDArray[np.float64]], bounds: _Bounds
    ) -> list[Decision]:
        number = len(next(iter(curves.values())))
        cohorts: dict[int, _Cohort] = {}
        decisions = []
        for run in runs:
            if not 0 <= run < number:
                raise ValueError(f"Expected `run` to be in [0, {number - 1}] but got {run}.")
            epoch = max(epochs_of(curve[run]) for curve in curves.values())
            if epoch < self.first or epoch >= self.max_epochs:
                decisions.append(Decision(True, epoch, None, number, 0, None))
                continue
            if epoch not in cohorts:
                recent = {name: _recent_values(curve, epoch) for name, curve in curves.items()}
                newest = {name: curve[-1] for name, curve in recent.items()}
                places = self._places_by(recent, epoch, bounds.drift)
                cohorts[epoch] = _Cohort(epoch, newest, places, bounds)
            decisions.append(cohorts[epoch].decide(run))
        return decisions

    def _places_by(
        self, curves: dict[Signal, NDArray[np.float64]], epoch: int, least_drift: float
    ) -> dict[Signal, float]:
        """Return how many places continue by each curve."""
        target = curves.get("validation")
        movements = {
            name: _mean_movement(curve, curve if target is None else target, epoch)
            for name, curve in curves.items()
        }
        if not any(movements.values()):  # no leaders are known from the target
            movements = {
                name: _mean_movement(curve, curve, epoch) for name, curve in curves.items()
            }
        if not any(movements.values()):
            movements = dict.fromkeys(curves, (0.0, 0.0))
        return {
            name: math.inf if movement is None else self._places(epoch, *movement, least_drift)
            for name, movement in movements.items()
        }

    def _places(self, epoch: int, noise: float, drift: float, least_drift: float) -> float:
        """Return how many places continue. `noise` and the drifts are logarithms of factors."""
        doublings = math.log2(self.max_epochs / epoch)
        exponent = math.log(self.keep) + noise + doublings * max(drift, least_drift)
        return math.exp(min(exponent, 700.0))  # a larger exponent overflows


@dataclass(frozen=True)
class _Bounds:
    """Bounds of the number of places. They differ between runs in sequence and runs in turns.

    Attributes:
        share: The factor by which the places are scaled: the share of the runs that have started.
        drift: The logarithm of the least drift per doubling.
        places: The least number of places, or the number of runs with a finite value if that is
            smaller.
    """

    share: float = 1.0
    drift: float = math.log(_LEAST_DRIFT)
    places: int = 1


@dataclass(frozen=True)
class _Cohort:
    """The runs that have reached one epoch.

    Attributes:
        epoch: The number of epochs that they have completed.
        values: The newest value of each run by curve, shape `(runs,)`.
        places: How many places continue, by curve.
        bounds: The bounds of the number of places.
    """

    epoch: int
    values: dict[Signal, NDArray[np.float64]]
    places: dict[Signal, float]
    bounds: _Bounds

    def decide(self, run: int) -> Decision:
        """Decide by the curve that needs fewer places; see `_VALIDATION_HANDICAP`."""
        known = [name for name, column in self.values.items() if not math.isnan(column[run])]
        signal = min(
            known,
            key=lambda name: (
                self.places[name] * (_VALIDATION_HANDICAP if name == "validation" else 1.0)
            ),
        )
        values = self.values[signal]
        compared = int(np.count_nonzero(~np.isnan(values)))
        place = compared  # a value that is not finite ranks last
        if math.isfinite(values[run]):
            ahead = values < values[run]
            for other in (self.values[name] for name in known if name != signal):
                ahead |= (values == values[run]) & (other < other[run])
            place = int(ahead.sum()) + 1
        # A rounding error of the power must not change the number of places.
        places = min(self.places[signal] * self.bounds.share, float(values.size))
        least = max(1, min(self.bounds.places, int(np.isfinite(values).sum())))
        places = max(least, math.ceil(places - 1e-9))
        return Decision(place <= places, self.epoch, place, places, compared, signal)


def epochs_of(values: NDArray[np.float64]) -> int:
    """Return how many epochs a run has completed: those up to its last value."""
    reached = np.flatnonzero(~np.isnan(values))
    return int(reached[-1]) + 1 if reached.size else 0


def _count_started(curves: dict[Signal, NDArray[np.float64]]) -> int:
    """Return how many runs have reported at least one value."""
    has_value = [(~np.isnan(curve)).any(axis=1) for curve in curves.values()]
    return int(np.logical_or.reduce(has_value).sum())


def _checked(
    train: ArrayLike | None, validation: ArrayLike | None
) -> dict[Signal, NDArray[np.float64]]:
    """Return the curves that are not None, after a check of their shape `(runs, epochs)`."""
    given: dict[Signal, ArrayLike | None] = {"train": train, "validation": validation}
    curves = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in given.items()
        if values is not None
    }
    if not curves:
        raise ValueError("Expected `train` or `validation` to be curves but got None for both.")
    for name, curve in curves.items():
        if curve.ndim != 2 or not len(curve):
            raise ValueError(
                f"Expected `{name}` to have the shape (runs, epochs) but got {curve.shape}."
            )
    if len({curve.shape for curve in curves.values()}) > 1:
        shapes = " and ".join(str(curve.shape) for curve in curves.values())
        raise ValueError(
            f"Expected `train` and `validation` to have the same shape but got {shapes}."
        )
    return curves


def _first_sample(epoch: int) -> int:
    """Return the first epoch at which the movement is measured."""
    return max(2, epoch // 2 + 1)


def _first_needed(epoch: int) -> int:
    """Return the first epoch with values that the movement depends on."""
    return max(1, _first_sample(epoch) // 2)


def _recent_values(curve: NDArray[np.float64], epoch: int) -> NDArray[np.float64]:
    """Return the values that a decision after `epoch` epochs needs, shape `(epochs, runs)`."""
    values = np.array(curve[:, _first_needed(epoch) - 1 : epoch].T, order="C")
    values[np.isneginf(values)] = math.inf  # every infinite value is the worst
    return values


def _mean_movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float] | None:
    """Return the logarithms of noise and drift per doubling, over the last doubling of training.

    A movement contains the noise once, and the drift in proportion to the doublings in between.

    Args:
        curve: The values of `_recent_values`, shape `(epochs, runs)`.
        target: The values of the curve that determines the leaders, in the same shape.
        epoch: Completed epochs, at least 2.

    Returns:
        Noise and drift. None if no measured epoch has leaders with earlier values.
    """
    samples = np.linspace(_first_sample(epoch), epoch, _SAMPLES)
    measured = np.unique(np.round(samples).astype(int)).tolist()
    movements = [_movement(curve, target, at, _first_needed(epoch)) for at in measured]
    known = [movement for movement in movements if movement is not None]
    if not known:
        return None
    over_half, over_one, half, one = np.mean(known, axis=0).tolist()
    if half - one < 1e-9:  # after 2 epochs both distances are the same
        return 0.0, over_half / half
    drift = max((over_half - over_one) / (half - one), 0.0)
    return max(over_one - drift * one, 0.0), drift


def _movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int, first: int
) -> tuple[float, float, float, float] | None:
    """Return how far behind the leaders at `epoch` were in earlier epochs.

    Args:
        curve: As in `_mean_movement`.
        target: As in `_mean_movement`.
        epoch: The number of completed epochs at which the leaders are determined.
        first: The number of completed epochs in the first row of both curves.

    Returns:
        The logarithm of the leaders' mean place relative to now: at its worst in the last doubling,
        and at the newest epoch before `epoch`. Then the doublings since the earliest and since the
        newest of these epochs. None if there are no leaders or they have no earlier values.
    """
    half = max(1, epoch // 2)
    before, now = curve[half - first : epoch - first], target[epoch - first]
    reached = ~np.isnan(now)
    if np.count_nonzero(reached) < 2:
        return None
    if not reached.all():  # compare only the runs that have reached `epoch`
        before, now = before[:, reached], now[reached]
    leaders = np.argpartition(now, 1)[:_LEADERS]
    # Some runs may be validated only every second epoch.
    rows = np.flatnonzero(~np.isnan(before[:, leaders]).any(axis=1))
    if not (np.isfinite(now[leaders]).all() and len(rows)):
        return None
    before = before[rows] if len(rows) < len(before) else before
    places = np.count_nonzero(before[:, np.newaxis] < before[:, leaders, np.newaxis], axis=2) + 1
    own = (_LEADERS + 1) / 2  # the leaders' mean place now
    return (
        math.log(max(places.max(axis=0).mean() / own, 1.0)),
        math.log(max(places[-1].mean() / own, 1.0)),
        math.log2(epoch / (half + rows[0])),
        math.log2(epoch / (half + rows[-1])),
    )
