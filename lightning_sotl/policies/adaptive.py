"""The adaptive rule: of runs that have reached the same epoch, which go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation

# One leader may be there by luck; the mean of many is not what the winner did.
_LEADERS = 2  # `argpartition` below is written for two


# Epochs of the last doubling at which the movement is measured; more say the same again.
_SAMPLES = 4


def _first_looked_at(epoch: int) -> int:
    """Return the first epoch count whose values the movement at `epoch` rests on."""
    return max(1, _first_sample(epoch) // 2)


def recent_values(curve: NDArray[np.float64], epoch: int) -> NDArray[np.float64]:
    """Return what a decision after `epoch` epochs rests on, shape `(epochs, runs)`."""
    values = np.array(curve[:, _first_looked_at(epoch) - 1 : epoch].T, order="C")
    values[np.isneginf(values)] = math.inf  # not finite is the worst, whatever its sign
    return values


def mean_movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int
) -> tuple[float, float] | None:
    """Return noise and drift a doubling, in logarithms of places, over the last doubling.

    Noise is once in any difference of places, drift in proportion to the doublings between.

    Args:
        curve: Values after the epochs that `recent_values` gives, shape `(epochs, runs)`.
        target: The same of the curve whose leaders are looked at.
        epoch: Completed epochs, at least 2.

    Returns:
        None if leaders can be named and followed at none of the epochs looked at.
    """
    first = _first_looked_at(epoch)
    samples = np.linspace(_first_sample(epoch), epoch, _SAMPLES)
    sampled = np.unique(np.round(samples).astype(int)).tolist()
    movements = [_movement(curve, target, at, first) for at in sampled]
    known = [movement for movement in movements if movement is not None]
    if not known:
        return None
    over_half, over_one, half, one = np.mean(known, axis=0).tolist()
    if half - one < 1e-9:  # after 2 epochs both are the same
        return 0.0, over_half / half
    drift = max((over_half - over_one) / (half - one), 0.0)
    return max(over_one - drift * one, 0.0), drift


def _first_sample(epoch: int) -> int:
    return max(2, epoch // 2 + 1)


def _movement(
    curve: NDArray[np.float64], target: NDArray[np.float64], epoch: int, first: int
) -> tuple[float, float, float, float] | None:
    """Return how far behind the leaders after `epoch` epochs once stood, in logarithms of places.

    Args:
        curve: As in `mean_movement`.
        target: The same.
        epoch: After how many epochs the leaders lead.
        first: After how many epochs the first row of both stands.

    Returns:
        The worst of the last doubling and the newest before `epoch`, and how many doublings lie
        between; None if the leaders cannot be named or followed.
    """
    half = max(1, epoch // 2)
    before, aims = curve[half - first : epoch - first], target[epoch - first]
    reached = ~np.isnan(aims)
    if np.count_nonzero(reached) < 2:
        return None
    if not reached.all():  # only with those that have come so far
        before, aims = before[:, reached], aims[reached]
    leaders = np.argpartition(aims, 1)[:_LEADERS]
    # Some validate each second epoch only.
    rows = np.flatnonzero(~np.isnan(before[:, leaders]).any(axis=1))
    if not (np.isfinite(aims[leaders]).all() and len(rows)):
        return None
    before = before[rows] if len(rows) < len(before) else before
    places = np.count_nonzero(before[:, np.newaxis] < before[:, leaders, np.newaxis], axis=2) + 1
    own = (len(leaders) + 1) / 2  # their mean place now
    return (
        math.log(max(places.max(axis=0).mean() / own, 1.0)),
        math.log(max(places[-1].mean() / own, 1.0)),
        math.log2(epoch / (half + rows[0])),
        math.log2(epoch / (half + rows[-1])),
    )


Signal = Literal["train", "validation"]


_LEAST_DRIFT = 2.0  # places a doubling: of an order that never moves half go on at each doubling


# To change from one curve to the other costs: a run has to stand well in both. So the validation
# takes over only where training losses would need this many times the places.
_RELUCTANCE = 3.0


@dataclass(frozen=True)
class Decision:
    """What the rule says about one run after one epoch, and why.

    Attributes:
        goes_on: Whether the run is trained further.
        epoch: Completed epochs of the run.
        place: Its place among the runs that have completed as many, 1 for the best; runs that tie
            share the best of their places. None if the run has no value to be placed by.
        places: How many places go on.
        compared: The runs that have a value after as many epochs, this one included.
        signal: The curve that the place is by, or None.
    """

    goes_on: bool
    epoch: int
    place: int | None
    places: int
    compared: int
    signal: Signal | None


@dataclass(frozen=True)
class AdaptivePolicy:
    r"""Decides per run, from the runs that have reached the same epoch, whether to go on.

    After k epochs a run goes on if its place among them is at most

    .. math:: \text{keep} \cdot \text{noise} \cdot \text{drift}^{\log_2(\text{max\_epochs} / k)}

    where noise and drift (a doubling, at least 2) are by what factor the places of the two present
    leaders have moved in the last doubling of training. If they once stood far behind, many go
    on; if they have always led, `keep * max_epochs / k` do. Where runs are given with a validation
    curve, its leaders are the ones looked at, also in the training losses, by which the run is
    placed. So a training loss that does not say who generalises is noticed by the validation's
    leaders standing far behind in it: more go on, and where it would be three times as many as by
    the validation itself, that places the run.

    A run can only be compared with what is there. Of a sweep whose runs follow one another, the
    first ones go further than the later ones; with `runs` given, the places are in proportion to
    the share of the sweep that has begun.

    Args:
        max_epochs: The full budget of a run, in epochs (or in blocks, where the curves are).
        keep: Above 0; the factor between cost and the risk to lose the best run. 1 is the cheap
            end, 2 takes a quarter to a half more epochs.
        runs: How many runs the sweep will have, or None if that is not known; it then keeps more.
        first: Epochs before the first decision, at least 2. After 2 any movement may be noise or
            drift, which is a gamble; after 3 the two can be told apart.

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

    def decide(
        self, run: int, train: ArrayLike | None, validation: ArrayLike | None = None
    ) -> Decision:
        """Decide whether a run goes on after the epochs that it has completed.

        It is a pure function of what it is given: asked twice with the same curves it says the same
        twice, and asked again when more runs have come it may say otherwise. A run without any
        value goes on, since nothing is known of it, and so does one at its end, where there is
        nothing to stop. One whose value is not finite stands last, and is stopped unless all
        places go on. Runs that tie in one curve are told apart by the other, and go on together
        if they tie in both.

        Args:
            run: Which row.
            train: L(e) of every run, lower is better, shape `(runs, epochs)`; NaN for what a run
                has not reached or never reported. None if there is only a validation curve.
            validation: The same for a validation metric of which LOWER is better.

        Raises:
            ValueError: If there is no curve, if the shapes do not fit, or if there is no such row.
        """
        return self.decide_all([run], train, validation)[0]

    def decide_all(
        self, runs: Sequence[int], train: ArrayLike | None, validation: ArrayLike | None = None
    ) -> list[Decision]:
        """Decide for several runs by the same curves; as `decide` for each, in less time.

        Args:
            runs: Which rows.
            train: As in `decide`.
            validation: The same.

        Returns:
            A decision for each of `runs`, in their order.

        Raises:
            ValueError: As `decide` does.
        """
        curves = _checked(train, validation)
        number = len(next(iter(curves.values())))
        share = 1.0 if self.runs is None else min(_begun(curves) / self.runs, 1.0)
        recent: dict[int, dict[Signal, NDArray[np.float64]]] = {}
        places: dict[int, dict[Signal, float]] = {}
        decisions = []
        for run in runs:
            if not 0 <= run < number:
                raise ValueError(f"Expected `run` to be in [0, {number - 1}] but got {run}.")
            epoch = max(_epochs_of(curve[run]) for curve in curves.values())
            if epoch < self.first or epoch >= self.max_epochs:
                decisions.append(Decision(True, epoch, None, number, 0, None))
                continue
            if epoch not in places:
                recent[epoch] = {
                    name: recent_values(curve, epoch) for name, curve in curves.items()
                }
                places[epoch] = self._places_by(recent[epoch], epoch)
            values = {name: curve[-1] for name, curve in recent[epoch].items()}
            decisions.append(_decided(run, epoch, values, places[epoch], share))
        return decisions

    def _places_by(
        self, curves: dict[Signal, NDArray[np.float64]], epoch: int
    ) -> dict[Signal, float]:
        """Return how many places go on by each curve, to tell from it which one can be trusted."""
        target = curves.get("validation")
        movements = {
            name: mean_movement(curve, curve if target is None else target, epoch)
            for name, curve in curves.items()
        }
        if not any(movements.values()):  # the validation names no leaders, or there are none yet
            movements = {name: mean_movement(curve, curve, epoch) for name, curve in curves.items()}
        if not any(movements.values()):
            return {name: self._places(epoch, 0.0, 0.0) for name in curves}
        return {
            name: math.inf if movement is None else self._places(epoch, *movement)
            for name, movement in movements.items()
        }

    def _places(self, epoch: int, noise: float, drift: float) -> float:
        """Return how many places go on, of noise and drift in logarithms of places."""
        doublings = math.log2(self.max_epochs / epoch)
        exponent = math.log(self.keep) + noise + doublings * max(drift, math.log(_LEAST_DRIFT))
        return math.exp(min(exponent, 700.0))  # beyond it a float is infinite


