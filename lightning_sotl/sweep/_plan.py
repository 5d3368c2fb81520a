"""Which runs of a sweep train next: a pure function of the progress of all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision


@dataclass(frozen=True)
class Progress:
    """How far a run of a sweep has trained.

    Attributes:
        epochs: Completed epochs (or blocks) at its newest pause or end; 0 before the first.
        ended: Whether it is complete: it used its full budget, or something else ended it.
        can_resume: Whether it can train further: it has not begun, or its newest checkpoint exists.
        set_aside: Whether `train` raised for it since the start of the script.
        losses: e -> L(e).
        validations: e -> the validation metric.
    """

    epochs: int = 0
    ended: bool = False
    can_resume: bool = True
    set_aside: bool = False
    losses: Mapping[int, float] = field(default_factory=dict)
    validations: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One rung of the sweep, and the runs that train to it.

    Attributes:
        stop_epoch: The rung, in completed epochs.
        admitted: The rows of the runs that train to the rung, or have done so.
        pending: The admitted rows that have not reached the rung.
        compared: How many runs were compared at the previous rung; 0 at the first rung.
        not_affordable: How many more runs would continue (at the first rung: begin) on a larger
            budget.
        lost: How many runs would continue, within the budget, if their checkpoints were still
            there; a smaller budget deletes those of runs that it cannot pay.
    """

    stop_epoch: int
    admitted: list[int]
    pending: list[int]
    compared: int
    not_affordable: int
    lost: int


def steps(
    runs: Sequence[Progress],
    *,
    policy: AdaptivePolicy,
    rungs: Sequence[int],
    lower_is_better: bool | None = None,
    max_total_epochs: int | None = None,
) -> list[Step]:
    """Return the rungs up to the first that some runs have yet to reach; all rungs at the end.

    All runs that have reached a rung are compared at that rung, even if some have trained further.
    So every process admits the same runs at any time, and runs that trained further stay admitted.

    Args:
        runs: The runs in the order of the candidates.
        policy: Decides at each rung except the last.
        rungs: The rungs in completed epochs; the last is the full budget of a run.
        lower_is_better: The direction of the validations; None to decide by training losses only.
        max_total_epochs: The budget of all runs together. Enough is always reserved to train one
            run to the end. If the budget cannot pay all runs, the best continue; at the first rung,
            the first in the list begin.
    """
    found: list[Step] = []
    for number, rung in enumerate(rungs):
        before = rungs[number - 1] if number else 0
        field_ = [row for row, run in enumerate(runs) if run.epochs >= before]
        decisions: dict[int, Decision] = {}
        if number:
            decisions = _decide(runs, field_, before, policy, lower_is_better)
        wanted = [
            row
            for row in field_
            if runs[row].epochs > before
            or (
                runs[row].can_resume
                and not runs[row].ended
                and (not decisions or decisions[row].goes_on)
            )
        ]
        if decisions:
            wanted.sort(key=lambda row: (decisions[row].place or 0, row))
        admitted = _affordable(runs, wanted, before, rung, rungs[-1], max_total_epochs)
        lost = [
            row
            for row, decision in decisions.items()
            if decision.goes_on
            and runs[row].epochs == before
            and not (runs[row].can_resume or runs[row].ended)
        ]
        payable = _affordable(runs, [*wanted, *lost], before, rung, rungs[-1], max_total_epochs)
        pending = [
            row
            for row in sorted(admitted)
            if runs[row].epochs < rung and not runs[row].ended and not runs[row].set_aside
        ]
        found.append(
            Step(
                rung,
                sorted(admitted),
                pending,
                len(field_) if number else 0,
                len(wanted) - len(admitted),
                len({*lost} & {*payable}),
            )
        )
        if pending or not admitted:
            break
    return found


def _decide(
    runs: Sequence[Progress],
    rows: list[int],
    epochs: int,
    policy: AdaptivePolicy,
    lower_is_better: bool | None,
) -> dict[int, Decision]:
    if not rows:
        return {}
    train = curves([run.losses for run in runs], epochs)
    validation = None
    if lower_is_better is not None:
        validation = curves([run.validations for run in runs], epochs)
        if not lower_is_better:
            validation = -validation
    return dict(zip(rows, policy.decide_at_rung(epochs, rows, train, validation), strict=True))


def curves(values: Sequence[Mapping[int, float]], epochs: int) -> NDArray[np.float64]:
    """Return values by epoch as an array of shape `(runs, epochs)`, NaN for a missing value."""
    table = np.full((len(values), epochs), math.nan)
    for row, by_epoch in zip(table, values, strict=True):
        known = [epoch for epoch in by_epoch if epoch < epochs]
        row[known] = [by_epoch[epoch] for epoch in known]
    return table


def _affordable(
    runs: Sequence[Progress],
    wanted: list[int],
    before: int,
    rung: int,
    end: int,
    budget: int | None,
) -> list[int]:
    """Return the rows of `wanted` that the budget can pay, in order, and those beyond the rung."""
    if budget is None:
        return wanted
    # A run between two rungs counts as if it were still at the earlier one, so that the result
    # does not change while runs are training.
    spent = [before if before < run.epochs <= rung else run.epochs for run in runs]
    spent = [run.epochs if run.ended else epochs for run, epochs in zip(runs, spent, strict=True)]
    total = sum(spent)
    furthest = max((run.epochs for run in runs if run.ended or run.can_resume), default=0)
    reserve = 0 if any(run.ended and run.epochs >= end for run in runs) else end
    admitted = []
    for row in wanted:
        extra = max(rung - spent[row], 0) if not runs[row].ended else 0
        needed = reserve and end - max(rung, furthest)
        if extra == 0 or total + extra + needed <= budget:
            total += extra
            admitted.append(row)
    return admitted
