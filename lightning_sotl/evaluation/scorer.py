"""Correlations of estimators with the final metric of one table, and the (E, T) to recommend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.lcsvr import LcSVR
from lightning_sotl.stats.correlation import Method, rank_correlation_curve
from lightning_sotl.stats.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
)
from lightning_sotl.stats.ranks import Mode

FINAL_LOSS, LCSVR = "final-loss", "lcsvr"
# The windows of the paper's Fig. 3, and two between its first two for short trainings.
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


@dataclass(frozen=True)
class Scorer:
    """Correlates any estimator of one table with its final metric, on the same resamples.

    Attributes:
        curves: Finished runs, with `final_metric`.
        epochs: The T's, ascending.
        method: The rank correlation.
        resamples: How many bootstrap resamples.
        seed: Seed of the resamples, and of LcSVR.
    """

    curves: LearningCurves
    epochs: tuple[int, ...]
    method: Method
    resamples: int
    seed: int

    def correlations(self, name: str) -> dict[int, Correlation]:
        """Return T -> correlation of an estimator, for each T at which it has a value.

        Raises:
            ValueError: If the estimator does not exist or cannot be judged on these curves.
        """
        if name == FINAL_LOSS:
            return self._final_loss()
        if name == LCSVR:
            return {epoch: self._lcsvr(epoch) for epoch in self.epochs}
        estimator = named_estimator(name)
        scores = estimator.scores(self.curves)[:, [epoch - 1 for epoch in self.epochs]]
        found = self._correlate(self.curves, scores, estimator.mode_in(self.curves))
        return {
            epoch: found[column]
            for column, epoch in enumerate(self.epochs)
            if not np.isnan(scores[:, column]).all()
        }

    def recommend(self) -> Recommendation | None:
        """Return the smallest T, and at it the smallest E, not worse than the best (E, T).

        Not worse: in the resamples, the 95 % interval of its correlation less the best one's
        reaches 0. The windows are `GRID_WINDOWS` up to the last T.
        """
        windows = [window for window in GRID_WINDOWS if window <= self.epochs[-1]]
        estimates = {w: named_estimator(f"sotl-e{w}").scores(self.curves) for w in windows}
        # All windows at the first T, then all at the second: the order of preference.
        candidates = [(window, epoch) for epoch in self.epochs for window in windows]
        scores = np.stack([estimates[w][:, epoch - 1] for w, epoch in candidates], axis=1)
        target, options = self._target_and_options(self.curves, "min")
        values = rank_correlation_curve(scores, target, **options)
        if np.isnan(values).all():
            return None
        # Among equal correlations the smallest window.
        best = min(np.flatnonzero(values == np.nanmax(values)), key=lambda index: candidates[index])
        _, _, high = rank_correlation_difference(
            scores, scores[:, best], target, **options, **self._bootstrap
        )
        not_worse = ~np.isnan(values) & (high >= 0)
        not_worse[best] = True
        return Recommendation(*candidates[int(np.argmax(not_worse))])

    def _final_loss(self) -> dict[int, Correlation]:
        """Return the correlation of the final test loss, which is known after all epochs."""
        if self.curves.final_loss is None:
            raise ValueError(f"'{FINAL_LOSS}' needs `final_loss`, which the curves do not have.")
        (found,) = self._correlate(self.curves, self.curves.final_loss[:, np.newaxis], "min")
        return {self.curves.epochs: found}

    def _lcsvr(self, epoch: int) -> Correlation:
        """Return the correlation of LcSVR on the runs that it has not learned from."""
        model = LcSVR(seed=self.seed).fit(self.curves, at=epoch)
        rest = np.setdiff1d(np.arange(self.curves.runs), model.training_rows_)
        target, target_mode = target_of(self.curves)
        judged = int(np.isfinite(target[rest]).sum())
        if judged < 2:
            raise ValueError(
                f"'{LCSVR}' learns from {model.training_rows_.size} runs and can only be "
                f"judged on others with a finite target, but {judged} are left."
            )
        unseen = self.curves.select(rest)
        scores = model.predict(unseen, at=epoch)[:, np.newaxis]
        (found,) = self._correlate(unseen, scores, target_mode)
        return found

    def _correlate(
        self, curves: LearningCurves, scores: NDArray[np.float64], mode: Mode
    ) -> list[Correlation]:
        """Return the correlation of each column of scores with the final metric of `curves`."""
        target, options = self._target_and_options(curves, mode)
        rho = rank_correlation_curve(scores, target, **options)
        samples = bootstrap_correlations(scores, target, **options, **self._bootstrap)
        low, high = percentile_bounds(samples)
        return [Correlation(*map(float, values)) for values in zip(rho, low, high, strict=True)]

    def _target_and_options(
        self, curves: LearningCurves, mode: Mode
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        target, target_mode = target_of(curves)
        return target, {"method": self.method, "mode": mode, "target_mode": target_mode}

    @property
    def _bootstrap(self) -> dict[str, Any]:
        return {"resamples": self.resamples, "seed": self.seed}


def target_of(curves: LearningCurves) -> tuple[NDArray[np.float64], Mode]:
    """Return the final metric of each run, and which end of it is better.

    Raises:
        ValueError: If there is no final metric.
    """
    if curves.final_metric is None or curves.final_mode is None:
        raise ValueError(
            "Expected the curves to have `final_metric`, the target, but it is absent."
        )
    return curves.final_metric, curves.final_mode
