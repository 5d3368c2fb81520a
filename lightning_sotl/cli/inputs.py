"""Reads PATH: directories of runs, a file with all curves, or the files of a benchmark."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.cli.options import Query
from lightning_sotl.curves.frames import TableColumns
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.curves.table_files import read_table_file
from lightning_sotl.losses.names import parse_monitor


def load_runs(
    query: Query,
    monitor: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FoundRuns:
    """Return the runs of PATH, with the notes of the readers.

    Args:
        query: PATH and the keys to read.
        monitor: An estimate or a logged key to read in addition to the curves.
        progress: Called with the number of folders read so far and the total number.

    Raises:
        FileNotFoundError: If PATH does not exist.
        NotADirectoryError: If PATH is neither a file nor a directory.
        ValueError: If PATH does not contain the requested runs or values.
    """
    for path in query.paths:
        if not path.exists():
            raise FileNotFoundError(
                f"There is no '{path}'. Expected a directory of runs, an .npz file of "
                "LearningCurves, or a .csv or .parquet table."
            )
    if query.table_options and not query.is_table:
        raise ValueError(
            f"Only a .csv or .parquet table accepts {', '.join(query.table_options)}, and "
            f"'{query.paths[0]}' is not one."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if query.is_of_runs:
            found = _read_directory(query, monitor, progress)
        elif query.is_table:
            found = _read_table(query, monitor)
        else:
            found = _read_file(query, monitor)
    cautions = [*(str(entry.message) for entry in caught), *found.notes.cautions]
    notes = dataclasses.replace(found.notes, cautions=cautions)
    return dataclasses.replace(found, notes=notes)


def _read_directory(
    query: Query, monitor: str | None, progress: Callable[[int, int], None] | None
) -> FoundRuns:
    estimate = parse_monitor(query.monitor)
    keys = LogKeys(
        val_loss=query.val_loss,
        val_metric=query.val_metric,
        final_metric=query.target,
        final_loss=query.final_loss,
        train_loss=query.train_loss,
        others=() if monitor is None else (monitor,),
        prefix="sotl" if estimate is None else estimate.prefix,
        block=None if estimate is None else estimate.block,
    )
    return read_logs(
        query.paths,
        keys,
        metric_mode=query.metric_mode or "max",
        final_mode=query.target_mode,
        # A ranking by a logged key does not need L(e).
        needs_losses=monitor is None or estimate is not None,
        instead=monitor,
        progress=progress,
    )


def _load_table(path: Path) -> LearningCurves:
    try:
        return LearningCurves.load(path)
    except ValueError:
        if path.suffix == ".npz":
            raise
        raise ValueError(
            f"Expected '{path}' to be a directory of runs, a file of a run ('sotl.jsonl', "
            "'metrics.csv' or 'events.out.tfevents.*'), an .npz file of LearningCurves, or a .csv "
            "or .parquet table."
        ) from None


def _read_file(query: Query, monitor: str | None) -> FoundRuns:
    if len(query.paths) > 1:
        raise ValueError(
            f"Expected one PATH with --format {query.format} but got {len(query.paths)}."
        )
    path = query.paths[0]
    for_directories = {
        "--val-loss": query.val_loss,
        "--val-metric": query.val_metric,
        "--target": query.target,
        "--final-loss": query.final_loss,
        "--train-loss": query.train_loss,
        "--target-mode": query.target_mode,  # stored in the file
    }
    if given := [flag for flag, value in for_directories.items() if value]:
        raise ValueError(
            f"Only a directory of runs accepts {', '.join(given)}, and '{path}' is not one."
        )
    if query.format == "nas-bench-nlp":
        curves, cautions = read_nas_bench_nlp(path)
    else:
        curves, cautions = _load_table(path), []
    # For any other monitor, --metric-mode is the direction of the monitor.
    is_for_metric = monitor in (None, "val_metric")
    if is_for_metric and query.metric_mode not in (None, curves.metric_mode):
        raise ValueError(
            f"Expected --metric-mode to be '{curves.metric_mode}', the mode stored in '{path}', "
            f"but got '{query.metric_mode}'."
        )
    return _found(curves, {}, cautions)


def _read_table(query: Query, monitor: str | None) -> FoundRuns:
    columns = TableColumns(
        run=TableColumns.run if query.run_column is None else query.run_column,
        epoch=TableColumns.epoch if query.epoch_column is None else query.epoch_column,
        train_loss=query.train_loss or TableColumns.train_loss,
        val_loss=query.val_loss,
        val_metric=query.val_metric,
        final_metric=query.target,
        final_loss=query.final_loss,
        others=() if monitor is None or parse_monitor(monitor) else (monitor,),
        first_epoch=query.first_epoch or 0,
    )
    table = read_table_file(
        query.paths[0], columns, metric_mode=query.metric_mode, final_mode=query.target_mode
    )
    return _found(table.curves, table.others, table.notes)


def _found(
    curves: LearningCurves, others: dict[str, NDArray[np.float64]], cautions: list[str]
) -> FoundRuns:
    """Return the runs of a file without records."""
    validation = {"val_loss": curves.val_loss, "val_metric": curves.val_metric}
    return FoundRuns(
        curves,
        facts=({},) * curves.runs,
        others={
            **{name: values for name, values in validation.items() if values is not None},
            **others,
        },
        # Estimates are computed from the losses, as for runs with a record.
        has_record=np.ones(curves.runs, dtype=bool),
        stopped_at=(None,) * curves.runs,
        notes=RunNotes(cautions=cautions),
    )
