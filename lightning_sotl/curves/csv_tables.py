"""Readers of learning curves in one CSV: wide (a row a run) or long (a row a run and epoch)."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.files import MOST_LINE_BYTES, TextLines
from lightning_sotl._utils.text import quote_all, quoted, visible
from lightning_sotl.curves._log_values import MOST_ENTRIES, check_table_size
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.ranks import Mode, check_mode

# All 15,625 architectures of NAS-Bench-201 over 200 epochs, a row each, take 0.2 GB.
MOST_TABLE_BYTES = 2**30


MOST_CELLS = MOST_ENTRIES


class Row(NamedTuple):
    """One row of a table; a table may have millions.

    Attributes:
        path: The file.
        line: Where in it the row ends, the first line is 1.
        cells: Column -> its text, for the columns that are read.
    """

    path: Path
    line: int
    cells: dict[str, str]

    def has(self, column: str) -> bool:
        """Return whether a cell is not blank."""
        return bool(self.cells[column].strip())

    def number(self, column: str) -> float:
        """Return the number in a cell; NaN if it is blank.

        Raises:
            ValueError: If it is no number.

        Examples:
            >>> row = Row(Path("x.csv"), 2, {"loss": "0.5", "accuracy": " "})
            >>> row.number("loss"), row.number("accuracy")
            (0.5, nan)
        """
        try:
            return float(self.cells[column])
        except ValueError:
            if not self.has(column):
                return float("nan")
            raise ValueError(
                f"Expected a number in line {self.line}, column {column!r} of '{self.path}' but "
                f"got {quoted(self.cells[column])}."
            ) from None


def read_header(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as CSV, or if it has a column twice.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{visible(str(path))}'.")
    header = next(_lines(path), (0, []))[1]
    repeated = sorted(column for column, times in Counter(header).items() if times > 1)
    if repeated:
        raise ValueError(
            f"Expected '{path}' to have no column twice but got {quote_all(repeated)}."
        )
    return header


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows below the header, at least one, with some of their columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as CSV or is too large, if a column is missing or there
            twice, or if a row has another number of cells than the header.
    """
    header = read_header(path)
    missing = sorted(set(columns) - set(header), key=columns.index)
    if missing:
        raise ValueError(
            f"Expected '{path}' to have the columns {quote_all(missing)} but it has "
            f"{quote_all(header)}."
        )
    read = set(columns)
    kept = [(place, name) for place, name in enumerate(header) if name in read]
    lines = _lines(path)
    next(lines)
    rows: list[Row] = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"Expected line {line} of '{path}' to have {len(header)} cells, as the header has, "
                f"but got {len(cells)}."
            )
        rows.append(Row(path, line, {name: cells[place] for place, name in kept}))
        if len(rows) * len(kept) > MOST_CELLS:
            raise ValueError(
                f"Expected '{path}' to have at most {MOST_CELLS:,} cells in the columns that are "
                "read but it has more."
            )
    if not rows:
        raise ValueError(f"Expected '{path}' to have at least one row below the header.")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not blank."""
    reader = csv.reader(_short_lines(path))
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:  # a cell without an end, as of a lost quote
        raise ValueError(f"'{path}' cannot be read as CSV: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected '{path}' to be in UTF-8: {error}.") from None


def _short_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file; one that would be passed over as too long is refused."""
    lines = TextLines(path, most=MOST_TABLE_BYTES, errors="strict")
    for line in lines:
        _check_length(lines, path)
        yield line
    _check_length(lines, path)  # of the last ones, behind which none came


