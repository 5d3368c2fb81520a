"""Selects the runs of `LearningCurves` that can be replayed, with lower values better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.ranks import oriented


@dataclass(frozen=True)
class Recorded:
    """Runs that can be replayed. Lower is better everywhere, `+inf` is worst, and nothing is NaN.

    Attributes:
        train: Training losses, shape `(runs, epochs)`.
        validation: Validation values, shape `(runs, epochs)`, or None if there are none.
        target: The final metric of each run, finite, shape `(runs,)`.
        left_out: How many runs of the table are left out.
        notes: Sentences for the reader about the runs and values that were left out or filled in.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64] | None
    target: NDArray[np.float64]
    left_out: int
    notes: tuple[str, ...]


def replayable(curves: LearningCurves) -> Recorded:
    """Return the runs whose complete curves are known.

    Runs without a finite target are left out, and so are runs whose curves end early. A curve ends
    early if it is NaN everywhere, or NaN from some epoch on after a finite value. Diverged runs are
    kept. Their non-finite values become `+inf`, the worst, also where NaN follows a first `+inf`.

    Validation values are `val_metric`, or `val_loss` if there is no `val_metric`. An epoch in which
    no run was validated repeats the values of the epoch before. Before the first validation, the
    values are `+inf`.

    Args:
        curves: Finished runs, with `final_metric`.

    Raises:
        ValueError: If there is no `final_metric`, or if fewer than two runs are left.

    Examples:
        >>> nan = float("nan")
        >>> losses = [[3.0, 2.0], [4.0, nan], [5.0, float("inf")], [2.0, 1.0]]
        >>> recorded = replayable(LearningCurves(losses, final_metric=[0.7, 0.6, 0.1, nan]))
        >>> recorded.train.tolist(), recorded.target.tolist(), recorded.left_out
        ([[3.0, 2.0], [5.0, inf]], [-0.7, -0.1], 2)
    """
    if curves.final_metric is None or curves.final_mode is None:
        raise ValueError(
            "Expected the curves to have `final_metric`, the target, but it is absent."
        )
    has_target = np.isfinite(curves.final_metric)
    validation, notes = _validation(curves, has_target)
    is_whole = has_target & ~_ends_early(curves.train_loss)
    if validation is not None:
        is_whole &= ~_ends_early(validation)
    kept = np.flatnonzero(is_whole)
    short = [curves.names[row] for row in np.flatnonzero(has_target & ~is_whole)]
    if missing := int((~has_target).sum()):
        notes.append(f"Left out {pluralize(missing, 'run')} without a finite target.")
    if short:
        notes.append(
            f"Left out {pluralize(len(short), 'run')} with a target but with curves that end "
            f"before epoch {curves.epochs}: {quote_few(short)}."
        )
    if kept.size < 2:
        raise ValueError(
            f"Expected at least 2 runs with a finite target and curves of all {curves.epochs} "
            f"epochs but got {kept.size} of {curves.runs}."
        )
    return Recorded(
        train=oriented(curves.train_loss[kept], mode="min"),
        validation=None if validation is None else oriented(validation[kept], mode="min"),
        target=oriented(curves.final_metric[kept], mode=curves.final_mode),
        left_out=curves.runs - kept.size,
        notes=tuple(notes),
    )


def _validation(
    curves: LearningCurves, has_target: NDArray[np.bool_]
) -> tuple[NDArray[np.float64] | None, list[str]]:
    """Return the validation curve, lower is better, with its gaps filled, and notes."""
    for name in ("val_metric", "val_loss"):
        values = getattr(curves, name)
        if values is not None and np.isfinite(values[has_target]).any():
            break
    else:
        return None, [
            "There are no validation values, so the pick is the run with the lowest last training "
            "loss."
        ]
    if name == "val_metric" and curves.metric_mode == "max":
        values = -values
    absent: NDArray[np.bool_] = np.all(np.isnan(values[has_target]), axis=0)
    if not absent.any():
        return values, []
    first = int(np.argmin(absent))
    filled = values.copy()
    for epoch in np.flatnonzero(absent[first:]) + first:
        filled[:, epoch] = filled[:, epoch - 1]
    blind = f", and before epoch {first + 1} there are no values" if first else ""
    return filled, [
        f"In {pluralize(int(absent.sum()), 'epoch')} of {absent.size} no run has a '{name}'. These "
        f"epochs repeat the newest values{blind}."
    ]


def _ends_early(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which curves are NaN at the end, except those of runs that diverged before."""
    present = ~np.isnan(values)
    last = values.shape[1] - 1 - np.argmax(present[:, ::-1], axis=1)
    newest = values[np.arange(len(values)), last]
    ends: NDArray[np.bool_] = (last < values.shape[1] - 1) & ~np.isinf(newest)
    return ends | ~present.any(axis=1)
