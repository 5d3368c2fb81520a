"""What `lightning-sotl evaluate` does: read finished runs, judge estimators on them, show that."""

from __future__ import annotations

from argparse import Namespace

from lightning_sotl.cli import output
from lightning_sotl.cli.inputs import (
    UsageError,
    check_one_picture,
    check_picture_name,
    check_positive,
    check_seed,
    needs_target,
    of_each_group,
    read_runs,
)
from lightning_sotl.cli.output import print_documents
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import (
    FINAL_LOSS,
    GRID_WINDOWS,
    LCSVR,
    Evaluation,
    notes,
)
from lightning_sotl.evaluation.evaluate import evaluate as evaluate_curves
from lightning_sotl.ranking.comparability import comparability_notes


def evaluate(options: Namespace) -> None:
    """Print how well each estimator at each T agrees with the target.

    Raises:
        UsageError: If an option is missing or out of range.
        ValueError: If the data do not allow an evaluation.
    """
    check_positive("--at", options.at or [])
    check_positive("--resamples", [options.resamples])
    check_seed(options)
    check_one_picture(options)
    check_picture_name(options)
    for name in options.estimator or []:
        _check_estimator(name)
    needs_target(options)
    found = read_runs(options)
    results = of_each_group(options, found, lambda rows: _evaluation(options, found, rows))
    _show(options, found.curves, results)


def _evaluation(
    options: Namespace, found: FoundRuns, rows: list[int]
) -> tuple[Evaluation, list[str]]:
    curves, facts = found.curves.select(rows), [found.facts[row] for row in rows]
    result = evaluate_curves(
        curves,
        at=options.at,
        estimators=_estimators(options, curves.epochs),
        method=options.method,
        resamples=options.resamples,
        seed=options.seed,
    )
    return result, [*comparability_notes(facts), *notes(result, curves)]


def _show(
    options: Namespace,
    curves: LearningCurves,
    results: list[tuple[dict[str, str], Evaluation]],
) -> None:
    if options.plot:
        from lightning_sotl import plotting

        figure = plotting.draw_evaluation(curves, results[0][1], method=options.method)
        plotting.save(figure, options.plot)
    if options.json:
        print_documents([(group, result.to_json()) for group, result in results])
        return
    for group, result in results:
        output.show_evaluation(
            result,
            target=options.target or result.target,
            mode=curves.final_mode or "max",
            group=group,
        )


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