def _check_length(lines: TextLines, path: Path) -> None:
    if lines.too_long:
        raise ValueError(
            f"Expected '{path}' to have lines of at most {MOST_LINE_BYTES:,} bytes but one has "
            "more."
        )


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
    r"""Read a CSV with one row for each run and epoch.

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
        ValueError: If a column is missing, a cell is no number, a run has an epoch twice, or the
            smallest epoch is 1 and `first_epoch` is 0.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x.csv"
        >>> _ = path.write_text("run,epoch,train_loss\na,0,2\nb,0,3\na,1,1\n")
        >>> read_long_csv(path).train_loss.tolist()
        [[2.0, 1.0], [3.0, nan]]
    """
    path = Path(path)
    _check_modes(metric_mode, final_mode)
    if first_epoch not in (0, 1):
        raise ValueError(f"Expected `first_epoch` to be 0 or 1 but got {first_epoch!r}.")
    curves = _given(train_loss=train_loss, val_loss=val_loss, val_metric=val_metric)
    finals = _given(final_metric=final_metric, final_loss=final_loss)
    rows = read_rows(path, [run, epoch, *curves.values(), *finals.values(), *features])
    names = list(dict.fromkeys(row.cells[run] for row in rows))
    places = {name: place for place, name in enumerate(names)}
    runs = [places[row.cells[run]] for row in rows]
    epochs = [_epoch(row, epoch, first_epoch) for row in rows]
    if min(epochs) == 1 and first_epoch == 0:
        raise ValueError(
            f"Expected the epochs in column {epoch!r} of '{path}' to count from 0 but the smallest "
            "is 1; `first_epoch=1` reads epochs that count from 1."
        )
    shape = (len(names), max(epochs) + 1)
    check_table_size(path, *shape, names[runs[epochs.index(max(epochs))]])
    _check_once(rows, runs, epochs, run, epoch)
    fields: dict[str, NDArray[np.float64]] = {}
    for name, column in curves.items():
        fields[name] = np.full(shape, np.nan)
        fields[name][runs, epochs] = [row.number(column) for row in rows]
    for name, column in finals.items():
        fields[name] = _last_values(rows, runs, column)
    if features:
        fields["features"] = np.stack([_last_values(rows, runs, one) for one in features], axis=1)
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
    r"""Read a CSV with one row for each run and one column for each epoch of a curve.

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
        ValueError: If a column is missing, a cell is no number, or a run is there twice.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x.csv"
        >>> _ = path.write_text("run,train_loss_1,train_loss_2\na,2,1\nb,3,\n")
        >>> read_wide_csv(path).train_loss.tolist()
        [[2.0, 1.0], [3.0, nan]]
    """
    path = Path(path)
    _check_modes(metric_mode, final_mode)
    header = read_header(path)
    curves = {
        name: _epoch_columns(path, header, pattern)
        for name, pattern in _given(
            train_loss=train_loss, val_loss=val_loss, val_metric=val_metric
        ).items()
    }
    finals = _given(final_metric=final_metric, final_loss=final_loss)
    others = [*([] if run is None else [run]), *finals.values(), *features]
    rows = read_rows(
        path, [*others, *(column for columns in curves.values() for column in columns)]
    )
    check_table_size(path, len(rows), 1, "it")
    fields = {name: _columns(rows, columns) for name, columns in curves.items()}
    for name, column in finals.items():
        fields[name] = _columns(rows, [column])[:, 0]
    if features:
        fields["features"] = _columns(rows, features)
    numbered = [str(place) for place in range(len(rows))]
    names = numbered if run is None else [row.cells[run] for row in rows]
    return _checked(path, fields, names, metric_mode, final_mode)


def _check_modes(metric_mode: Mode, final_mode: Mode | None) -> None:
    """Raise before anything is read: what is wrong is not the file."""
    check_mode("metric_mode", metric_mode)
    if final_mode is not None:
        check_mode("final_mode", final_mode)


def _given(**columns: str | None) -> dict[str, str]:
    """Return field -> its column, of the fields that are asked for."""
    return {field: column for field, column in columns.items() if column is not None}


def _epoch(row: Row, column: str, first_epoch: int) -> int:
    """Return the epoch that a row is of, counted from 0."""
    try:
        number = row.number(column)
    except ValueError:
        number = float("nan")
    if not number.is_integer() or number < first_epoch:
        raise ValueError(
            f"Expected an epoch from {first_epoch} on in line {row.line} of '{row.path}' but got "
            f"{quoted(row.cells[column])}."
        )
    return int(number) - first_epoch


def _check_once(rows: list[Row], runs: list[int], epochs: list[int], run: str, epoch: str) -> None:
    """Raise if a run has an epoch twice."""
    seen: set[tuple[int, int]] = set()
    for row, key in zip(rows, zip(runs, epochs, strict=True), strict=True):
        if key in seen:
            raise ValueError(
                f"Expected '{row.path}' to have each epoch of a run once, but line {row.line} has "
                f"epoch {int(row.number(epoch))} of run {quoted(row.cells[run])} again."
            )
        seen.add(key)


def _last_values(rows: list[Row], runs: list[int], column: str) -> NDArray[np.float64]:
    """Return of each run the last number that a column has for it, shape `(runs,)`."""
    values = np.full(max(runs) + 1, np.nan)
    for row, place in zip(rows, runs, strict=True):
        if row.has(column):
            values[place] = row.number(column)
    return values


def _epoch_columns(path: Path, header: list[str], pattern: str) -> list[str]:
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
            f"{quote_all(sorted(found))} of them, in columns {quote_all(header)}."
        )
    if min(found) > 1:
        raise ValueError(
            f"Expected the columns {pattern!r} of '{path}' to begin with epoch 0 or 1 but got "
            f"{min(found)}."
        )
    return [found[epoch] for epoch in sorted(found)]


def _columns(rows: list[Row], columns: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[row.number(column) for column in columns] for row in rows])


def _checked(
    path: Path,
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
