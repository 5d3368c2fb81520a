"""Readers of learning curves in one CSV: wide (a row a run) or long (a row a run and epoch)."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._ranks import Mode
from lightning_sotl._reading import MOST_LINE_BYTES, TextLines
from lightning_sotl._wording import listed, quoted
from lightning_sotl.curves.logged import MOST_ENTRIES, check_table_size
from lightning_sotl.curves.table import LearningCurves

# All 15,625 architectures of NAS-Bench-201 over 200 epochs, a row each, take 0.2 GB.
MOST_TABLE_BYTES = 2**30
MOST_CELLS = MOST_ENTRIES

Rows = list[tuple[int, dict[str, str]]]  # (line number, column -> cell)


def read_long_csv(
    path: str | Path,
    *,
    run: str = "run",
    epoch: str = "epoch",
    train_loss: str = "train_loss",
    val_loss: str | None = None,
    val_metric: str | None = None,
    final_metric: str | None = None,
    final_loss: str | None = None,
    features: Sequence[str] = (),
    metric_mode: Mode = "max",
    final_mode: Mode | None = None,
    first_epoch: int = 0,
) -> LearningCurves:
    """Read a CSV with one row for each run and epoch.

    A blank cell is no value. Of columns that belong to a run, the last value that is there counts.

    Args:
        path: The CSV, with a header.
        run: Column of the run's name.
        epoch: Column of the epoch's number.
        train_loss: Column of L(e), in the loss's own unit.
        val_loss: Column of the validation loss.
        val_metric: Column of the validation metric.
        final_metric: Column of the target.
        final_loss: Column of the final test loss.
        features: Columns of the run's features.
        metric_mode: "max" if a higher validation metric is better.
        final_mode: The same for the target; None for the same.
        first_epoch: What the first epoch is called, 0 or 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a cell is no number, or a run has an epoch twice.
    """
    per_epoch = {"train_loss": train_loss, "val_loss": val_loss, "val_metric": val_metric}
    per_run = {"final_metric": final_metric, "final_loss": final_loss}
    curves = {name: column for name, column in per_epoch.items() if column is not None}
    finals = {name: column for name, column in per_run.items() if column is not None}
    needed = [run, epoch, *curves.values(), *finals.values(), *features]
    rows = _rows(Path(path), needed)
    names = list(dict.fromkeys(cells[run] for _, cells in rows))
    places = {name: place for place, name in enumerate(names)}
    indices = [_epoch(path, line, cells[epoch], first_epoch) for line, cells in rows]
    shape = (len(names), max(indices) + 1)
    check_table_size(path, *shape, rows[indices.index(max(indices))][1][run])
    fields: dict[str, NDArray[np.float64]] = {name: np.full(shape, np.nan) for name in curves}
    fields |= {name: np.full(shape[0], np.nan) for name in finals}
    described = np.full((shape[0], len(features)), np.nan)
    seen: set[tuple[int, int]] = set()
    for (line, cells), index in zip(rows, indices, strict=True):
        place = places[cells[run]]
        if (place, index) in seen:
            raise ValueError(
                f"Expected '{path}' to have each epoch of a run once, but line {line} has epoch "
                f"{index + first_epoch} of run {quoted(cells[run])} again."
            )
        seen.add((place, index))
        for name, column in curves.items():
            fields[name][place, index] = _number(path, line, column, cells[column])
        for name, column in finals.items():
            if cells[column]:
                fields[name][place] = _number(path, line, column, cells[column])
        for position, column in enumerate(features):
            if cells[column]:
                described[place, position] = _number(path, line, column, cells[column])
    if features:
        fields["features"] = described
    return _checked(path, fields, names, metric_mode, final_mode)


def read_wide_csv(
    path: str | Path,
    *,
    run: str | None = "run",
    train_loss: str = "train_loss_{epoch}",
    val_loss: str | None = None,
    val_metric: str | None = None,
    final_metric: str | None = None,
    final_loss: str | None = None,
    features: Sequence[str] = (),
    metric_mode: Mode = "max",
    final_mode: Mode | None = None,
) -> LearningCurves:
    """Read a CSV with one row for each run and one column for each epoch of a curve.

    A blank cell is no value.

    Args:
        path: The CSV, with a header.
        run: Column of the run's name; None to number them.
        train_loss: Name of the columns of L(e), with `{epoch}` in place of its number; the numbers
            must follow each other without a gap, from 0 or from 1.
        val_loss: The same for the validation loss.
        val_metric: The same for the validation metric.
        final_metric: Column of the target.
        final_loss: Column of the final test loss.
        features: Columns of the run's features.
        metric_mode: "max" if a higher validation metric is better.
        final_mode: The same for the target; None for the same.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a cell is no number, or a run stands there twice.
    """
    curves = {"train_loss": train_loss, "val_loss": val_loss, "val_metric": val_metric}
    singles = {"final_metric": final_metric, "final_loss": final_loss}
    needed = [column for column in (run, *singles.values(), *features) if column is not None]
    patterns = [pattern for pattern in curves.values() if pattern is not None]
    rows = _rows(Path(path), needed, patterns)
    check_table_size(path, len(rows), 1, "it")
    header = list(rows[0][1])
    fields: dict[str, NDArray[np.float64]] = {}
    for name, pattern in curves.items():
        if pattern is not None:
            fields[name] = _columns(path, rows, _epoch_columns(path, header, pattern))
    for name, column in singles.items():
        if column is not None:
            fields[name] = _columns(path, rows, [column])[:, 0]
    if features:
        fields["features"] = _columns(path, rows, features)
    numbered = [str(place) for place in range(len(rows))]
    names = numbered if run is None else [cells[run] for _, cells in rows]
    return _checked(path, fields, names, metric_mode, final_mode)


def _rows(path: Path, needed: Sequence[str], patterns: Sequence[str] = ()) -> Rows:
    """Return the rows with the columns that are needed, or are of a wide curve."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{path}'.")
    lines = _numbered(path)
    header = next(lines, (0, []))[1]
    missing = sorted(set(needed) - set(header), key=needed.index)
    if missing:
        raise ValueError(
            f"Expected '{path}' to have the columns {listed(missing)} but it has {listed(header)}."
        )
    repeated = sorted(column for column, times in Counter(header).items() if times > 1)
    if repeated:
        raise ValueError(f"Expected '{path}' to have no column twice but got {listed(repeated)}.")
    read = {column for pattern in patterns for column in _epoch_columns(path, header, pattern)}
    read |= set(needed)
    kept = [(place, name) for place, name in enumerate(header) if name in read]
    rows: Rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"Expected line {line} of '{path}' to have {len(header)} cells, as the header has, "
                f"but got {len(cells)}."
            )
        rows.append((line, {name: cells[place] for place, name in kept}))
        if len(rows) * len(kept) > MOST_CELLS:
            raise ValueError(
                f"Expected '{path}' to have at most {MOST_CELLS:,} cells in the columns that are "
                "read but it has more."
            )
    if not rows:
        raise ValueError(f"Expected '{path}' to have at least one row below the header.")
    return rows


