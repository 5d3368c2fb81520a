"""Correlations of many estimators of one table on the same resamples, and the (E, T) to use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._correlation import Method
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.estimator_table import NamedEstimator, named_estimator
from lightning_sotl.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
)
from lightning_sotl.ranking import rank_correlation_curve

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
        from lightning_sotl.extrapolation import LcSVR

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
