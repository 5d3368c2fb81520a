"""What the command line's PATH is: a directory of runs, a table, or a benchmark's own files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.monitor_name import MonitorName

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
    estimate: MonitorName | None = None,
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
    return _of_one_file(options)


def _log_keys(options: Namespace, estimate: MonitorName | None, others: tuple[str, ...]) -> LogKeys:
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


def _of_one_file(options: Namespace) -> FoundRuns:
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
        return _found(curves, notes)
    return _found(LearningCurves.load(path), [])


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
