"""`lightning-sotl evaluate`: how well each estimator ranks finished runs."""

from __future__ import annotations

import dataclasses

from lightning_sotl import plotting
from lightning_sotl.cli.inputs import load_runs
from lightning_sotl.cli.options import EvaluateOptions
from lightning_sotl.cli.output import progress_bar, show, show_evaluation
from lightning_sotl.cli.report import report_groups
from lightning_sotl.evaluation.evaluate import GRID_WINDOWS, Evaluation, notes, selection_notes
from lightning_sotl.evaluation.evaluate import evaluate as evaluate_curves
from lightning_sotl.policies.stopping import StoppingReason
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.configurations import repeats_notes

# The stopping reasons of runs that ended early.
_STOPS = tuple(reason.value for reason in StoppingReason if reason != StoppingReason.not_stopped)


def evaluate(options: EvaluateOptions) -> None:
    """Print how well each estimator, at each T, agrees with the target.

    Raises:
        NotedError: If the runs cannot be evaluated.
        ValueError: If PATH does not contain the requested runs or values.
    """
    with progress_bar("Reading", unit="folder") as progress:
        runs = load_runs(options.query, progress=progress)
    estimators = list(options.estimators)
    if options.grid:
        windows = [window for window in GRID_WINDOWS if window <= runs.curves.epochs]
        estimators += [f"sotl-e{window}" for window in windows]

    def evaluate_rows(rows: list[int]) -> tuple[Evaluation, list[str]]:
        curves = runs.curves.select(rows)
        result = evaluate_curves(
            curves,
            at=options.at or None,
            estimators=estimators or None,
            method=options.method,
            resamples=options.resamples,
            seed=options.seed,
        )
        if options.query.target:
            result = dataclasses.replace(result, target=options.query.target)
        facts = [runs.facts[row] for row in rows]
        stopped = [header.get("stopping_reason") in _STOPS for header in facts]
        cautions = [
            *comparability_notes(facts),
            *repeats_notes(curves.names, facts),
            *selection_notes(curves, stopped),
        ]
        return result, [*cautions, *notes(result, curves)]

    show(
        report_groups(runs, options.group_by, evaluate_rows),
        options.output,
        draw=lambda result: plotting.draw_evaluation(runs.curves, result, method=options.method),
        print_table=lambda result: show_evaluation(
            result,
            mode=runs.curves.final_mode or "max",
        ),
    )
