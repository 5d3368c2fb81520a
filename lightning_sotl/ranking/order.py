"""Ranks runs by an early estimate, as `lightning-sotl rank` prints them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize, quote_few, shortened
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.curves.table import count_epochs
from lightning_sotl.losses.names import LoggedEstimate, unit_of
from lightning_sotl.ranking.comparability import near_zero_notes, tie_notes
from lightning_sotl.ranking.configurations import repeats_notes
from lightning_sotl.record.format import plain, run_params
from lightning_sotl.stats.ranks import Mode, best_ranks, oriented

# At least this share of the runs has reached the default T.
_REACHED_BY = 0.75


@dataclass(frozen=True)
class RankedRun:
    """One line of the ranking.

    Attributes:
        rank: 1 for the best; runs that tie share the lowest of their ranks.
        run_id: The run's name.
        estimate: Its estimate at T; None if that is not finite or the run has not reached T.
        epochs: How many epochs (or blocks) it has completed.
        checkpoint: The checkpoint to resume from, or None.
        name: The name that the user gave it, or None.
        params: The parameters that the user gave it, or else its hyper-parameters, as JSON.
    """

    rank: int
    run_id: str
    estimate: float | None
    epochs: int
    checkpoint: str | None
    name: str | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the run's entry in the JSON document."""
        # A record from another writer may hold NaN, which JSON cannot represent.
        return {**vars(self), "params": plain(self.params)}


@dataclass(frozen=True)
class Ranking:
    """Runs in the order of an estimate at T.

    Attributes:
        monitor: The name of the estimate.
        at: T, in completed epochs (or blocks).
        runs: The runs, the best first; those without a finite estimate are last.
        scores: The estimate of each of `runs` after each epoch, shape `(runs, epochs)`.
        notes: Sentences on what makes the order less certain.
        notes_on_at: Those of `notes` that are about the default T.
    """

    monitor: str
    at: int
    runs: tuple[RankedRun, ...]
    scores: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)
    notes_on_at: list[str] = field(default_factory=list)

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

    The estimate of a run with a record is computed from its L(e). Without a record it is the
    logged value, or else computed from the logged L(e).

    Args:
        found: The runs.
        monitor: The estimate's name, or a logged key in `found.others`.
        estimate: The parsed `monitor`, or None for a logged key.
        at: T, or None for the default. The default is the smallest limit at which a stopper ended
            runs. Without such a limit, if a policy or a pruner ended runs or a sweep paused some,
            it is the length of the longest run. Otherwise it is the largest T that three quarters
            of the runs have reached.
        mode: "min" if lower is better, as for every estimate from training losses.
        rows: The row numbers of the runs to rank, or None for all.

    Raises:
        TypeError: If `at` is not an integer.
        ValueError: If no run has reached T, if T is below the estimate's window, if no run has a
            finite estimate, or if `monitor` is neither an estimate nor a logged key.
    """
    chosen = np.arange(found.curves.runs) if rows is None else np.asarray(rows)
    facts = [found.facts[run] for run in chosen]
    scores, completed = _scores(found, monitor, estimate)
    scores, completed = scores[chosen], completed[chosen]
    reasons = [header.get("stopping_reason") for header in facts]
    by_policy, paused = reasons.count("policy"), reasons.count("paused")
    notes_on_at: list[str] = []
    if at is None:
        # A logged key may be missing in some epochs, for example that of a rare validation.
        reached = completed if estimate is not None else count_epochs(scores)
        stops = {stop for run in chosen if (stop := found.stopped_at[run])}
        at, notes_on_at = _default_at(reached, sorted(stops), by_policy, paused)
    _check_at(at, int(completed.max()), monitor, estimate)
    unit = unit_of(monitor)
    values = scores[:, at - 1]
    costs = oriented(np.where(completed >= at, values, np.inf), mode=mode)
    if np.isinf(costs).all():
        raise ValueError(
            f"No run has a finite '{monitor}' after {pluralize(at, unit)}, so there is nothing to "
            "rank."
        )
    order = np.argsort(costs, kind="stable")
    if by_policy or paused:
        order = _longest_first(scores, np.minimum(completed, at), mode)
    ranks = best_ranks(costs)
    ids = [found.curves.names[run] for run in chosen]
    given = [_given_name(header) for header in facts]
    checkpoints = found.curves.checkpoints or ()
    runs = tuple(
        RankedRun(
            rank=int(ranks[row]),
            run_id=ids[row],
            estimate=float(values[row]) if math.isfinite(costs[row]) else None,
            epochs=int(completed[row]),
            checkpoint=checkpoints[chosen[row]],
            name=given[row],
            params=run_params(facts[row]),
        )
        for row in order
    )
    shown = shown_names(zip(given, ids, strict=True))
    is_paused = np.array([reason == "paused" for reason in reasons])
    short = (completed < at) & ~is_paused  # a sweep pauses runs before T on purpose
    diverged = (completed >= at) & np.isinf(costs)
    notes = notes_on_at + _notes_on_last(shown, short, diverged, at, unit)
    notes += repeats_notes(shown, facts)
    if estimate is not None:
        notes += near_zero_notes(found.curves.train_loss[chosen], at=at, unit=unit)
    notes += tie_notes(costs, monitor=monitor)
    return Ranking(monitor, at, runs, scores[order], notes, notes_on_at)


def _longest_first(
    scores: NDArray[np.float64], epochs: NDArray[np.int64], mode: Mode
) -> NDArray[np.int64]:
    """Return the order of runs if a policy ended or a sweep paused some of them.

    A policy ends runs that it ranks low, so the runs that trained longest come first. Runs of the
    same length are in the order of their last value. Diverged runs are last.

    Args:
        scores: The values after each epoch, shape `(runs, epochs)`.
        epochs: The number of epochs of each run, at most T.
        mode: "min" if lower values are better.
    """
    last = oriented(scores[np.arange(len(scores)), epochs - 1], mode=mode)
    return np.lexsort((last, -epochs, ~np.isfinite(last)))


def shown_names(runs: Iterable[tuple[str | None, str]]) -> list[str]:
    """Return the name to print for each run.

    It is the user's name for the run, followed by the run's id if several runs share that name. A
    run without such a name is printed by its id.

    Args:
        runs: For each run, the user's name or None, and the run's id.

    Examples:
        >>> shown_names([("wide", "version_0"), ("deep", "version_1"), ("deep", "version_2")])
        ['wide', 'deep (version_1)', 'deep (version_2)']
    """
    pairs = [(name and shortened(name), run_id) for name, run_id in runs]
    counts = Counter(name for name, _ in pairs)
    return [
        run_id if name is None else name if counts[name] == 1 else f"{name} ({run_id})"
        for name, run_id in pairs
    ]


def _given_name(facts: dict[str, Any]) -> str | None:
    name = facts.get("name")
    return name if isinstance(name, str) and name else None


def _scores(
    found: FoundRuns, monitor: str, estimate: LoggedEstimate | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the values after each epoch, and the number of epochs that each run completed."""
    logged = found.others.get(monitor)
    completed = found.curves.epochs_completed
    if estimate is None:
        if logged is None:
            raise ValueError(f"'{monitor}' is neither an estimate nor a logged key of the runs.")
        return logged, np.maximum(completed, count_epochs(logged))
    scores = estimate.scores(found.curves.train_loss)
    if logged is not None:
        use = ~found.has_record & ~np.isnan(logged).all(axis=1)
        # A CSVLogger may have deleted a row whose estimate can still be computed.
        scores[use] = np.where(np.isnan(logged[use]), scores[use], logged[use])
        completed = np.where(use, np.maximum(completed, count_epochs(logged)), completed)
    return scores, completed


