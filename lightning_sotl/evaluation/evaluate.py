"""How well each estimator ranks finished runs at each T, and which E and T to use."""

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
# The windows of the paper's Fig. 3, and two more for short training runs.
GRID_WINDOWS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70)
_TRAINING = ("sotl", "sotl-e1", "sotl-e10", "sotl-ema")
_VALIDATION = ("sovl", "sovl-e1", "sovl-e10", "sova-e10", "val-metric")
_DEFAULT_NAMES = (*_TRAINING, *_VALIDATION, "epochs-to-loss")
# With fewer runs, percentile intervals are too narrow, and no E and T are recommended.
FEWEST = 20
_MANY = 0.1  # share of the runs
_SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 5, 3 / 10, 1 / 2, 3 / 4, 1)


@dataclass(frozen=True)
class Correlation:
    """An oriented rank correlation and its 95% bootstrap interval; NaN if it is undefined.

    Attributes:
        rho: The correlation in [-1, 1]; +1 is full agreement, higher is better.
        low: The lower bound of the interval.
        high: The upper bound of the interval.
    """

    rho: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return plain numbers, with None instead of NaN, which JSON lacks."""
        values = {"rho": self.rho, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Recommendation:
    """The cheapest SoTL-E that is not significantly worse than the best one.

    Attributes:
        window: The window E, in epochs.
        epoch: T, the number of completed epochs.
    """

    window: int
    epoch: int

    def to_json(self) -> dict[str, Any]:
        """Return the part of the JSON document that describes it."""
        return {"estimator": f"sotl-e{self.window}", "window": self.window, "epoch": self.epoch}


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        runs: The number of runs with a finite target.
        left_out: The number of runs without one.
        epochs: The number of epochs of the longest run.
        target: The name of the target: "final_metric", or a logged key.
        estimators: Name -> T -> correlation. A T before the first value of an estimator is absent.
        recommended: The cheapest window E and T; None if the correlation of SoTL-E is undefined at
            every T. Do not rely on it if `is_advised` is false.
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
        """Whether there is a recommendation that is based on at least 20 runs."""
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
    """Return how well each estimator at each T ranks finished runs, with 95% intervals.

    Each correlation is an oriented rank correlation with `final_metric`: +1 means that the
    estimator ranks the runs exactly as the final metric does, and higher is better. All intervals
    use the same bootstrap resamples of the runs. Runs without a finite target are left out; a run
    without a finite score ranks last.

    Args:
        curves: Finished runs, with `final_metric`.
        at: The numbers of completed epochs T at which to evaluate, each in [1, epochs]; None for
            up to eight, from a fortieth of the epochs to all of them.
        estimators: Names of estimators: a family of `ESTIMATORS` with its parameter, such as
            "sotl-e10"; "final-loss", which is known only after all epochs; or "lcsvr", which is
            evaluated on the runs that it was not trained on. None for those of a standard set
            that `curves` allow. The set does not have "lcsvr", and "epochs-to-loss" only if a run
            reaches its threshold.
        method: "spearman" (the paper's), "kendall" or "weighted-tau"; see `rank_correlation`.
        resamples: The number of bootstrap resamples, at least 1.
        seed: The seed of the resamples and of "lcsvr", at least 0.

    Returns:
        The correlations in `estimators[name][T]`, and in `recommended` the cheapest window E and T
        of SoTL-E that are not significantly worse than the best.

    Raises:
        ModuleNotFoundError: If `estimators` contains "lcsvr" and scikit-learn is not installed.
        TypeError: If a T, `resamples` or `seed` is not an integer.
        ValueError: If there is no `final_metric`, if fewer than two runs have a finite one, if an
            estimator does not exist or needs a curve that is absent, if "lcsvr" has too few runs,
            if no estimator has a value at any T, if `method` is unknown, or if a T, `resamples` or
            `seed` is out of range.

    Examples:
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
        raise ValueError(f"No estimator has a value: {reasons}.")
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

    Examples:
        >>> default_epochs(200)
        (5, 10, 20, 40, 60, 100, 150, 200)
    """
    return tuple(sorted({max(1, math.ceil(share * epochs)) for share in _SHARES}))


def correlation_curves(
    curves: LearningCurves, names: Sequence[str], *, method: Method = "spearman"
) -> dict[str, NDArray[np.float64]]:
    """Return the rank correlation of estimators with `final_metric` after each epoch.

    Args:
        curves: Finished runs, with `final_metric`.
        names: Names of estimators, such as "sotl-e10"; "final-loss" and "lcsvr" are not allowed.
        method: "spearman" (the paper's), "kendall" or "weighted-tau"; see `rank_correlation`.

    Returns:
        Name -> float64 array of shape `(epochs,)`. Entry `k - 1` is the oriented correlation after
        `k` epochs, in [-1, 1]; higher is better. It is NaN before the first value of the estimator
        and where all runs tie.

    Raises:
        ValueError: If there is no `final_metric`, if fewer than two runs have a finite one, if an
            estimator does not exist or needs a curve that is absent, or if `method` is unknown.

    Examples:
        >>> losses = [[3.0, 1.0], [3.5, 2.0], [2.5, 3.0], [4.0, 4.0]]
        >>> curves = LearningCurves(losses, final_metric=[0.9, 0.8, 0.7, 0.6])
        >>> correlation_curves(curves, ["sotl-e1", "sotl-e2"])["sotl-e1"].tolist()
        [0.4, 1.0]
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
    """Return sentences on the limits of the numbers."""
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
            f"The correlation of {', '.join(map(repr, undefined))} is undefined at some T, because "
            "all runs tie there."
        )
    last = max(epoch for values in result.estimators.values() for epoch in values)
    losses = curves.train_loss[np.isfinite(target_of(curves)[0])]
    if missing := int((~np.isfinite(losses[:, last - 1])).sum()):
        found.append(
            f"Ranked last at T = {last}: {pluralize(missing, 'run')} with a target but without a "
            "finite loss there (diverged, or shorter)."
        )
    if LCSVR in result.estimators:
        found.append(f"'{LCSVR}' was trained on finished runs and is evaluated on the others only.")
    if result.runs < FEWEST:
        found.append(
            f"The intervals are too narrow with only {result.runs} runs; it takes at least "
            f"{FEWEST} to recommend E and T."
        )
    return found + near_zero_notes(losses, at=last)


def selection_notes(curves: LearningCurves, stopped: Sequence[bool]) -> list[str]:
    """Return a warning if an estimate may have chosen the runs that have a target.

    Args:
        curves: The runs.
        stopped: Whether a stopper, a policy or a pruner ended each run.
    """
    has_target = np.isfinite(target_of(curves)[0])
    longest = int(curves.epochs_completed[has_target].max(initial=0))
    short = np.asarray(stopped, dtype=bool) | (curves.epochs_completed < longest)
    early = int((short & ~has_target).sum())
    if not has_target.any() or early < _MANY * curves.runs:  # a few aborted runs do not matter
        return []
    return [
        f"{early} of {pluralize(curves.runs, 'run')} ended early and have no target. If an "
        "estimate such as SoTL-E decided which runs were trained to the end, those runs alone "
        "cannot show how good it is. Evaluate it on runs that were all trained to the end."
    ]


def _checked_epochs(at: Sequence[int], epochs: int) -> tuple[int, ...]:
    """Return the T's in ascending order, without repeats."""
    ascending = sorted(validation.windows("at", list(dict.fromkeys(at))))
    if ascending[-1] > epochs:
        raise ValueError(
            f"Expected `at` to be in [1, {epochs}], the epochs of the longest run, but got "
            f"{ascending[-1]}."
        )
    return tuple(ascending)


@dataclass(frozen=True)
class _Scorer:
    """Correlates the estimators of one table with its final metric, on the same resamples.

    Attributes:
        curves: Finished runs.
        target: Their final metric.
        epochs: The T's in ascending order.
        options: `method` and `target_mode` of the rank correlation.
        bootstrap: Number and seed of the resamples; LcSVR uses the same seed.
    """

    curves: LearningCurves
    target: NDArray[np.float64]
    epochs: tuple[int, ...]
    options: dict[str, Any]
    bootstrap: dict[str, Any]

    def default_names(self) -> list[str]:
        """Return the standard estimators that the curves allow."""
        curves = self.curves

        def is_available(name: str) -> bool:
            estimator = named_estimator(name)
            if not estimator.is_in(curves) or estimator.first_epoch > curves.epochs:
                return False
            if estimator.estimator.parameter != "threshold":
                return True
            scores = estimator.scores(curves)[np.isfinite(self.target), self.epochs[-1] - 1]
            return bool(np.isfinite(scores).any())  # whether any run reaches the threshold

        names = list(filter(is_available, _DEFAULT_NAMES))
        return names + [FINAL_LOSS] * (curves.final_loss is not None)

    def correlations(self, name: str) -> dict[int, Correlation]:
        """Return T -> correlation of an estimator, for each T at which it has a value.

        Raises:
            ValueError: If the estimator does not exist or cannot be evaluated on these curves.
        """
        if name == FINAL_LOSS:  # known after all epochs
            final_loss = self.curves.final_loss
            if final_loss is None:
                raise ValueError(f"'{FINAL_LOSS}' requires `final_loss`, but the curves have none.")
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
        """Return the smallest T, and its smallest E, not significantly worse than the best pair.

        A pair is not significantly worse if the 95% bootstrap interval of the difference between
        its correlation and the best one includes 0. The windows are `GRID_WINDOWS` up to the last
        T.
        """
        windows = [window for window in GRID_WINDOWS if window <= self.epochs[-1]]
        estimates = {w: named_estimator(f"sotl-e{w}").scores(self.curves) for w in windows}
        # In order of preference: all windows at the first T, then all at the second, ...
        candidates = [(window, epoch) for epoch in self.epochs for window in windows]
        scores = np.stack([estimates[w][:, epoch - 1] for w, epoch in candidates], axis=1)
        values = rank_correlation_curve(scores, self.target, **self.options)
        if np.isnan(values).all():
            return None
        # Among equal correlations, prefer the smallest window.
        best = min(np.flatnonzero(values == np.nanmax(values)), key=lambda index: candidates[index])
        _, _, high = rank_correlation_difference(
            scores, scores[:, best], self.target, **self.options, **self.bootstrap
        )
        not_worse = ~np.isnan(values) & (high >= 0)
        not_worse[best] = True
        return Recommendation(*candidates[int(np.argmax(not_worse))])

    def _lcsvr(self, epoch: int) -> Correlation:
        """Return the correlation of LcSVR on the runs that it was not trained on."""
        model = LcSVR(seed=self.bootstrap["seed"]).fit(self.curves, at=epoch)
        rest = np.setdiff1d(np.arange(self.curves.runs), model.training_rows_)
        judged = int(np.isfinite(self.target[rest]).sum())
        if judged < 2:
            raise ValueError(
                f"Expected at least 2 runs with a finite target besides the "
                f"{model.training_rows_.size} that '{LCSVR}' was trained on but got {judged}."
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
    """Return the final metric of each run, and its better direction.

    Raises:
        ValueError: If there is no final metric.
    """
    if curves.final_metric is None or curves.final_mode is None:
        raise ValueError(
            "Expected the curves to have `final_metric`, the target, but it is absent."
        )
    return curves.final_metric, curves.final_mode
