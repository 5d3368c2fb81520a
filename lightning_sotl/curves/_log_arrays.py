"""Reads the runs of a directory into plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_all, quote_few, visible
from lightning_sotl.curves import _log_notes
from lightning_sotl.curves._folders import (
    NoRunsError,
    as_paths,
    common_root,
    find_run_folders,
    other_monitors,
)
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._log_values import check_table_size
from lightning_sotl.curves._run_source import RunSource
from lightning_sotl.curves._runs import Progress, RunReader
from lightning_sotl.curves.run_notes import RunNotes


@dataclass(frozen=True)
class LogArrays:
    """The contents of the logs and records below a directory, as plain arrays.

    Attributes:
        curves: The arguments of `LearningCurves`, without the two modes.
        others: Key -> its value after each epoch, shape `(runs, epochs)`. NaN for no value.
        sources: The runs, in the order of the rows.
        notes: What was left out or joined, or could not be read.
    """

    curves: dict[str, Any]
    others: dict[str, NDArray[np.float64]]
    sources: list[RunSource]
    notes: RunNotes


def read_arrays(
    directory: str | Path | Sequence[str | Path],
    keys: LogKeys,
    *,
    needs_losses: bool = True,
    instead: str | None = None,
    progress: Progress | None = None,
) -> LogArrays:
    """Read all runs below a directory. The arguments and errors are those of `logs.read_logs`."""
    paths, notes = as_paths(directory), RunNotes()
    root = common_root(paths)
    try:
        folders = find_run_folders(paths, notes.left_out, prefix=keys.prefix)
        sources = RunReader(root, keys, notes).read(folders, progress)
        _check_keys(sources, keys, needs_losses)
        if needs_losses:
            kept = _with_losses(sources, keys, instead, notes)
        else:
            kept = _with_others(sources, keys, notes)
        return _to_arrays(root, kept, keys, notes)
    except ValueError as error:
        # The error may be due to what was left out.
        reasons = [str(error), *notes.warnings[:5]]
        is_empty = isinstance(error, NoRunsError)
        if is_empty and (others := other_monitors(paths, prefix=keys.prefix)):
            reasons[0] = (
                f"No monitor of these runs has the prefix '{keys.prefix}'; they log "
                f"{quote_few(others)} and so on."
            )
        # The message contains names from files.
        raise ValueError(visible(" ".join(reasons))) from None


def _check_keys(sources: list[RunSource], keys: LogKeys, needs_losses: bool) -> None:
    """Raise if a required key has no value in any run."""
    for key in keys.curves:
        is_needed = key not in keys.others or not needs_losses
        if is_needed and not any(key in source.logged.by_epoch for source in sources):
            raise ValueError(_log_notes.why_no_values(key, sources))
    for key in keys.finals:
        if not any(key in source.logged.last for source in sources):
            raise ValueError(_log_notes.why_no_values(key, sources))


def _with_others(sources: list[RunSource], keys: LogKeys, notes: RunNotes) -> list[RunSource]:
    """Return the runs that log any of the other keys, and note the rest."""
    kept = [run for run in sources if any(key in run.logged.by_epoch for key in keys.others)]
    _note_left_out(sources, kept, f"that do not log {quote_all(keys.others)} by epoch", notes)
    return kept


def _with_losses(
    sources: list[RunSource], keys: LogKeys, instead: str | None, notes: RunNotes
) -> list[RunSource]:
    """Return the runs with L(e) or the key that replaces it, and note the rest."""
    kept = [run for run in sources if run.losses or instead in run.logged.by_epoch]
    if not kept:
        available = _log_notes.logged_keys(sources)
        for key in keys.losses:
            if key in available:
                raise ValueError(_log_notes.why_no_values(key, sources))
        sentences = [
            f"Found no L(e) in {_log_notes.count_runs(sources)}.",
            _log_notes.what_losses_need(keys),
            *_log_notes.other_losses(keys, sources),
            f"Logged are: {quote_all(available)}.",
        ]
        if available and keys.block is None:
            sentences.append("`train_loss` (--train-loss) uses one of them as L(e), unchecked.")
        raise NoRunsError(" ".join(sentences))
    notes.cautions.extend(_log_notes.notes_on_doubtful_losses(sources))
    # A user who names a block size knows that there are others.
    others = _log_notes.other_losses(keys, sources) if keys.block is None else []
    need = _log_notes.what_losses_need(keys)
    _note_left_out(sources, kept, "without L(e)", notes, need, *others)
    notes.cautions.extend(_log_notes.notes_on_train_loss(kept, keys))
    return kept


def _note_left_out(
    sources: list[RunSource], kept: list[RunSource], why: str, notes: RunNotes, *details: str
) -> None:
    names = {source.name for source in kept}
    missing = [source.name for source in sources if source.name not in names]
    if missing:
        note = (
            f"Left out {len(missing)} of {pluralize(len(sources), 'run')} {why}: "
            f"{quote_few(missing)}."
        )
        notes.left_out.append(" ".join([note, *details]))


def _to_arrays(root: Path, sources: list[RunSource], keys: LogKeys, notes: RunNotes) -> LogArrays:
    losses = [source.losses for source in sources]
    # The notes follow this order.
    others = {
        key: [source.values(key) for source in sources]
        for key in (*keys.others, keys.val_loss, keys.val_metric)
        if key
    }
    epochs, longest = max(
        (
            (max(curve) + 1, source.name)
            for curves in (losses, *others.values())
            for curve, source in zip(curves, sources, strict=True)
            if curve
        ),
        default=(1, ""),
    )
    check_table_size(root, len(sources), epochs, longest)
    tables = {key: _table(curves, epochs) for key, curves in others.items()}
    notes.cautions.extend(_log_notes.notes_on_gaps(sources))
    notes.remarks.extend(_log_notes.notes_on_cut_epochs(sources))
    notes.remarks.extend(_log_notes.notes_on_late_values(sources, list(others)))
    notes.remarks.extend(_log_notes.notes_on_several_values(sources, list(others)))
    if keys.finals:
        notes.cautions.extend(_log_notes.notes_on_short_runs(sources))
    for key in keys.finals:
        notes.cautions.extend(_log_notes.notes_on_finals(sources, key))
    arrays = {
        "train_loss": _table(losses, epochs),
        "val_loss": tables[keys.val_loss] if keys.val_loss else None,
        "val_metric": tables[keys.val_metric] if keys.val_metric else None,
        "final_metric": _finals(sources, keys.final_metric),
        "final_loss": _finals(sources, keys.final_loss),
        "run_ids": tuple(source.name for source in sources),
        "checkpoints": tuple(source.checkpoint for source in sources),
    }
    return LogArrays(arrays, {key: tables[key] for key in keys.others}, sources, notes)


def _table(curves: Sequence[dict[int, float]], epochs: int) -> NDArray[np.float64]:
    table = np.full((len(curves), epochs), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[list(curve)] = list(curve.values())
    return table


def _finals(sources: list[RunSource], key: str | None) -> NDArray[np.float64] | None:
    if key is None:
        return None
    return np.array(
        [np.nan if run.why_not_final(key) else run.logged.last.get(key, np.nan) for run in sources]
    )
