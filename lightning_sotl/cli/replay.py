"""`lightning-sotl replay`: what stopping policies would have cost and picked."""

from __future__ import annotations

import dataclasses

from lightning_sotl import plotting
from lightning_sotl.cli.inputs import load_runs
from lightning_sotl.cli.options import ReplayOptions
from lightning_sotl.cli.output import progress_bar, show, show_replay
from lightning_sotl.cli.report import Report, noted_errors
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.replay.experiment import Replay
from lightning_sotl.replay.experiment import replay as replay_policies
from lightning_sotl.replay.policies import default_names, named_policy
from lightning_sotl.replay.recorded import replayable


def replay(options: ReplayOptions) -> None:
    """Print what stopping policies would have cost and picked on the runs of PATH.

    Raises:
        NotedError: If the data or a policy do not allow a replay.
        ValueError: If PATH does not hold the runs or values that were asked for.
    """
    with progress_bar("read", unit="folder") as progress:
        runs = load_runs(options.query, progress=progress)
    report = replay_runs(runs, options)
    show(report, options.output, draw=plotting.draw_replay, print_table=show_replay)


def replay_runs(runs: FoundRuns, options: ReplayOptions) -> Report[Replay]:
    """Return the scores of the policies.

    Raises:
        NotedError: If the data or a policy do not allow a replay.
    """
    names = list(dict.fromkeys(options.policies))  # each once
    cautions = [*runs.notes.cautions, *comparability_notes(runs.facts)]
    notes = dataclasses.replace(runs.notes, cautions=cautions)
    with noted_errors(notes), progress_bar("replayed", unit="repeat") as progress:
        result = replay_policies(
            runs.curves,
            [named_policy(name) for name in names or _default_policies(runs)],
            runs=options.runs,
            repeats=options.repeats,
            workers=options.workers,
            seed=options.seed,
            validation_cost=options.validation_cost,
            progress=progress,
        )
    notes.cautions.extend(result.notes)
    return Report([({}, result)], notes)


def _default_policies(runs: FoundRuns) -> list[str]:
    has_validation = replayable(runs.curves).validation is not None
    return default_names(runs.curves.epochs, has_validation=has_validation)
