"""Readers of `.csv` and `.parquet` files with a row for each run and epoch."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.extras import require
from lightning_sotl._utils.files import MOST_LINE_BYTES, TextLines, open_regular, parse_json
from lightning_sotl._utils.text import quoted, shortened, visible
from lightning_sotl.curves._log_values import MOST_ENTRIES
from lightning_sotl.curves.frames import (
    CURVES,
    FINALS,
    MARK,
    Cells,
    TableColumns,
    check_columns,
    read_cells,
    read_frame,
)
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.ranks import Mode

SUFFIXES = (".csv", ".parquet")
# A CSV of 15,625 runs of 200 epochs, such as NAS-Bench-201, has 0.2 GB.
MOST_TABLE_BYTES = 2**30
# Python needs about 100 bytes for the text of a cell.
MOST_CELLS = MOST_ENTRIES


@dataclass(frozen=True)
class TableFile:
    """The content of a table file.

    Attributes:
        curves: The curves.
        others: Column -> its value after each epoch, shape `(runs, epochs)`.
        notes: Sentences on missing losses and on values that were left out.
    """

    curves: LearningCurves
    others: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_table_file(
    path: str | Path,
    columns: TableColumns,
    *,
    metric_mode: Mode | None = None,
    final_mode: Mode | None = None,
) -> TableFile:
    """Return the curves in a table by the rules of `LearningCurves.from_frame`.

    A CSV file needs no pandas. A blank cell in it is a missing value.

    Args:
        path: A file that ends in ".parquet", or else a CSV file with a header.
        columns: The columns to read.
        metric_mode: "max" if a higher validation metric is better, "min" if a lower one is. None
            for "max", or for the mode that `LearningCurves.to_frame` stored in a Parquet file.
        final_mode: The same for the target. None uses `metric_mode`, or the stored mode.

    Raises:
        FileNotFoundError: If the file does not exist.
        ModuleNotFoundError: If it is a Parquet file, and pandas or pyarrow is not installed.
        ValueError: If the file is damaged or too large, if a line of a CSV file has another number
            of cells than the header, or if `from_frame` refuses the table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{visible(str(path))}'.")
    label = f"'{path}'"
    if path.suffix.lower() == ".parquet":
        arrays = read_frame(_read_parquet(path, columns.all), columns, label=label)
    else:
        arrays = read_cells(_read_csv(path, columns.all), columns)
    try:
        curves = LearningCurves(**arrays.arguments(metric_mode, final_mode))
    except ValueError as error:  # a mode that another program stored
        raise ValueError(f"{label} does not hold learning curves. {error}") from None
    return TableFile(curves, arrays.others, arrays.notes)


def _read_csv(path: Path, columns: list[str]) -> Cells:
    """Return columns of a CSV file.

    The standard library reads it. pandas would rename a repeated column, fill a short row, and
    take the runs "1" and "01" for one.
    """
    lines = _csv_lines(path)
    header = next(lines, (0, []))[1]
    check_columns(columns, header, f"'{path}'")
    places = [header.index(name) for name in columns]
    rows, numbers = [], []
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"Expected line {number} of '{path}' to have {len(header)} cells, as the header "
                f"has, but got {len(cells)}."
            )
        numbers.append(number)
        rows.append([cells[place] for place in places])
        _check_size(path, len(rows), len(columns))
    texts = zip(*rows, strict=True) if rows else [()] * len(columns)
    return Cells(
        f"'{path}'",
        {
            name: np.array([cell if cell.strip() else None for cell in text], dtype=object)
            for name, text in zip(columns, texts, strict=True)
        },
        row_name=lambda row: f"line {numbers[row]}",
    )


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not blank."""
    reader = csv.reader(_short_lines(path))
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:  # for example, a quote without its end
        raise ValueError(f"'{path}' cannot be read as CSV: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected '{path}' to be in UTF-8: {error}.") from None


def _short_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, and raise if one was skipped as too long."""
    lines = TextLines(path, most=MOST_TABLE_BYTES, errors="strict")
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


def _check_size(path: Path, rows: int, columns: int) -> None:
    if rows * columns > MOST_CELLS:
        raise ValueError(
            f"Expected '{path}' to have at most {MOST_CELLS:,} cells in the columns that are "
            "read but it has more."
        )


def _read_parquet(path: Path, columns: list[str]) -> Any:
    """Return columns of a Parquet file as a data frame with the mark of `to_frame`, if it has it.

    The metadata of pandas are ignored otherwise, so the levels of an index are columns too.
    """
    purpose = "read a Parquet file"
    require("pandas", extra="frames", purpose=purpose)
    arrow = require("pyarrow", extra="frames", purpose=purpose)
    parquet = require("pyarrow.parquet", extra="frames", purpose=purpose)
    with open_regular(path, most=MOST_TABLE_BYTES) as file:
        with _parquet_errors(path):
            opened = parquet.ParquetFile(file)
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
        stored = parse_json((schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
        mark = stored.get(MARK) if isinstance(stored, dict) else None
        if mark is not None:
            columns = [*columns, *(name for name in (*CURVES, *FINALS) if name in schema.names)]
            columns = list(dict.fromkeys(columns))
        check_columns(columns, schema.names, f"'{path}'")
        types = {name: schema.field(name).type for name in columns}
        for name, kind in types.items():
            if arrow.types.is_nested(kind) or isinstance(kind, arrow.BaseExtensionType):
                raise ValueError(
                    f"Expected column {quoted(name)} of '{path}' to have numbers or text but got "
                    f"the type {shortened(str(kind))}."
                )
        _check_size(path, rows, len(columns))
        # A small file may repeat a long text a million times, so text stays in a dictionary.
        texts = [name for name, kind in types.items() if not arrow.types.is_primitive(kind)]
        with _parquet_errors(path):
            opened = parquet.ParquetFile(file, read_dictionary=texts)
            frame = opened.read(columns=columns).to_pandas(ignore_metadata=True)[columns]
    frame.attrs = {} if mark is None else {MARK: mark}
    return frame


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # PyArrow raises errors of many classes for a damaged file
        reason = shortened(str(error).partition("\n")[0])
        raise ValueError(f"'{path}' cannot be read as Parquet: {reason}.") from None
