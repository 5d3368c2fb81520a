"""`lightning-sotl rank`: runs in the order of an early estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning_sotl import plotting
from lightning_sotl.cli.inputs import load_runs
from lightning_sotl.cli.options import RankOptions
from lightning_sotl.cli.output import progress_bar, show, show_ranking
from lightning_sotl.cli.report import report_groups
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.order import Ranking, rank_runs, shown_names
from lightning_sotl.stats.correlation import order_stability
from lightning_sotl.stats.ranks import Mode


@dataclass(frozen=True)
class RankedGroup:
    """The ranking of a group of runs.

    Attributes:
        ranking: The ranking of all runs.
        document: The JSON document, limited to the best K runs.
    """

    ranking: Ranking
    document: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return self.document


def rank(options: RankOptions) -> None:
    """Print the runs in order, best first.

    Raises:
        NotedError: If the runs cannot be ranked.
        ValueError: If PATH does not contain the requested runs or values.
    """
    with progress_bar("Reading", unit="folder") as progress:
        runs = load_runs(options.query, options.query.monitor, progress)
    estimate = parse_monitor(options.query.monitor)
    # For an estimate, --metric-mode applies to the validation metric only.
    mode = "min" if estimate is not None else options.query.metric_mode or "min"

    def rank_rows(rows: list[int]) -> tuple[RankedGroup, list[str]]:
        ranking = rank_runs(
            runs, options.query.monitor, estimate=estimate, at=options.at, mode=mode, rows=rows
        )
        document = ranking.to_json()
        document["runs"] = document["runs"][: options.top]
        if options.stability:
            document["stability"] = _stability(ranking, mode)
        # These notes are about training losses and do not apply to a logged key.
        facts = [] if estimate is None else [runs.facts[row] for row in rows]
        return RankedGroup(ranking, document), [*comparability_notes(facts), *ranking.notes]

    show(
        report_groups(runs, options.group_by, rank_rows),
        options.output,
        draw=lambda group: plotting.draw_ranks(group.ranking, mode=mode),
        print_table=lambda group: show_ranking(
            group.document,
            shown_names((run.name, run.run_id) for run in group.ranking.runs),
            all_params=options.params,
        ),
    )


def _stability(ranking: Ranking, mode: Mode) -> float | None:
    """Return the rank correlation of the orders at T/2 and at T; None if it is undefined."""
    if ranking.at < 2 or len(ranking.runs) < 2:
        return None
    value = order_stability(ranking.scores, at=ranking.at, mode=mode)
    return None if math.isnan(value) else value