def _decided(
    run: int,
    epoch: int,
    values: dict[Signal, NDArray[np.float64]],
    places: dict[Signal, float],
    share: float,
) -> Decision:
    """Return the decision on a run, by the curve that has fewer go on; see `_RELUCTANCE`.

    Args:
        run: Which column.
        epoch: Its completed epochs.
        values: Curve -> value of each run after as many, shape `(runs,)`.
        places: Curve -> how many places go on by it.
        share: The part of the places that there are for the runs that have begun.
    """
    here = [name for name, column in values.items() if not math.isnan(column[run])]
    signal = min(
        here, key=lambda name: places[name] * (_RELUCTANCE if name == "validation" else 1.0)
    )
    other = next((values[name] for name in here if name != signal), None)
    place = _place(run, values[signal], other)
    most = values[signal].size
    # Not to be one place off by the last bit of a power.
    allowed = max(1, math.ceil(min(places[signal] * share, float(most)) - 1e-9))
    return Decision(place <= allowed, epoch, place, allowed, _count(values[signal]), signal)


def _place(run: int, values: NDArray[np.float64], other: NDArray[np.float64] | None) -> int:
    """Return the place of a run by `values`, ties broken by `other`; the last if not finite."""
    own = values[run]
    if not math.isfinite(own):
        return _count(values)
    ahead = values < own
    if other is not None:
        ahead |= (values == own) & (other < other[run])
    return int(ahead.sum()) + 1


def _count(values: NDArray[np.float64]) -> int:
    """Return how many runs have a value."""
    return int(values.size - np.isnan(values).sum())


def _epochs_of(values: NDArray[np.float64]) -> int:
    """Return how many epochs a run has completed: those up to its last value."""
    reached = np.flatnonzero(~np.isnan(values))
    return int(reached[-1]) + 1 if reached.size else 0


def _begun(curves: dict[Signal, NDArray[np.float64]]) -> int:
    """Return how many runs have reported anything."""
    silent = [np.isnan(curve).all(axis=1) for curve in curves.values()]
    return int((~np.logical_and.reduce(silent)).sum())


def _checked(
    train: ArrayLike | None, validation: ArrayLike | None
) -> dict[Signal, NDArray[np.float64]]:
    """Return the curves that are given, of one shape `(runs, epochs)`."""
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
