"""`lightning-sotl replay`: the cost and the pick of stopping policies on finished runs."""

from __future__ import annotations

import dataclasses

from lightning_sotl import plotting
from lightning_sotl.cli.inputs import load_runs
from lightning_sotl.cli.options import ReplayOptions
from lightning_sotl.cli.output import progress_bar, show, show_replay
from lightning_sotl.cli.report import Report, noted_errors
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.replay.experiment import replay as replay_policies
from lightning_sotl.replay.policies import default_names, named_policy
from lightning_sotl.replay.recorded import replayable


def replay(options: ReplayOptions) -> None:
    """Print what stopping policies would have cost and picked on the runs in PATH.

    Raises:
        NotedError: If the data or a policy does not allow a replay.
        ValueError: If PATH does not contain the requested runs or values.
    """
    with progress_bar("Reading", unit="folder") as progress:
        runs = load_runs(options.query, progress=progress)
    cautions = [*runs.notes.cautions, *comparability_notes(runs.facts)]
    notes = dataclasses.replace(runs.notes, cautions=cautions, remarks=[*runs.notes.remarks])
    names = list(dict.fromkeys(options.policies))  # without repeats
    with noted_errors(notes), progress_bar("Replaying", unit="repeat") as progress:
        if not names:
            has_validation = replayable(runs.curves).validation is not None
            names = default_names(runs.curves.epochs, has_validation=has_validation)
        result = replay_policies(
            runs.curves,
            [named_policy(name) for name in names],
            runs=options.runs,
            repeats=options.repeats,
            workers=options.workers,
            seed=options.seed,
            validation_cost=options.validation_cost,
            progress=progress,
        )
    notes.cautions.extend(result.notes)
    notes.remarks.extend(result.remarks)
    report = Report([({}, result)], notes)
    show(report, options.output, draw=plotting.draw_replay, print_table=show_replay)
