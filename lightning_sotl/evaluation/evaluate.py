"""How well each estimator would have ranked finished runs at each T, and which E and T to use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.estimators import NamedEstimator, named_estimator
from lightning_sotl.ranking.comparability import ties_and_zeros
from lightning_sotl.stats.correlation import Method, check_method, rank_correlation_curve
from lightning_sotl.stats.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
)
from lightning_sotl.stats.ranks import Mode

FINAL_LOSS = "final-loss"


LCSVR = "lcsvr"


# Those of the paper's Fig. 3, and two between its first two for short trainings.
GRID_WINDOWS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70)


@dataclass(frozen=True)
class Correlation:
    """An oriented rank correlation and its interval; NaN where it is undefined."""

    rho: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return plain numbers, null in place of NaN, which JSON does not have."""
        values = {"rho": self.rho, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Recommendation:
    """The cheapest SoTL-E that is not worse than the best one: window E after epoch T."""

    window: int
    epoch: int

    def to_json(self) -> dict[str, Any]:
        """Return the shape of the command line's JSON."""
        return {"estimator": f"sotl-e{self.window}", "window": self.window, "epoch": self.epoch}


class Scorer:
    """Correlations of any estimators of one table, on the same T's and resamples."""

    def __init__(
        self,
        curves: LearningCurves,
        epochs: tuple[int, ...],
        method: Method,
        resamples: int,
        seed: int,
    ) -> None:
        self._curves = curves
        self._target: Any = curves.final_metric  # `evaluate` has checked that it is there
        self._epochs = epochs
        self._method = method
        self._bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
        self._samples: dict[str, NDArray[np.float64]] = {}
        self._values: dict[str, NDArray[np.float64]] = {}

    def named(self, name: str) -> dict[int, Correlation]:
        """Return T -> correlation of an estimator, of the T's at which it has a value."""
        entry = named_estimator(name)
        values, samples = self._of(entry)
        low, high = percentile_bounds(samples)
        # Of an estimate that has no value yet, no run has one.
        scores = entry.scores(self._curves)
        return {
            epoch: Correlation(*map(float, (values[i], low[i], high[i])))
            for i, epoch in enumerate(self._epochs)
            if not np.isnan(scores[:, epoch - 1]).all()
        }

    def final_loss(self) -> dict[int, Correlation]:
        """Return the correlation of the final test loss, which is known after all epochs."""
        if self._curves.final_loss is None:
            raise ValueError(f"'{FINAL_LOSS}' needs `final_loss`, which the curves do not have.")
        values, samples = self._correlate(self._curves.final_loss[:, np.newaxis], "min")
        low, high = percentile_bounds(samples)
        return {self._curves.epochs: Correlation(*map(float, (values[0], low[0], high[0])))}

    def lcsvr(self) -> dict[int, Correlation]:
        """Return T -> correlation of LcSVR, on the runs that it has not learned from."""
        from lightning_sotl.evaluation.lcsvr import LcSVR

        mode = self._curves.final_mode
        found = {}
        for epoch in self._epochs:
            model = LcSVR(seed=self._bootstrap["seed"]).fit(self._curves, at=epoch)
            rest = np.setdiff1d(np.arange(self._curves.runs), model.training_rows_)
            judged = int(np.isfinite(np.asarray(self._curves.final_metric)[rest]).sum())
            if judged < 2:
                raise ValueError(
                    f"'{LCSVR}' learns from {model.training_rows_.size} runs and can only be "
                    f"judged on others with a finite target, but {judged} are left."
                )
            unseen = self._curves.select(rest)
            scores = model.predict(unseen, at=epoch)[:, np.newaxis]
            values, samples = self._correlate(scores, mode, target=unseen.final_metric)
            low, high = percentile_bounds(samples)
            found[epoch] = Correlation(*map(float, (values[0], low[0], high[0])))
        return found

    def recommend(self) -> Recommendation | None:
        """Return the smallest T, and at it the smallest E, not worse than the best (E, T).

        Not worse: in the resamples, the 95 % interval of its correlation less the best one's
        reaches 0. The windows are `GRID_WINDOWS` up to the last T.
        """
        grid = [window for window in GRID_WINDOWS if window <= self._epochs[-1]]
        # All windows at the first T, then all at the second: the order in which they are taken.
        candidates = [(window, epoch) for epoch in self._epochs for window in grid]
        estimates = {w: named_estimator(f"sotl-e{w}").scores(self._curves) for w in grid}
        scores = np.stack([estimates[w][:, epoch - 1] for w, epoch in candidates], axis=1)
        options = self._options("min")
        values = rank_correlation_curve(scores, self._target, **options)
        if np.isnan(values).all():
            return None
        # Of equal ones the smallest window.
        best = min(np.flatnonzero(values == np.nanmax(values)), key=lambda place: candidates[place])
        _, _, high = rank_correlation_difference(
            scores, scores[:, best], self._target, **options, **self._bootstrap
        )
        not_worse = ~np.isnan(values) & (high >= 0)
        not_worse[best] = True
        return Recommendation(*candidates[int(np.argmax(not_worse))])

    def _of(self, entry: NamedEstimator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if entry.name not in self._values:
            columns = [epoch - 1 for epoch in self._epochs]
            scores = entry.scores(self._curves)[:, columns]
            found = self._correlate(scores, entry.mode_in(self._curves))
            self._values[entry.name], self._samples[entry.name] = found
        return self._values[entry.name], self._samples[entry.name]

    def _correlate(
        self, scores: NDArray[np.float64], mode: Any, target: Any = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        target = self._target if target is None else target
        options = self._options(mode)
        values = rank_correlation_curve(scores, target, **options)
        samples = bootstrap_correlations(scores, target, **options, **self._bootstrap)
        return values, samples

    def _options(self, mode: Any) -> dict[str, Any]:
        return {"method": self._method, "mode": mode, "target_mode": self._curves.final_mode}


DEFAULT_NAMES = (
    "sotl",
    "sotl-e1",
    "sotl-e10",
    "sotl-ema",
    "sovl",
    "sovl-e1",
    "sovl-e10",
    "sova-e10",
    "val-metric",
    "epochs-to-loss",
)


FEWEST = 20  # below it percentile intervals cover less than they say: nothing is advised


_SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 5, 3 / 10, 1 / 2, 3 / 4, 1)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        runs: How many runs it is about, those with a finite target.
        left_out: How many have none.
        epochs: m, the number of epochs of the longest run.
        target: What was ranked for: "final_metric".
        estimators: Name -> T -> correlation. A T before an estimator's first value is absent.
        recommended: The (E, T) that the intervals speak for; None if SoTL-E orders nothing at any
            T. To be used from `FEWEST` runs on: `is_advised`.
        unavailable: Name -> why it has no value, of those that have none.
    """

    runs: int
    left_out: int
    epochs: int
    target: str
    estimators: dict[str, dict[int, Correlation]]
    recommended: Recommendation | None
    unavailable: dict[str, str]

    @property
    def is_advised(self) -> bool:
        """Whether there is a recommendation, and runs enough for it."""
        return self.recommended is not None and self.runs >= FEWEST

    def to_json(self) -> dict[str, Any]:
        """Return the document that `lightning-sotl evaluate --json` prints."""
        return {
            "runs": self.runs,
            "left_out": self.left_out,
            "epochs": self.epochs,
            "target": self.target,
            "estimators": {
                name: {str(epoch): value.to_json() for epoch, value in values.items()}
                for name, values in self.estimators.items()
            },
            "recommended": None if self.recommended is None else self.recommended.to_json(),
        }


def evaluate(
    curves: LearningCurves,
    *,
    at: Sequence[int] | None = None,
    estimators: Sequence[str] | None = None,
    method: Method = "spearman",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Return how well estimators at each T agree with `final_metric`, with 95 % intervals.

    All correlations are oriented and come from the same bootstrap resamples of the runs. Runs
    without a finite target are left out; a run without a finite score ranks last.

    Args:
        curves: Finished runs, with `final_metric`.
        at: The T's, each in [1, epochs]; None for eight from a fortieth of the epochs to all.
        estimators: Names as `named_estimator` takes them, "final-loss" (known at the end only),
            and "lcsvr" (judged on the runs that it has not learned from); None for all that
            `curves` allow but LcSVR.
        method: The rank correlation, "spearman" being the paper's.
        resamples: How many bootstrap resamples.
        seed: Of the resamples.

    Raises:
        ModuleNotFoundError: If "lcsvr" is asked for and scikit-learn is not installed.
        TypeError: If a T is no integer.
        ValueError: If there is no `final_metric`, if fewer than two runs have a finite one, if
            an estimator does not exist or needs a curve that is not there, if none has a value at
            any T, or if a T is out of range.

    Example:
        >>> losses = [[3.0, 1.0], [3.5, 2.0], [2.5, 3.0], [4.0, 4.0]]
        >>> result = evaluate(LearningCurves(losses, final_metric=[0.9, 0.8, 0.7, 0.6]), at=[2])
        >>> result.estimators["sotl-e1"][2].rho
        1.0

    Source:
        Ru et al., arXiv 2006.04492, section 5 and Figs. 2 to 4.
    """
    check_method(method)
    target, _ = _target_of(curves)
    epochs = check_epochs(at, curves.epochs) if at is not None else default_epochs(curves.epochs)
    scorer = Scorer(curves, epochs, method, resamples, seed)
    found: dict[str, dict[int, Correlation]] = {}
    unavailable: dict[str, str] = {}
    for name in _names(curves) if estimators is None else estimators:
        special = {FINAL_LOSS: scorer.final_loss, LCSVR: scorer.lcsvr}.get(name)
        values = scorer.named(name) if special is None else special()
        canonical = named_estimator(name).name if special is None else name
        if values:
            found[canonical] = values
        else:
            unavailable[canonical] = f"it has no value at T = {', '.join(map(str, epochs))}"
    if not found:
        raise ValueError(f"There is nothing to show: {_why_left_out(unavailable)}.")
    has_target = np.isfinite(target)
    return Evaluation(
        runs=int(has_target.sum()),
        left_out=int((~has_target).sum()),
        epochs=curves.epochs,
        target="final_metric",
        estimators=found,
        recommended=scorer.recommend(),
        unavailable=unavailable,
    )


def default_epochs(epochs: int) -> tuple[int, ...]:
    """Return up to eight T's, from a fortieth of the epochs to all of them.

    Example:
        >>> default_epochs(200)
        (5, 10, 20, 40, 60, 100, 150, 200)
    """
    return tuple(sorted({max(1, math.ceil(share * epochs)) for share in _SHARES}))


def check_epochs(at: Sequence[int], epochs: int) -> tuple[int, ...]:
    """Return the T's in ascending order, each once.

    Raises:
        TypeError: If one is no integer.
        ValueError: If one is out of range, or if there is none.
    """
    wanted = sorted(set(validation.windows("at", list(dict.fromkeys(at)))))
    if wanted[-1] > epochs:
        raise ValueError(
            f"Expected `at` to be in [1, {epochs}], the epochs of the longest run, but got "
            f"{wanted[-1]}."
        )
    return tuple(wanted)


def correlation_curves(
    curves: LearningCurves, names: Sequence[str], *, method: Method = "spearman"
) -> dict[str, NDArray[np.float64]]:
    """Return name -> rank correlation with `final_metric` after each epoch, shape `(epochs,)`.

    Raises:
        ValueError: As `evaluate`.
    """
    target, target_mode = _target_of(curves)
    return {
        name: rank_correlation_curve(
            named_estimator(name).scores(curves),
            target,
            method=method,
            mode=named_estimator(name).mode_in(curves),
            target_mode=target_mode,
        )
        for name in names
    }


def _target_of(curves: LearningCurves) -> tuple[NDArray[np.float64], Mode]:
    if curves.final_metric is None or curves.final_mode is None:
        raise ValueError(
            "Expected the curves to have `final_metric`, the target, but it is absent."
        )
    return curves.final_metric, curves.final_mode


def _names(curves: LearningCurves) -> list[str]:
    names = [
        name
        for name in DEFAULT_NAMES
        if named_estimator(name).is_in(curves)
        and named_estimator(name).first_epoch <= curves.epochs
    ]
    return names + [FINAL_LOSS] * (curves.final_loss is not None)


def _why_left_out(unavailable: dict[str, str]) -> str:
    return "; ".join(f"'{name}': {reason}" for name, reason in unavailable.items())


def notes(result: Evaluation, curves: LearningCurves) -> list[str]:
    """Return what a reader should know before trusting the numbers, in sentences."""
    found = []
    if result.left_out:
        found.append(f"Left out {pluralize(result.left_out, 'run')} without a finite target.")
    for name, reason in result.unavailable.items():
        found.append(f"Left out {_why_left_out({name: reason})}.")
    undefined = [
        name
        for name, values in result.estimators.items()
        if any(math.isnan(value.rho) for value in values.values())
    ]
    if undefined:
        found.append(
            f"All runs tie at some T in {', '.join(map(repr, undefined))}, so that the correlation "
            "is undefined there."
        )
    last = max((epoch for values in result.estimators.values() for epoch in values), default=1)
    final = curves.final_metric
    losses = curves.train_loss[np.isfinite(final) if final is not None else slice(None), last - 1]
    missing = int((~np.isfinite(losses)).sum())
    if missing:
        found.append(
            f"{pluralize(missing, 'run')} with a target but without a finite loss at T = {last} "
            f"(diverged, or shorter) ranked last there."
        )
    if LCSVR in result.estimators:
        found.append(
            f"'{LCSVR}' has learned from runs trained to the end and is judged on the others only."
        )
    if result.runs < FEWEST:
        found.append(f"With {result.runs} runs the intervals are too narrow.")
    return found + ties_and_zeros(losses, np.empty(0), at=last, monitor="sotl_e1")
