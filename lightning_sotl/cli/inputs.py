"""What the command line's PATH is: a directory of runs, a table, or a benchmark's own files."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lightning_sotl.cli import output
from lightning_sotl.curves._log_arrays import LogKeys
from lightning_sotl.curves.logs import FoundRuns, read_logs
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.losses.names import LoggedEstimate
from lightning_sotl.ranking.comparability import comparability_notes, groups_of

Result = TypeVar("Result")


class UsageError(Exception):
    """The options contradict each other, or one that is needed is missing."""


def read_runs(options: Namespace, **what: Any) -> FoundRuns:
    """Return the runs of PATH, and print what could not be read of it.

    Args:
        options: The command line's.
        **what: As `find_runs` takes it.

    Raises:
        ValueError: If PATH does not hold what was asked for.
    """
    with warnings.catch_warnings(record=True) as caught, output.progress() as progress:
        warnings.simplefilter("always")
        found = find_runs(options, progress=progress, **what)
    output.remarks(found.notes.remarks)
    output.notes([*(str(entry.message) for entry in caught), *found.notes.warnings])
    return found


def finished_runs(options: Namespace) -> LearningCurves:
    """Return the curves of PATH, and print what has to be said of them.

    Raises:
        ValueError: If the data do not hold what was asked for.
    """
    found = read_runs(options)
    output.notes(comparability_notes(found.facts))
    return found.curves


def of_each_group(
    options: Namespace,
    found: FoundRuns,
    compute: Callable[[list[int]], tuple[Result, list[str]]],
) -> list[tuple[dict[str, str], Result]]:
    """Return each group's values of the fields of --group-by, and what is computed of its runs.

    A group that allows no result is said and left out. Without --group-by all runs are one group,
    whose values are empty.

    Args:
        options: The command line's.
        found: The runs.
        compute: Rows of `found` -> the result, and what has to be said of it.

    Raises:
        ValueError: If no group allows a result, or if no run has one of the fields.
    """
    results = []
    reasons = []
    for values, rows in groups_of(found.facts, options.group_by).items():
        group = dict(zip(options.group_by, values, strict=True))
        name = output.group_name(group)
        try:
            result, notes = compute(rows)
        except ValueError as error:
            reasons.append(str(error))
            if group:
                output.notes([f"Left out the group {name}: {error}"])
            continue
        output.notes([f"{name}: {note}" for note in notes] if group else notes)
        results.append((group, result))
    if not results:
        raise ValueError(reasons[0])
    return results


def needs_target(options: Namespace) -> None:
    """Raise if PATH is a directory of runs and nothing says what they came to.

    Raises:
        UsageError: If --target is missing.
    """
    if is_directory_of_runs(options) and options.target is None and Path(options.path).exists():
        raise UsageError("A directory of runs needs --target, the logged key of the final metric.")


def check_positive(flag: str, values: list[int]) -> None:
    """Raise unless all values of an option are at least 1.

    Raises:
        UsageError: If one is not.
    """
    for value in values:
        if value < 1:
            raise UsageError(f"Expected {flag} to be at least 1 but got {value}.")


def check_seed(options: Namespace) -> None:
    """Raise unless --seed is one.

    Raises:
        UsageError: If it is negative.
    """
    if options.seed < 0:
        raise UsageError(f"Expected --seed to be at least 0 but got {options.seed}.")


def check_one_picture(options: Namespace) -> None:
    """Raise if --plot would have to draw several groups.

    Raises:
        UsageError: If --group-by is given, too.
    """
    if options.plot and options.group_by:
        raise UsageError("--plot draws one group of runs; it does not go with --group-by.")


def check_picture_name(options: Namespace) -> None:
    """Raise if --plot names a picture of a format that cannot be drawn, before anything is read.

    Raises:
        UsageError: If matplotlib does not know the file name's ending.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    if not options.plot:
        return
    from lightning_sotl import plotting

    try:
        plotting.picture_format(options.plot)
    except ValueError as error:
        raise UsageError(str(error)) from None


_LOG_KEYS = {
    "--val-loss": "val_loss",
    "--val-metric": "val_metric",
    "--target": "target",
    "--final-loss": "final_loss",
    "--train-loss": "train_loss",
}


def is_directory_of_runs(options: Namespace) -> bool:
    """Return whether PATH shall be read as records and logs."""
    return options.format == "auto" and not Path(options.path).is_file()


def find_runs(
    options: Namespace,
    *,
    estimate: LoggedEstimate | None = None,
    others: tuple[str, ...] = (),
    needs_losses: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FoundRuns:
    """Return the runs of PATH.

    Args:
        options: The command line's.
        estimate: What the runs will be ranked by, whose prefix and unit the records must have.
        others: Further logged keys to read.
        needs_losses: Whether runs without L(e), and without the first of `others`, are left out.
        progress: Is called with the number of folders read and of all.

    Raises:
        FileNotFoundError: If there is no PATH.
        NotADirectoryError: If it is none.
        ValueError: If it does not hold what was asked for.
    """
    path = Path(options.path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no '{path}'; expected a directory of runs or an .npz of LearningCurves."
        )
    if is_directory_of_runs(options):
        return read_logs(
            path,
            _log_keys(options, estimate, others),
            metric_mode=options.metric_mode or "max",
            final_mode=options.target_mode,
            needs_losses=needs_losses,
            instead=others[0] if others else None,
            progress=progress,
        )
    return _of_one_file(options, others)


def _log_keys(
    options: Namespace, estimate: LoggedEstimate | None, others: tuple[str, ...]
) -> LogKeys:
    return LogKeys(
        val_loss=options.val_loss,
        val_metric=options.val_metric,
        final_metric=options.target,
        final_loss=options.final_loss,
        train_loss=options.train_loss,
        others=others,
        prefix="sotl" if estimate is None else estimate.prefix,
        block=None if estimate is None else estimate.block,
    )


def _of_one_file(options: Namespace, others: tuple[str, ...]) -> FoundRuns:
    """Return the runs of a table or a benchmark's file, to which no logged keys belong."""
    path = Path(options.path)
    given = [flag for flag, name in _LOG_KEYS.items() if getattr(options, name)]
    if options.target_mode:  # the file says which end of its target is better
        given.append("--target-mode")
    if given:
        raise ValueError(
            f"{', '.join(given)}: only for a directory of runs, which '{path}' is not."
        )
    if options.format == "nas-bench-nlp":
        from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp

        curves, notes = read_nas_bench_nlp(path)
    else:
        curves, notes = LearningCurves.load(path), []
    _check_mode(options, curves, others)
    return _found(curves, notes)


def _check_mode(options: Namespace, curves: LearningCurves, others: tuple[str, ...]) -> None:
    """Raise if --metric-mode contradicts what the file says of the metric that is read."""
    # A ranking by another curve than the metric has to say which end of that is better.
    is_of_metric = not others or "val_metric" in others
    if is_of_metric and options.metric_mode not in (None, curves.metric_mode):
        raise ValueError(
            f"Expected --metric-mode to be '{curves.metric_mode}', as '{options.path}' has it, but "
            f"got '{options.metric_mode}'."
        )


def _found(curves: LearningCurves, notes: list[str]) -> FoundRuns:
    others = {name: getattr(curves, name) for name in ("val_loss", "val_metric")}
    return FoundRuns(
        curves,
        facts=({},) * curves.runs,
        others={name: values for name, values in others.items() if values is not None},
        # As with a record, estimates are computed from these losses and not looked for in logs.
        has_record=np.ones(curves.runs, dtype=bool),
        stopped_at=(None,) * curves.runs,
        notes=RunNotes(cautions=notes),
    )
