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
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.lcsvr import LcSVR
from lightning_sotl.ranking.comparability import near_zero_notes
from lightning_sotl.stats.correlation import Method, check_method, rank_correlation_curve
from lightning_sotl.stats.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
)
from lightning_sotl.stats.ranks import Mode

FINAL_LOSS, LCSVR = "final-loss", "lcsvr"
# The windows of the paper's Fig. 3, and two between its first two for short trainings.
GRID_WINDOWS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70)
_TRAINING = ("sotl", "sotl-e1", "sotl-e10", "sotl-ema")
_VALIDATION = ("sovl", "sovl-e1", "sovl-e10", "sova-e10", "val-metric")
_DEFAULT_NAMES = (*_TRAINING, *_VALIDATION, "epochs-to-loss")
# With fewer runs percentile intervals are too narrow, and no E and T are advised.
FEWEST = 20
_MANY = 0.1  # share of the runs
_SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 5, 3 / 10, 1 / 2, 3 / 4, 1)


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
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        runs: How many runs have a finite target.
        left_out: How many runs have none.
        epochs: m, the number of epochs of the longest run.
        target: What runs were ranked for: the field "final_metric", or the name of a logged key.
        estimators: Name -> T -> correlation. A T before an estimator's first value is absent.
        recommended: The (E, T) to use by the intervals; None if SoTL-E orders nothing at any T. It
            takes `FEWEST` runs to rely on it: see `is_advised`.
        unavailable: Name of an estimator without a value -> the reason.
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
        """Whether there is a recommendation, and enough runs for it."""
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
            `curves` allow, without LcSVR, and without "epochs-to-loss" if no run reaches the loss.
        method: The rank correlation; the paper uses "spearman".
        resamples: How many bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        ModuleNotFoundError: If "lcsvr" is named and scikit-learn is not installed.
        TypeError: If a T is no integer.
        ValueError: If there is no `final_metric`, if fewer than two runs have a finite one, if
            an estimator does not exist or needs a curve that is absent, if no estimator has a
            value at any T, or if a T is out of range.

    Example:
        >>> losses = [[3.0, 1.0], [3.5, 2.0], [2.5, 3.0], [4.0, 4.0]]
        >>> result = evaluate(LearningCurves(losses, final_metric=[0.9, 0.8, 0.7, 0.6]), at=[2])
        >>> result.estimators["sotl-e1"][2].rho
        1.0

    Source:
        Ru et al., arXiv 2006.04492, section 5 and Figs. 2 to 4.
    """
    check_method(method)
    target, target_mode = target_of(curves)
    epochs = default_epochs(curves.epochs) if at is None else _checked_epochs(at, curves.epochs)
    options = {"method": method, "target_mode": target_mode}
    bootstrap = {"resamples": resamples, "seed": seed}
    scorer = _Scorer(curves, target, epochs, options, bootstrap)
    found: dict[str, dict[int, Correlation]] = {}
    unavailable: dict[str, str] = {}
    for name in scorer.default_names() if estimators is None else estimators:
        values = scorer.correlations(name)
        full_name = name if name in (FINAL_LOSS, LCSVR) else named_estimator(name).name
        if values:
            found[full_name] = values
        else:
            unavailable[full_name] = f"it has no value at T = {', '.join(map(str, epochs))}"
    if not found:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in unavailable.items())
        raise ValueError(f"There is nothing to show: {reasons}.")
    runs = int(np.isfinite(target).sum())
    return Evaluation(
        runs=runs,
        left_out=curves.runs - runs,
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


def correlation_curves(
    curves: LearningCurves, names: Sequence[str], *, method: Method = "spearman"
) -> dict[str, NDArray[np.float64]]:
    """Return name -> rank correlation with `final_metric` after each epoch, shape `(epochs,)`.

    Raises:
        ValueError: As `evaluate`.
    """
    target, target_mode = target_of(curves)
    options: dict[str, Any] = {"method": method, "target_mode": target_mode}
    found = {}
    for name in names:
        estimator = named_estimator(name)
        scores, mode = estimator.scores(curves), estimator.mode_in(curves)
        found[name] = rank_correlation_curve(scores, target, mode=mode, **options)
    return found


def notes(result: Evaluation, curves: LearningCurves) -> list[str]:
    """Return what a reader should know before trusting the numbers, in sentences."""
    found = []
    if result.left_out:
        found.append(f"Left out {pluralize(result.left_out, 'run')} without a finite target.")
    for name, reason in result.unavailable.items():
        found.append(f"Left out '{name}': {reason}.")
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
    last = max(epoch for values in result.estimators.values() for epoch in values)
    losses = curves.train_loss[np.isfinite(target_of(curves)[0])]
    if missing := int((~np.isfinite(losses[:, last - 1])).sum()):
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
    return found + near_zero_notes(losses, at=last)


def selection_notes(curves: LearningCurves, stopped: Sequence[bool]) -> list[str]:
    """Return a warning if the runs with a target may be those that a score has chosen.

    Args:
        curves: The runs.
        stopped: Whether a stopper, a policy or a pruner ended each run.
    """
    has_target = np.isfinite(target_of(curves)[0])
    longest = int(curves.epochs_completed[has_target].max(initial=0))
    short = np.asarray(stopped, dtype=bool) | (curves.epochs_completed < longest)
    early = int((short & ~has_target).sum())
    if not has_target.any() or early < _MANY * curves.runs:  # a few that broke off choose nothing
        return []
    return [
        f"{early} of {pluralize(curves.runs, 'run')} ended early and have no target. If a score "
        "such as SoTL-E chose the runs that were trained to the end, it cannot be judged by those "
        "alone: evaluate it on runs that were all trained to the end."
    ]


def _checked_epochs(at: Sequence[int], epochs: int) -> tuple[int, ...]:
    """Return the T's in ascending order, each once."""
    ascending = sorted(validation.windows("at", list(dict.fromkeys(at))))
    if ascending[-1] > epochs:
        raise ValueError(
            f"Expected `at` to be in [1, {epochs}], the epochs of the longest run, but got "
            f"{ascending[-1]}."
        )
    return tuple(ascending)