def _default_at(
    completed: NDArray[np.int64], stops: list[int], by_policy: int, paused: int
) -> tuple[int, list[str]]:
    """Return the default T, and notes on it.

    Args:
        completed: The number of epochs that each run completed.
        stops: Each T at which a stopper ended runs, in ascending order.
        by_policy: How many runs a policy ended.
        paused: How many runs of a sweep wait for their next turn.
    """
    if len(stops) > 1:
        return stops[0], [
            f"The runs were stopped at different T ({', '.join(map(str, stops))}), so they are "
            "compared at the smallest."
        ]
    if stops:
        return stops[0], []
    longest = int(completed.max())
    if by_policy:
        return longest, [
            f"A policy ended {by_policy} of {pluralize(len(completed), 'run')}, and no stopper "
            f"ended a run at a limit, so T is {longest}, the length of the longest run. The runs "
            "that trained longest rank first."
        ]
    if paused:
        return longest, []
    longest_first = np.sort(completed)[::-1]
    return max(1, int(longest_first[math.ceil(_REACHED_BY * len(completed)) - 1])), []


def _check_at(at: int, longest: int, monitor: str, estimate: LoggedEstimate | None) -> None:
    unit = unit_of(monitor)
    if validation.positive_int("at", at) > longest:
        raise ValueError(
            f"No run has completed {pluralize(at, unit)}; the longest has completed {longest}."
        )
    if estimate is not None and at < estimate.first_unit:
        raise ValueError(
            f"'{monitor}' needs {estimate.first_unit} completed {unit}s but T is {at}."
        )


def _notes_on_last(
    names: list[str],
    short: NDArray[np.bool_],
    diverged: NDArray[np.bool_],
    at: int,
    unit: str,
) -> list[str]:
    """Return notes that name the runs that rank last, and why.

    Args:
        names: The name of each run.
        short: Which runs ended before T.
        diverged: Which runs reached T without a finite value.
        at: T.
        unit: "epoch" or "block".
    """
    if len(names) == 1:
        return ["There is only one run, so there is nothing to compare it with."]
    fewer = f"that completed fewer than {pluralize(at, unit)} cannot be compared at T = {at} and"
    not_finite = f"without a finite value at T = {at} (diverged, or without a loss)"
    notes = []
    for description, is_described in ((fewer, short), (not_finite, diverged)):
        last = [names[row] for row in np.flatnonzero(is_described)]
        if last:
            notes.append(
                f"Runs {description} rank last: {quote_few(last)} "
                f"({len(last)} of {len(names)} runs)."
            )
    return notes
