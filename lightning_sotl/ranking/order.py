"""The runs of a sweep in order of an early estimate: what `lightning-sotl rank` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.losses.names import LoggedEstimate
from lightning_sotl.ranking.comparability import ties_and_zeros
from lightning_sotl.stats.ranks import Mode, best_ranks, oriented

# T by default: at least this share of the runs has completed it.
_REACHED_BY = 0.75


@dataclass(frozen=True)
class RankedRun:
    """One line of the ranking.

    Attributes:
        rank: 1 for the best; runs that tie share the lowest of their ranks.
        run_id: The run's name.
        estimate: Its estimate at T; None if that is not finite or the run has not reached T.
        epochs: How many epochs (or blocks) it has completed.
        checkpoint: The checkpoint to go on from, or None.
    """

    rank: int
    run_id: str
    estimate: float | None
    epochs: int
    checkpoint: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the shape of the command line's JSON."""
        return {
            "rank": self.rank,
            "run_id": self.run_id,
            "estimate": self.estimate,
            "epochs": self.epochs,
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True)
class Ranking:
    """Runs in order at one T.

    Attributes:
        monitor: The name of the estimate.
        at: T, in completed epochs (or blocks).
        runs: The runs, the best first; those without a finite estimate stand last.
        scores: The estimate of each of `runs` after each epoch, shape `(runs, epochs)`.
        notes: What a reader should know before picking, in sentences.
    """

    monitor: str
    at: int
    runs: tuple[RankedRun, ...]
    scores: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `lightning-sotl rank --json` prints."""
        return {
            "monitor": self.monitor,
            "at": self.at,
            "runs": [run.to_json() for run in self.runs],
        }


def rank_runs(
    found: FoundRuns,
    monitor: str,
    *,
    estimate: LoggedEstimate | None,
    at: int | None = None,
    mode: Mode = "min",
    rows: Sequence[int] | None = None,
) -> Ranking:
    """Return the runs in order of an estimate after T epochs.

    The estimate of a run with a record is computed from its L(e). Without one it is the value that
    was logged, and where that was not, it is computed from the logged L(e).

    Args:
        found: The runs.
        monitor: The estimate's name, or any key of `found.others`.
        estimate: What the name stands for; None for a key that is only read.
        at: T; None for where a stopper has ended runs at its limit, or else for the most epochs of
            any run where a policy or a pruner has ended some, otherwise for the most epochs that
            at least three quarters of the runs have completed.
        mode: "min" if lower is better; every estimate from training losses is.
        rows: Which runs; None for all.

    Raises:
        TypeError: If `at` is no integer.
        ValueError: If no run has reached T, if T is below the estimate's window, or if no run has
            a finite estimate.
    """
    chosen = np.arange(found.curves.runs) if rows is None else np.asarray(rows)
    scores, completed = _scores(found, monitor, estimate)
    scores, completed = scores[chosen], completed[chosen]
    notes: list[str] = []
    if at is None:
        # A key that is only read may not be logged in each epoch, as with rarer validations.
        reached = completed if estimate is not None else _newest(scores)
        at = _default_at(found, chosen, reached, notes)
    _check_at(at, completed, monitor, estimate)
    values = scores[:, at - 1]
    bad = oriented(np.where(completed >= at, values, np.inf), mode=mode)
    if np.isinf(bad).all():
        raise ValueError(
            f"None of the {pluralize(len(chosen), 'run')} has a finite '{monitor}' after "
            f"{pluralize(at, 'epoch')}: there is nothing to rank."
        )
    by_policy = any(_ended_by_policy(found, chosen))
    order = _order(scores, completed, bad, at, mode, later_ended_first=by_policy)
    ranks = best_ranks(bad)
    runs = tuple(
        _ranked(found, int(chosen[row]), int(ranks[row]), bad[row], values[row], completed[row])
        for row in order
    )
    notes += _notes_on_last(found, chosen, completed, bad, at)
    losses = found.curves.train_loss[chosen, at - 1] if estimate is not None else None
    notes += ties_and_zeros(losses, bad, at=at, monitor=monitor)
    return Ranking(monitor, at, runs, scores[order], notes)


def _check_at(
    at: int, completed: NDArray[np.int64], monitor: str, estimate: LoggedEstimate | None
) -> None:
    if validation.positive_int("at", at) > completed.max():
        raise ValueError(
            f"No run has completed {pluralize(at, 'epoch')}; the longest has completed "
            f"{completed.max()}."
        )
    if estimate is not None and at < estimate.first_unit:
        raise ValueError(f"'{monitor}' needs {estimate.first_unit} completed epochs but T is {at}.")


def _ranked(
    found: FoundRuns, run: int, rank: int, bad: float, value: float, epochs: int
) -> RankedRun:
    return RankedRun(
        rank,
        found.curves.names[run],
        float(value) if math.isfinite(bad) else None,
        int(epochs),
        (found.curves.checkpoints or ())[run],
    )


def _scores(
    found: FoundRuns, monitor: str, estimate: LoggedEstimate | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the values after each epoch, and how many epochs each run has completed."""
    logged = found.others.get(monitor)
    completed = found.curves.epochs_completed
    if estimate is None:
        if logged is None:
            raise ValueError(f"'{monitor}' is neither an estimate nor a value of the runs.")
        return logged, np.maximum(completed, _newest(logged))
    scores = estimate.scores(found.curves.train_loss)
    if logged is not None:
        use = ~found.has_record & ~np.isnan(logged).all(axis=1)
        # A row that a CSVLogger has deleted can still be computed, if it needs no other.
        scores[use] = np.where(np.isnan(logged[use]), scores[use], logged[use])
        completed = np.where(use, np.maximum(completed, _newest(logged)), completed)
    return scores, completed


