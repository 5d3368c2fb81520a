"""From `LearningCurves` to what can be replayed: full curves, all with lower values better."""

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
        validation: Validation values, shape `(runs, epochs)`; None if there are none.
        target: Final metric of each run, finite, shape `(runs,)`.
        left_out: How many runs of the table are left out.
        notes: What a reader should know about that, in sentences.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64] | None
    target: NDArray[np.float64]
    left_out: int
    notes: tuple[str, ...]


def replayable(curves: LearningCurves) -> Recorded:
    """Return the runs whose whole curves are known.

    E is the number of epochs of the table. Left out and counted are runs without a finite target,
    and runs whose record ends before E: a curve that is NaN from some epoch on, after a finite
    value, or everywhere. A diverged run stays, and its values that are not finite become `+inf`,
    the worst: inside its curve, or from a first `+inf` to E if only NaN follows.

    Validation values are `val_metric`, or `val_loss` if there is none. An epoch in which no run
    was validated repeats the values before it; before the first validation they are `+inf`.

    Args:
        curves: Finished runs, with `final_metric`.

    Raises:
        ValueError: If there is no `final_metric`, or if fewer than two runs are left.

    Example:
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
            f"Left out {pluralize(len(short), 'run')} with a target whose curves end before epoch "
            f"{curves.epochs}: {quote_few(short)}."
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
    """Return the validation curve, lower is better, without unvalidated epochs, and notes."""
    for name in ("val_metric", "val_loss"):
        values = getattr(curves, name)
        if values is not None and np.isfinite(values[has_target]).any():
            break
    else:
        return None, [
            "Without validation values the pick is the run with the lowest last training loss."
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
    blind = f", and before epoch {first + 1} nothing is known" if first else ""
    return filled, [
        f"In {pluralize(int(absent.sum()), 'epoch')} of {absent.size} no run has a '{name}': the "
        f"newest values stand there{blind}."
    ]


def _ends_early(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which curves are NaN at the end, and not because the run has diverged before."""
    present = ~np.isnan(values)
    last = values.shape[1] - 1 - np.argmax(present[:, ::-1], axis=1)
    newest = values[np.arange(len(values)), last]
    ends: NDArray[np.bool_] = (last < values.shape[1] - 1) & ~np.isinf(newest)
    return ends | ~present.any(axis=1)
