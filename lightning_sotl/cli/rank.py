"""What `lightning-sotl rank` does: read runs, rank them, show the order."""

from __future__ import annotations

from argparse import Namespace

from lightning_sotl.cli import output
from lightning_sotl.cli.inputs import (
    UsageError,
    check_one_picture,
    check_picture_name,
    check_positive,
    of_each_group,
    read_runs,
)
from lightning_sotl.cli.output import print_documents
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.losses.names import LoggedEstimate, parse_monitor
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.order import Ranking, rank_runs
from lightning_sotl.stats.correlation import order_stability
from lightning_sotl.stats.ranks import Mode


def rank(options: Namespace) -> None:
    """Print the runs in order.

    Raises:
        UsageError: If an option is missing or out of range.
        ValueError: If the data do not allow a ranking.
    """
    check_positive("--top", [] if options.top is None else [options.top])
    check_positive("--at", [] if options.at is None else [options.at])
    check_one_picture(options)
    check_picture_name(options)
    estimate = parse_monitor(options.monitor)
    if estimate is None and options.metric_mode is None:
        raise UsageError(_mode_is_missing(options.monitor))
    if estimate is not None and options.metric_mode == "max" and not options.val_metric:
        raise UsageError(
            f"Expected --metric-mode to be 'min' for --monitor {options.monitor}, an estimate of "
            "which lower is better, but got 'max'."
        )
    mode: Mode = "min" if estimate is not None else options.metric_mode
    found = read_runs(
        options,
        estimate=estimate,
        others=(options.monitor,),
        needs_losses=estimate is not None,
    )
    rankings = of_each_group(
        options, found, lambda rows: _ranking(options, found, estimate, mode, rows)
    )
    _show(options, rankings, mode)


def _mode_is_missing(monitor: str) -> str:
    meant = monitor.replace("-", "_")  # `evaluate` calls it "sotl-e2"
    if parse_monitor(meant) is not None:
        return (
            f"There is no estimate '{monitor}': did you mean '{meant}'? For a logged key of this "
            "name --metric-mode has to say which end of it is better."
        )
    return (
        f"--monitor {monitor} is no estimate from training losses, so --metric-mode has to say "
        "which end of it is better."
    )


def _ranking(
    options: Namespace,
    found: FoundRuns,
    estimate: LoggedEstimate | None,
    mode: Mode,
    rows: list[int],
) -> tuple[Ranking, list[str]]:
    ranking = rank_runs(
        found, options.monitor, estimate=estimate, at=options.at, mode=mode, rows=rows
    )
    facts = [] if estimate is None else [found.facts[row] for row in rows]  # for losses only
    return ranking, [*comparability_notes(facts), *ranking.notes]


def _show(options: Namespace, rankings: list[tuple[dict[str, str], Ranking]], mode: Mode) -> None:
    documents = []
    for group, ranking in rankings:
        document = ranking.to_json()
        document["runs"] = document["runs"][: options.top]
        if options.stability:
            document["stability"] = _stability(ranking, mode)
        documents.append((group, document))
    if options.plot:
        from lightning_sotl import plotting

        plotting.save(plotting.draw_ranks(rankings[0][1], mode=mode), options.plot)
    if options.json:
        print_documents(documents)
    else:
        for group, document in documents:
            output.show_ranking(document, group=group)


def _stability(ranking: Ranking, mode: Mode) -> float | None:
    if ranking.at < 2 or len(ranking.runs) < 2:
        return None
    value = order_stability(ranking.scores, at=ranking.at, mode=mode)
    return value if value == value else None  # NaN is not in JSON