@dataclass(frozen=True)
class _Scorer:
    """Correlates any estimator of one table with its final metric, on the same resamples.

    Attributes:
        curves: Finished runs.
        target: Their final metric.
        epochs: The T's, ascending.
        options: Method and `target_mode` of the rank correlation.
        bootstrap: Number and seed of the resamples; LcSVR has the same seed.
    """

    curves: LearningCurves
    target: NDArray[np.float64]
    epochs: tuple[int, ...]
    options: dict[str, Any]
    bootstrap: dict[str, Any]

    def default_names(self) -> list[str]:
        """Return the estimators that the curves allow and that tell any two runs apart."""
        curves = self.curves

        def is_available(name: str) -> bool:
            estimator = named_estimator(name)
            if not estimator.is_in(curves) or estimator.first_epoch > curves.epochs:
                return False
            if estimator.estimator.parameter != "threshold":
                return True
            scores = estimator.scores(curves)[np.isfinite(self.target), self.epochs[-1] - 1]
            return bool(np.isfinite(scores).any())  # otherwise no run reaches the threshold

        names = list(filter(is_available, _DEFAULT_NAMES))
        return names + [FINAL_LOSS] * (curves.final_loss is not None)

    def correlations(self, name: str) -> dict[int, Correlation]:
        """Return T -> correlation of an estimator, for each T at which it has a value.

        Raises:
            ValueError: If the estimator does not exist or cannot be judged on these curves.
        """
        if name == FINAL_LOSS:  # known after all epochs
            final_loss = self.curves.final_loss
            if final_loss is None:
                raise ValueError(
                    f"'{FINAL_LOSS}' needs `final_loss`, which the curves do not have."
                )
            (found,) = self._correlate(final_loss[:, np.newaxis], self.target, "min")
            return {self.curves.epochs: found}
        if name == LCSVR:
            return {epoch: self._lcsvr(epoch) for epoch in self.epochs}
        estimator = named_estimator(name)
        scores = estimator.scores(self.curves)[:, [epoch - 1 for epoch in self.epochs]]
        rhos = self._correlate(scores, self.target, estimator.mode_in(self.curves))
        exist = np.flatnonzero(~np.isnan(scores).all(axis=0))
        return {self.epochs[column]: rhos[column] for column in exist}

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
        values = rank_correlation_curve(scores, self.target, **self.options)
        if np.isnan(values).all():
            return None
        # Among equal correlations the smallest window.
        best = min(np.flatnonzero(values == np.nanmax(values)), key=lambda index: candidates[index])
        _, _, high = rank_correlation_difference(
            scores, scores[:, best], self.target, **self.options, **self.bootstrap
        )
        not_worse = ~np.isnan(values) & (high >= 0)
        not_worse[best] = True
        return Recommendation(*candidates[int(np.argmax(not_worse))])

    def _lcsvr(self, epoch: int) -> Correlation:
        """Return the correlation of LcSVR on the runs that it has not learned from."""
        model = LcSVR(seed=self.bootstrap["seed"]).fit(self.curves, at=epoch)
        rest = np.setdiff1d(np.arange(self.curves.runs), model.training_rows_)
        judged = int(np.isfinite(self.target[rest]).sum())
        if judged < 2:
            raise ValueError(
                f"'{LCSVR}' learns from {model.training_rows_.size} runs and can only be "
                f"judged on others with a finite target, but {judged} are left."
            )
        scores = model.predict(self.curves.select(rest), at=epoch)[:, np.newaxis]
        (found,) = self._correlate(scores, self.target[rest], self.options["target_mode"])
        return found

    def _correlate(
        self, scores: NDArray[np.float64], target: NDArray[np.float64], mode: Mode
    ) -> list[Correlation]:
        """Return the correlation of each column of scores with the target."""
        rho = rank_correlation_curve(scores, target, mode=mode, **self.options)
        samples = bootstrap_correlations(
            scores, target, mode=mode, **self.options, **self.bootstrap
        )
        low, high = percentile_bounds(samples)
        return [Correlation(*map(float, values)) for values in zip(rho, low, high, strict=True)]


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
