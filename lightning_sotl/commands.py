"""What the sub-commands do with their options: read, compute, show."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_sotl import evaluation, screen
from lightning_sotl._ranks import Mode
from lightning_sotl.comparability import comparability_notes, groups_of
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.estimator_table import named_estimator
from lightning_sotl.monitor_name import MonitorName, parse_monitor
from lightning_sotl.ranking import order_stability
from lightning_sotl.run_ranking import Ranking, rank_runs
from lightning_sotl.scorer import FINAL_LOSS, GRID_WINDOWS, LCSVR
from lightning_sotl.sources import find_runs, is_directory_of_runs


class UsageError(Exception):
    """The options contradict each other, or one that is needed is missing."""


def rank(options: Namespace) -> None:
    """Print the runs in order.

    Raises:
        UsageError: If an option is missing or out of range.
        ValueError: If the data do not allow a ranking.
    """
    if options.top is not None and options.top < 1:
        raise UsageError(f"Expected --top to be at least 1 but got {options.top}.")
    check_positive("--at", [] if options.at is None else [options.at])
    if options.plot and options.group_by:
        raise UsageError("--plot draws one ranking; it does not go with --group-by.")
    estimate = parse_monitor(options.monitor)
    if estimate is None and options.metric_mode is None:
        raise UsageError(
            f"--monitor {options.monitor} is no estimate from training losses, so --metric-mode "
            "has to say which end of it is better."
        )
    found = _read(
        options,
        estimate=estimate,
        others=(options.monitor,),
        needs_losses=estimate is not None,
    )
    _show_rankings(options, _rankings(options, found, estimate), estimate)


def finished_runs(options: Namespace) -> LearningCurves:
    """Return the curves of PATH, and print what has to be said of them.

    Raises:
        ValueError: If the data do not hold what was asked for.
    """
    found = _read(options)
    if any(found.facts):
        screen.notes(comparability_notes(found.facts))
    return found.curves


def _read(options: Namespace, **what: Any) -> FoundRuns:
    with warnings.catch_warnings(record=True) as caught, screen.progress() as progress:
        warnings.simplefilter("always")
        found = find_runs(options, progress=progress, **what)
    screen.notes([*(str(entry.message) for entry in caught), *found.notes])
    return found


def _rankings(
    options: Namespace, found: FoundRuns, estimate: MonitorName | None
) -> dict[tuple[str, ...], Ranking]:
    """Return the ranking of each group; one that allows none is said and left out."""
    rankings: dict[tuple[str, ...], Ranking] = {}
    reasons = []
    for values, rows in groups_of(found.facts, options.group_by).items():
        facts = [found.facts[row] for row in rows]
        if estimate is not None and any(facts):
            screen.notes(comparability_notes(facts))
        try:
            ranking = rank_runs(
                found,
                options.monitor,
                estimate=estimate,
                at=options.at,
                mode=_mode(options, estimate),
                rows=rows,
            )
        except ValueError as error:
            reasons.append(str(error))
            if options.group_by:
                screen.notes([f"Left out the group {', '.join(values)}: {error}"])
            continue
        screen.notes(ranking.notes)
        rankings[values] = ranking
    if not rankings:
        raise ValueError(reasons[0])
    return rankings


def _show_rankings(
    options: Namespace, rankings: dict[tuple[str, ...], Ranking], estimate: MonitorName | None
) -> None:
    documents = []
    for values, ranking in rankings.items():
        group = dict(zip(options.group_by, values, strict=True))
        document = ranking.to_json()
        document["runs"] = document["runs"][: options.top]
        if options.stability:
            document["stability"] = _stability(ranking, options, estimate)
        documents.append({"group": group, **document} if group else document)
    if options.plot:
        from lightning_sotl import plotting

        figure = plotting.draw_ranks(next(iter(rankings.values())), mode=_mode(options, estimate))
        plotting.save(figure, options.plot)
    if options.json:
        print_document(documents if options.group_by else documents[0])
    else:
        for document in documents:
            screen.show_ranking(document)


def _mode(options: Namespace, estimate: MonitorName | None) -> Mode:
    mode: Mode = "min" if estimate is not None else options.metric_mode
    return mode


def _stability(ranking: Ranking, options: Namespace, estimate: MonitorName | None) -> float | None:
    if ranking.at < 2 or len(ranking.runs) < 2:
        return None
    value = order_stability(ranking.scores, at=ranking.at, mode=_mode(options, estimate))
    return value if value == value else None  # NaN is not in JSON


def evaluate(options: Namespace) -> None:
    """Print how well each estimator at each T agrees with the target.

    Raises:
        UsageError: If an option is missing or out of range.
        ValueError: If the data do not allow an evaluation.
    """
    check_positive("--at", options.at or [])
    check_positive("--resamples", [options.resamples])
    check_seed(options)
    for name in options.estimator or []:
        _check_estimator(name)
    needs_target(options)
    curves = finished_runs(options)
    result = evaluation.evaluate(
        curves,
        at=options.at,
        estimators=_estimators(options, curves.epochs),
        method=options.method,
        resamples=options.resamples,
        seed=options.seed,
    )
    screen.notes(evaluation.notes(result, curves))
    if options.plot:
        from lightning_sotl import plotting

        figure = plotting.draw_evaluation(curves, result, method=options.method)
        plotting.save(figure, options.plot)
    if options.json:
        print_document(result.to_json())
    else:
        screen.show_evaluation(
            result, target=options.target or result.target, mode=curves.final_mode or "max"
        )


def print_document(document: Any) -> None:
    """Print one JSON document on standard output."""
    # Its own escapes are all there is: what it holds comes back as it was.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _estimators(options: Namespace, epochs: int) -> list[str] | None:
    names = list(options.estimator or [])
    if options.grid:
        names += [f"sotl-e{window}" for window in GRID_WINDOWS if window <= epochs]
    return names or None


def _check_estimator(name: str) -> None:
    try:
        if name not in (FINAL_LOSS, LCSVR):
            named_estimator(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def needs_target(options: Namespace) -> None:
    """Raise if PATH is a directory of runs and nothing says what they came to.

    Raises:
        UsageError: If --target is missing.
    """
    if is_directory_of_runs(options) and options.target is None and Path(options.path).exists():
        raise UsageError("A directory of runs needs --target, the logged key of the final metric.")


def check_seed(options: Namespace) -> None:
    """Raise unless --seed is one.

    Raises:
        UsageError: If it is not.
    """
    if options.seed < 0:
        raise UsageError(f"Expected --seed to be at least 0 but got {options.seed}.")


def check_positive(flag: str, values: list[int]) -> None:
    """Raise unless all values of an option are at least 1.

    Raises:
        UsageError: If one is not.
    """
    for value in values:
        if value < 1:
            raise UsageError(f"Expected {flag} to be at least 1 but got {value}.")
