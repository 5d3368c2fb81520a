"""The adaptive rule: which of the runs that have reached the same epoch continue."""

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

# A single leader may lead by luck; the mean of many does not follow the winner.
_LEADERS = 2  # `argpartition` below is written for two
# Epochs of the last doubling at which the movement is measured; more add nothing.
_SAMPLES = 4
_LEAST_DRIFT = 2.0  # places a doubling: if the order never moves, half continue at each doubling
# Changing the curve has a price, as a run then has to rank well in both: the validation takes over
# only if training losses would need this many times the places.
_RELUCTANCE = 3.0


@dataclass(frozen=True)
class Decision:
    """The decision about one run after one epoch, and its reasons.

    Attributes:
        goes_on: Whether the run continues.
        epoch: Completed epochs of the run.
        place: Its place among the runs that have completed as many, 1 for the best; runs that tie
            share the best of their places. None if the run has no value to rank.
        places: How many places continue.
        compared: How many runs have a value after as many epochs, this one included.
        signal: The curve that ranks the run, or None.
    """

    goes_on: bool
    epoch: int
    place: int | None
    places: int
    compared: int
    signal: Signal | None


@dataclass(frozen=True)
class AdaptivePolicy:
    r"""Decides whether a run continues, from the runs that have reached the same epoch.

    After k epochs a run continues if its place among them is at most

    .. math:: \text{keep} \cdot \text{noise} \cdot \text{drift}^{\log_2(\text{max\_epochs} / k)}

    where noise and drift (a doubling, at least 2) are the factors by which the places of the two
    present leaders have moved in the last doubling of training. If the leaders were far behind
    then, many runs continue; if they have always led, `keep * max_epochs / k` do. With a validation
    curve the leaders are those of the validation, also in the training losses, which rank the run.
    If the training loss does not tell which network generalises, the validation's leaders are far
    behind in it, and more runs continue; if those would be three times as many as by the validation
    itself, the validation ranks the run.

    A run is compared only with runs that have begun. If the runs of a sweep follow one another, the
    first are trained longer than the later ones; with `runs` given, the places are in proportion
    to the share of the sweep that has begun.

    Args:
        max_epochs: The full budget of a run, in epochs (or in blocks, if the curves are).
        keep: Above 0; the factor between cost and the risk to lose the best run. 1 is cheapest, 2
            takes a quarter to a half more epochs.
        runs: How many runs the sweep will have, or None if unknown; the policy then keeps more.
        first: Epochs before the first decision, at least 2. After 2 epochs any movement may be
            noise or drift; from 3 on the policy can tell them apart.
        finalists: At least this many runs are trained to the end when runs take turns
            (`decide_at_rung`, `Sweep`). A small sweep then also stops its first runs sooner. 3
            suits fewer than 50 runs. None for the rule of `decide_all` alone.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
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

        It is a pure function of its arguments: the same curves give the same decision, and with
        more runs the decision may change. A run without any value continues, since nothing is
        known about it, and so does a run at its end. A run whose value is not finite ranks last,
        and is stopped unless all places continue. The other curve breaks ties; runs that tie in
        both continue together.

        Args:
            run: Row of the run.
            train: L(e) of every run, lower is better, shape `(runs, epochs)`; NaN where a run has
                no value. None if there is only a validation curve.
            validation: The same for a validation metric, LOWER is better.

        Raises:
            ValueError: If there is no curve, if the shapes do not fit, or if there is no such row.
        """
        return self.decide_all([run], train, validation)[0]

    def decide_all(
        self, runs: Sequence[int], train: ArrayLike | None, validation: ArrayLike | None = None
    ) -> list[Decision]:
        """Decide about several runs by the same curves, faster than `decide` for each.

        Args:
            runs: Rows of the runs.
            train: As in `decide`.
            validation: As in `decide`.

        Returns:
            A decision for each of `runs`, in their order.

        Raises:
            ValueError: As in `decide`.
        """
        curves = _checked(train, validation)
        share = 1.0 if self.runs is None else min(_begun(curves) / self.runs, 1.0)
        return self._decide_all(runs, curves, _Bounds(share=share))

    def decide_at_rung(
        self,
        rung: int,
        runs: Sequence[int],
        train: ArrayLike | None,
        validation: ArrayLike | None = None,
    ) -> list[Decision]:
        r"""Decide which runs of a sweep in turns continue, when all have reached a rung.

        The rule of `decide_all` is applied to the curves up to the rung. `finalists` adds two
        bounds for small sweeps: at least that many runs continue, so that several runs trained to
        the end can be compared, and drift is at least

        .. math:: \min(2, \text{runs}^{1 / \log_2(\text{max\_epochs} / \text{first})})

        in place of 2. With 2, a small sweep would stop no run before `max_epochs / runs` epochs.

        Args:
            rung: Completed epochs at the rung; later values are ignored.
            runs: Rows of the runs that have reached the rung.
            train: As in `decide`.
            validation: As in `decide`.

        Returns:
            A decision for each of `runs`, in their order.

        Raises:
            ValueError: As in `decide`.

        Example:
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
        fields: dict[int, _Field] = {}
        decisions = []
        for run in runs:
            if not 0 <= run < number:
                raise ValueError(f"Expected `run` to be in [0, {number - 1}] but got {run}.")
            epoch = max(_epochs_of(curve[run]) for curve in curves.values())
            if epoch < self.first or epoch >= self.max_epochs:
                decisions.append(Decision(True, epoch, None, number, 0, None))
                continue
            if epoch not in fields:
                recent = {name: _recent_values(curve, epoch) for name, curve in curves.items()}
                newest = {name: curve[-1] for name, curve in recent.items()}
                places = self._places_by(recent, epoch, bounds.drift)
                fields[epoch] = _Field(epoch, newest, places, bounds)
            decisions.append(fields[epoch].decide(run))
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
        if not any(movements.values()):  # the validation names no leaders, or there are none yet
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
        """Return how many places continue; noise and drifts are logarithms of places."""
        doublings = math.log2(self.max_epochs / epoch)
        exponent = math.log(self.keep) + noise + doublings * max(drift, least_drift)
        return math.exp(min(exponent, 700.0))  # a float overflows above it


@dataclass(frozen=True)
class _Bounds:
    """Bounds of the places; they depend on whether runs follow one another or take turns.

    Attributes:
        share: The share of the places that the runs that have begun may have.
        drift: The least drift a doubling, in logarithms of places.
        places: The least number of places; it counts only runs whose values are finite.
    """

    share: float = 1.0
    drift: float = math.log(_LEAST_DRIFT)
    places: int = 1


@dataclass(frozen=True)
class _Field:
    """The runs that have reached one epoch.

    Attributes:
        epoch: Their completed epochs.
        values: Curve -> newest value of each run, shape `(runs,)`.
        places: Curve -> how many places continue by it.
        bounds: The bounds of the places.
    """

    epoch: int
    values: dict[Signal, NDArray[np.float64]]
    places: dict[Signal, float]
    bounds: _Bounds

    def decide(self, run: int) -> Decision:
        """Decide by the curve with fewer places; see `_RELUCTANCE`."""
        known = [name for name, column in self.values.items() if not math.isnan(column[run])]
        signal = min(
            known,
            key=lambda name: self.places[name] * (_RELUCTANCE if name == "validation" else 1.0),
        )
        values = self.values[signal]
        compared = int(np.count_nonzero(~np.isnan(values)))
        place = compared  # a value that is not finite ranks last
        if math.isfinite(values[run]):
            ahead = values < values[run]
            for other in (self.values[name] for name in known if name != signal):
                ahead |= (values == values[run]) & (other < other[run])
            place = int(ahead.sum()) + 1
        # The last bit of a power must not cost a place.
        places = min(self.places[signal] * self.bounds.share, float(values.size))
        least = max(1, min(self.bounds.places, int(np.isfinite(values).sum())))
        places = max(least, math.ceil(places - 1e-9))
        return Decision(place <= places, self.epoch, place, places, compared, signal)


def _epochs_of(values: NDArray[np.float64]) -> int:
    """Return how many epochs a run has completed: up to its last value."""
    reached = np.flatnonzero(~np.isnan(values))
    return int(reached[-1]) + 1 if reached.size else 0


def _begun(curves: dict[Signal, NDArray[np.float64]]) -> int:
    """Return how many runs have reported anything."""
    has_value = [(~np.isnan(curve)).any(axis=1) for curve in curves.values()]
    return int(np.logical_or.reduce(has_value).sum())


def _checked(
    train: ArrayLike | None, validation: ArrayLike | None
) -> dict[Signal, NDArray[np.float64]]:
    """Return the curves that are not None, of one shape `(runs, epochs)`."""
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
        raise ValueError(f"Expected `train` and `validation` to have one shape but got {shapes}.")
    return curves


def _first_sample(epoch: int) -> int:
    """Return the first of the epochs at which the movement is measured."""
    return max(2, epoch // 2 + 1)


def _first_needed(epoch: int) -> int:
    """Return the first epoch whose values the movement depends on."""
    return max(1, _first_sample(epoch) // 2)


def _recent_values(curve: NDArray[np.float64], epoch: int) -> NDArray[np.float64]:
    """Return the values that a decision after `epoch` epochs needs, shape `(epochs, runs)`."""
    values = np.array(curve[:, _first_needed(epoch) - 1 : epoch].T, order="C")
    values[np.isneginf(values)] = math.inf  # not finite is the worst, whatever its sign
    return values


def _mean_movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float] | None:
    """Return noise and drift a doubling, in logarithms of places, over the last doubling.

    A difference of places has the noise once, and the drift in proportion to the doublings between.

    Args:
        curve: The values of `_recent_values`, shape `(epochs, runs)`.
        target: The same of the curve that names the leaders.
        epoch: Completed epochs, at least 2.

    Returns:
        None if leaders can be named and followed at none of the measured epochs.
    """
    samples = np.linspace(_first_sample(epoch), epoch, _SAMPLES)
    measured = np.unique(np.round(samples).astype(int)).tolist()
    movements = [_movement(curve, target, at, _first_needed(epoch)) for at in measured]
    known = [movement for movement in movements if movement is not None]
    if not known:
        return None
    over_half, over_one, half, one = np.mean(known, axis=0).tolist()
    if half - one < 1e-9:  # after 2 epochs both are the same
        return 0.0, over_half / half
    drift = max((over_half - over_one) / (half - one), 0.0)
    return max(over_one - drift * one, 0.0), drift


def _movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int, first: int
) -> tuple[float, float, float, float] | None:
    """Return how far behind the leaders after `epoch` epochs once were, in logarithms of places.

    Args:
        curve: As in `_mean_movement`.
        target: As in `_mean_movement`.
        epoch: The epochs after which the leaders lead.
        first: The epochs of the first row of both.

    Returns:
        The worst of the last doubling and the newest before `epoch`, and the doublings since each;
        None if the leaders cannot be named or followed.
    """
    half = max(1, epoch // 2)
    before, now = curve[half - first : epoch - first], target[epoch - first]
    reached = ~np.isnan(now)
    if np.count_nonzero(reached) < 2:
        return None
    if not reached.all():  # compare only the runs that have reached `epoch`
        before, now = before[:, reached], now[reached]
    leaders = np.argpartition(now, 1)[:_LEADERS]
    # Some runs are validated every second epoch only.
    rows = np.flatnonzero(~np.isnan(before[:, leaders]).any(axis=1))
    if not (np.isfinite(now[leaders]).all() and len(rows)):
        return None
    before = before[rows] if len(rows) < len(before) else before
    places = np.count_nonzero(before[:, np.newaxis] < before[:, leaders, np.newaxis], axis=2) + 1
    own = (_LEADERS + 1) / 2  # their mean place now
    return (
        math.log(max(places.max(axis=0).mean() / own, 1.0)),
        math.log(max(places[-1].mean() / own, 1.0)),
        math.log2(epoch / (half + rows[0])),
        math.log2(epoch / (half + rows[-1])),
    )
