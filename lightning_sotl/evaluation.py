"""How well each estimator would have ranked finished runs at each T, and which E and T to use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl import _validation
from lightning_sotl._correlation import Method, check_method
from lightning_sotl._ranks import Mode
from lightning_sotl._wording import counted
from lightning_sotl.comparability import ties_and_zeros
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.estimator_table import named_estimator
from lightning_sotl.ranking import rank_correlation_curve
from lightning_sotl.scorer import FINAL_LOSS, LCSVR, Correlation, Recommendation, Scorer

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
    wanted = sorted(set(_validation.windows("at", list(dict.fromkeys(at)))))
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
        found.append(f"Left out {counted(result.left_out, 'run')} without a finite target.")
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
            f"{counted(missing, 'run')} with a target but without a finite loss at T = {last} "
            f"(diverged, or shorter) ranked last there."
        )
    if LCSVR in result.estimators:
        found.append(
            f"'{LCSVR}' has learned from runs trained to the end and is judged on the others only."
        )
    if result.runs < FEWEST:
        found.append(f"With {result.runs} runs the intervals are too narrow.")
    return found + ties_and_zeros(losses, np.empty(0), at=last, monitor="sotl_e1")
