"""Cells of a CSV that holds a table: its header, the columns that are read, a number in each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_sotl._reading import MOST_LINE_BYTES, TextLines
from lightning_sotl._wording import listed, quoted, visible
from lightning_sotl.curves.logged import MOST_ENTRIES

# All 15,625 architectures of NAS-Bench-201 over 200 epochs, a row each, take 0.2 GB.
MOST_TABLE_BYTES = 2**30
MOST_CELLS = MOST_ENTRIES


class Row(NamedTuple):
    """One row of a table, of which there may be millions.

    Attributes:
        path: The file.
        line: Where in it the row ends, the first line is 1.
        cells: Column -> what stands there, of the columns that are read.
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

        Example:
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
        ValueError: If it cannot be read as CSV, or if a column stands there twice.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{visible(str(path))}'.")
    header = next(_lines(path), (0, []))[1]
    repeated = sorted(column for column, times in Counter(header).items() if times > 1)
    if repeated:
        raise ValueError(f"Expected '{path}' to have no column twice but got {listed(repeated)}.")
    return header


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows below the header, at least one, with some of their columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as CSV or is too large, if a column is missing or stands
            there twice, or if a row has not as many cells as the header.
    """
    header = read_header(path)
    missing = sorted(set(columns) - set(header), key=columns.index)
    if missing:
        raise ValueError(
            f"Expected '{path}' to have the columns {listed(missing)} but it has {listed(header)}."
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