def _newest(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return after how many epochs each row has its newest value; 0 if it has none."""
    has_value = ~np.isnan(values)
    newest = values.shape[1] - np.argmax(has_value[:, ::-1], axis=1)
    return np.where(has_value.any(axis=1), newest, 0)


def _default_at(
    found: FoundRuns,
    chosen: NDArray[np.int64],
    completed: NDArray[np.int64],
    notes: list[str],
) -> int:
    stops = sorted({stop for run in chosen if (stop := found.stopped_at[run])})
    if stops:
        if len(stops) > 1:
            notes.append(
                f"Runs were stopped at different T ({', '.join(map(str, stops))}); they are "
                f"compared at the smallest."
            )
        return int(stops[0])
    by_policy = _ended_by_policy(found, chosen)
    if any(by_policy):
        notes.append(
            f"{pluralize(sum(by_policy), 'run')} of {len(chosen)} were ended by a policy and none "
            f"at a limit, so T is {completed.max()}, the most epochs of any run: those that it let "
            "go on furthest stand first."
        )
        return int(completed.max())
    longest_first = np.sort(completed)[::-1]
    return max(1, int(longest_first[math.ceil(_REACHED_BY * len(completed)) - 1]))


def _ended_by_policy(found: FoundRuns, chosen: NDArray[np.int64]) -> list[bool]:
    return [found.facts[run].get("stopping_reason") == "policy" for run in chosen]


def _order(
    scores: NDArray[np.float64],
    completed: NDArray[np.int64],
    bad: NDArray[np.float64],
    at: int,
    mode: Mode,
    *,
    later_ended_first: bool,
) -> NDArray[np.int64]:
    """Return the rows, the best first.

    With `later_ended_first` of runs that have not come to T those that came further lead, which is
    how a policy has judged them. Of equally long ones the better at their end does.
    Those that have diverged stand last.
    """
    order: NDArray[np.int64] = np.argsort(bad, kind="stable")
    if not later_ended_first:
        return order
    diverged = np.isinf(bad) & (completed >= at)
    last = scores[np.arange(len(scores)), np.minimum(completed, at) - 1]
    order = np.lexsort((oriented(last, mode=mode), -completed, diverged, bad))
    return order  # noqa: RET504  # typed above


def _notes_on_last(
    found: FoundRuns,
    chosen: NDArray[np.int64],
    completed: NDArray[np.int64],
    bad: NDArray[np.float64],
    at: int,
) -> list[str]:
    names = [found.curves.names[run] for run in chosen]
    short = [name for name, epochs in zip(names, completed, strict=True) if epochs < at]
    diverged = [
        name
        for name, epochs, worst in zip(names, completed, np.isinf(bad), strict=True)
        if worst and epochs >= at
    ]
    notes = []
    if short:
        notes.append(
            f"{pluralize(len(short), 'run')} of {len(names)} completed fewer than "
            f"{pluralize(at, 'epoch')} and cannot be compared at T = {at}; they stand last: "
            f"{quote_few(short)}."
        )
    if diverged:
        notes.append(
            f"{pluralize(len(diverged), 'run')} of {len(names)} without a finite value at T = {at} "
            f"(diverged, or without a loss) stand last: {quote_few(diverged)}."
        )
    if len(names) == 1:
        notes.append("There is only one run, so there is nothing to compare it with.")
    return notes
