"""Plans which runs train next, if the runs of a sweep take turns, from their progress alone."""

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
        epochs: Completed epochs (or blocks) at its newest pause or end, or 0 before the first.
        ended: Whether the run is complete. It used its full budget, or something else ended it.
        can_resume: Whether the run can continue. It has not started, or a checkpoint exists.
        set_aside: Whether it failed and is not tried again in this start of the sweep.
        losses: L(e) by epoch e.
        validations: The validation metric by epoch. NaN if it was not finite.
    """

    epochs: int = 0
    ended: bool = False
    can_resume: bool = True
    set_aside: bool = False
    losses: Mapping[int, float] = field(default_factory=dict)
    validations: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_out(self) -> bool:
        """Whether the run failed or diverged."""
        return self.set_aside or not math.isfinite(self.losses.get(self.epochs - 1, 0.0))

    @property
    def can_continue(self) -> bool:
        """Whether the run could train further now."""
        return self.can_resume and not self.ended and not self.is_out


@dataclass(frozen=True)
class Step:
    """One rung of the sweep, and the runs that train to it.

    Attributes:
        stop_epoch: The rung, in completed epochs.
        admitted: The rows of the runs that train to the rung or have reached it.
        pending: The admitted rows that still have to train to the rung.
        compared: How many runs were compared at the previous rung, or 0 at the first rung.
        not_affordable: How many more runs would continue with a larger budget. At the first rung,
            how many more would start.
        lost: How many runs would continue within the budget if their checkpoints still existed. An
            earlier start with a smaller budget deleted them.
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
    """Return the rungs up to the first that has pending runs, or all rungs at the end.

    All runs that have reached a rung are compared at that rung, even if some have trained further.
    Therefore all processes admit the same runs, and a run that trained further stays admitted.

    Args:
        runs: The runs in the order of the candidates.
        policy: Decides at each rung except the last.
        rungs: The rungs in completed epochs. The last is the full budget of a run.
        lower_is_better: The direction of the validations. None to decide by training losses only.
        max_total_epochs: The budget of all runs together. Enough is always reserved to train one
            run to the end. If the budget is too small for all runs, the best continue. At the first
            rung, the first runs in the list start.
    """
    found: list[Step] = []
    for number, rung in enumerate(rungs):
        before = rungs[number - 1] if number else 0
        reached = [row for row, run in enumerate(runs) if run.epochs >= before]
        decisions: dict[int, Decision] = {}
        if number:
            decisions = _decide(runs, reached, before, policy, lower_is_better)
            reached.sort(key=lambda row: (decisions[row].place or 0, row))
        # A run that ended early, exactly at the previous rung, is complete and does not continue.
        chosen = [
            row
            for row in reached
            if runs[row].epochs > before
            or (not runs[row].ended and (not number or decisions[row].goes_on))
        ]
        # If runs that continued have failed or diverged since, the next ones take their places.
        missing = (policy.finalists or 1) - sum(not runs[row].is_out for row in chosen)
        if number and missing > 0:
            waiting = [row for row in reached if row not in chosen and runs[row].can_continue]
            chosen += waiting[:missing]
        wanted = [row for row in chosen if runs[row].epochs > before or runs[row].can_resume]
        lost = [row for row in chosen if row not in wanted]
        costs = _Costs(runs, before, rung, rungs[-1], max_total_epochs)
        admitted = costs.affordable(wanted)
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
                len(reached) if number else 0,
                len(wanted) - len(admitted),
                len({*lost} & {*costs.affordable([*wanted, *lost])}),
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
        sign = 1.0 if lower_is_better else -1.0
        scores = [
            {
                epoch: sign * value if math.isfinite(value) else math.inf
                for epoch, value in run.validations.items()
            }
            for run in runs
        ]
        validation = curves(scores, epochs)
    return dict(zip(rows, policy.decide_at_rung(epochs, rows, train, validation), strict=True))


def curves(values: Sequence[Mapping[int, float]], epochs: int) -> NDArray[np.float64]:
    """Return values by epoch as an array of shape `(runs, epochs)`, NaN if missing."""
    table = np.full((len(values), epochs), math.nan)
    for row, by_epoch in zip(table, values, strict=True):
        known = [epoch for epoch in by_epoch if epoch < epochs]
        row[known] = [by_epoch[epoch] for epoch in known]
    return table


@dataclass(frozen=True)
class _Costs:
    """The cost of the next rung, in epochs.

    Attributes:
        runs: All runs.
        before: The previous rung.
        rung: The next rung.
        end: The full budget of a run.
        budget: The budget of all runs together, or None for no limit.
    """

    runs: Sequence[Progress]
    before: int
    rung: int
    end: int
    budget: int | None

    def affordable(self, wanted: list[int]) -> list[int]:
        """Return the rows of `wanted` that fit into the budget, in order.

        A row that costs nothing more always fits.
        """
        if self.budget is None:
            return wanted
        total = sum(map(self._spent, self.runs)) + self._reserve()
        admitted = []
        for row in wanted:
            run = self.runs[row]
            extra = 0 if run.ended else max(self.rung - self._spent(run), 0)
            if extra == 0 or total + extra <= self.budget:
                total += extra
                admitted.append(row)
        return admitted

    def _spent(self, run: Progress) -> int:
        """Return a run's epochs, or the previous rung if the run is on its way to the next.

        The result therefore does not change while runs train to the next rung.
        """
        on_its_way = self.before < run.epochs <= self.rung and not run.ended
        return self.before if on_its_way else run.epochs

    def _reserve(self) -> int:
        """Return how many epochs one run still needs from the rung to the end."""
        if any(run.ended and run.epochs >= self.end for run in self.runs):
            return 0
        resumable = (run.epochs for run in self.runs if run.can_resume and not run.ended)
        return self.end - max(self.rung, *resumable, 0)