def _numbered(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not blank."""
    lines = TextLines(path, most=MOST_TABLE_BYTES, errors="strict")
    reader = csv.reader(_strict(lines, path))
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:  # a cell without an end, as of a lost quote
        raise ValueError(f"'{path}' cannot be read as CSV: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected '{path}' to be in UTF-8: {error}.") from None


def _strict(lines: TextLines, path: Path) -> Iterator[str]:
    for line in lines:
        _check_length(lines, path)
        yield line
    _check_length(lines, path)


def _check_length(lines: TextLines, path: Path) -> None:
    if lines.too_long:
        raise ValueError(
            f"Expected '{path}' to have lines of at most {MOST_LINE_BYTES:,} bytes but one has "
            "more."
        )


def _epoch_columns(path: str | Path, header: list[str], pattern: str) -> list[str]:
    if "{epoch}" not in pattern:
        raise ValueError(
            f"Expected the name of a wide curve's columns to contain '{{epoch}}' but got "
            f"{pattern!r}."
        )
    number = re.compile(re.escape(pattern).replace(r"\{epoch\}", "([0-9]{1,9})"))
    matches = [match for name in header if (match := number.fullmatch(name))]
    found = {int(match[1]): match[0] for match in matches}
    if (
        not found
        or len(found) < len(matches)
        or sorted(found) != list(range(min(found), min(found) + len(found)))
    ):
        raise ValueError(
            f"Expected '{path}' to have columns {pattern!r} for epochs without a gap but it has "
            f"{listed(sorted(found))} of them, in columns {listed(header)}."
        )
    if min(found) > 1:
        raise ValueError(
            f"Expected the columns {pattern!r} of '{path}' to begin with epoch 0 or 1 but got "
            f"{min(found)}."
        )
    return [found[epoch] for epoch in sorted(found)]


def _columns(path: str | Path, rows: Rows, columns: Sequence[str]) -> NDArray[np.float64]:
    return np.array(
        [[_number(path, line, column, cells[column]) for column in columns] for line, cells in rows]
    )


def _number(path: str | Path, line: int, column: str, cell: str) -> float:
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise ValueError(
            f"Expected a number in line {line}, column {column!r} of '{path}' but got "
            f"{quoted(cell)}."
        ) from None


def _epoch(path: str | Path, line: int, cell: str, first_epoch: int) -> int:
    if first_epoch not in (0, 1):
        raise ValueError(f"Expected `first_epoch` to be 0 or 1 but got {first_epoch!r}.")
    try:
        number = float(cell)
    except ValueError:
        number = float("nan")
    if not number.is_integer() or number < first_epoch:
        raise ValueError(
            f"Expected an epoch from {first_epoch} on in line {line} of '{path}' but got "
            f"{quoted(cell)}."
        )
    return int(number) - first_epoch


def _checked(
    path: str | Path,
    fields: dict[str, NDArray[np.float64]],
    names: list[str],
    metric_mode: Mode,
    final_mode: Mode | None,
) -> LearningCurves:
    train_loss = fields.pop("train_loss")
    try:
        return LearningCurves(
            train_loss,
            **fields,  # type: ignore[arg-type]  # names of array fields only
            metric_mode=metric_mode,
            final_mode=final_mode,
            run_ids=names,
        )
    except ValueError as error:
        raise ValueError(f"'{path}' does not hold learning curves. {error}") from None
