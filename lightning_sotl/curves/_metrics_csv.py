"""Reads the `metrics.csv` that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from lightning_sotl._utils.files import MOST_LOG_BYTES, TextLines
from lightning_sotl._utils.text import quote_all
from lightning_sotl.curves._log_values import Logged, epoch_of, step_of
from lightning_sotl.curves._nan_cells import BLANKS, NanCells
from lightning_sotl.curves._timeline import Timeline

FILE = "metrics.csv"
_AXES = ("epoch", "step")
# How other programs than CSVLogger write a missing value or NaN.
_NO_VALUES = BLANKS | {name.upper() for name in BLANKS} | {"None", "nan", "NaN", "NAN"}

Number = TypeVar("Number", bound=float)


def read_csv_log(path: Path, wanted: Collection[str]) -> Logged:
    """Return the values of the wanted columns, each with the epoch of its row.

    A blank cell has no value. Neither does a NaN that another program wrote in place of a blank. An
    incomplete last line is left out and counted, because its last number may be cut off. So is a
    line that is too long. Values that a resumed training logged again are replaced.

    Args:
        path: The `metrics.csv`.
        wanted: The columns to keep.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a regular file, is too large, or has a wanted column twice.
    """
    logged = Logged(wanted)
    lines = TextLines(path, most=MOST_LOG_BYTES)
    rows = _rows(_complete_lines(lines, logged), logged)
    header = next(filter(None, rows), [])
    if logged.unreadable or lines.too_long:  # the first readable row is not the header
        logged.unreadable += lines.too_long
        return logged
    logged.keys = {name for name in header if name not in _AXES}
    repeated = [name for name, times in Counter(header).items() if times > 1 and name in wanted]
    if repeated:
        raise ValueError(
            f"Expected the columns of '{path}' to be unique but got {quote_all(repeated)} twice."
        )
    table = _Table(path, header, logged)
    for row in rows:
        if len(row) == len(header):
            table.add(row)
        elif row:  # not a blank line
            logged.unreadable += 1
    table.close()
    logged.unreadable += lines.too_long
    return logged


class _Table:
    """Passes the rows of a `metrics.csv` to a timeline."""

    def __init__(self, path: Path, header: list[str], logged: Logged) -> None:
        places = list(enumerate(header))
        self._logged = logged
        self._columns = [(place, name) for place, name in places if name in logged.wanted]
        self._others = [
            (place, name) for place, name in places if name in logged.keys - set(logged.wanted)
        ]
        self._epoch_place, self._step_place = (
            header.index(axis) if axis in header else None for axis in _AXES
        )
        self._timeline = Timeline(logged.wanted)
        self._all = [*self._columns, *self._others]
        has_blanks = partial(_has_blanks, path, self._all, len(header))
        self._nan_cells = NanCells(has_blanks, len(logged.keys))

    def add(self, row: list[str]) -> None:
        """Add a row."""
        numbers: dict[str, float] = {}
        nans: list[str] = []
        for place, name in self._columns:
            text = row[place]
            if text and text.strip().lower() not in BLANKS:
                number = self._number(name, text)
                if number is not None and math.isnan(number):
                    nans.append(name)
                elif number is not None:
                    numbers[name] = number
        others = [name for place, name in self._others if row[place] not in _NO_VALUES]
        epoch = _axis(row, self._epoch_place, epoch_of)
        step = _axis(row, self._step_place, step_of)
        cells = self._nan_cells
        if cells.are_values is None and "" in row and _has_blank(row, self._all):
            cells.are_values = True
        if nans or not cells.are_values:
            for late in cells.decided_before(epoch):
                self._timeline.add(*late)
            numbers.update(cells.values(epoch, step, [*numbers, *others], nans))
        self._timeline.add(epoch, step, numbers, others)

    def close(self) -> None:
        """Put all values into `logged`."""
        for late in self._nan_cells.decided_before(None):
            self._timeline.add(*late)
        self._timeline.fill(self._logged)
        self._logged.doubtful.update(self._nan_cells.doubtful)

    def _number(self, name: str, text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            self._logged.unreadable += 1
            self._logged.not_numbers.setdefault(name, text)
            return None


def _has_blanks(path: Path, columns: list[tuple[int, str]], width: int) -> bool:
    """Return whether a file has a blank cell, which CSVLogger writes for a missing value."""
    ignored = Logged(())
    lines = _complete_lines(TextLines(path, most=MOST_LOG_BYTES), ignored)
    rows = (row for row in _rows(lines, ignored) if len(row) == width)
    return any(_has_blank(row, columns) for row in rows)


def _has_blank(row: list[str], columns: list[tuple[int, str]]) -> bool:
    return any(not row[place] for place, _ in columns)


def _complete_lines(lines: Iterable[str], logged: Logged) -> Iterator[str]:
    for line in lines:
        if line.endswith(("\n", "\r")):
            yield line
        else:
            logged.unreadable += 1


def _rows(lines: Iterator[str], logged: Logged) -> Iterator[list[str]]:
    rows = csv.reader(lines)
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:  # a cell without an end, for example after a lost quote
            logged.unreadable += 1


def _axis(
    row: list[str], place: int | None, to_axis: Callable[[float], Number | None]
) -> Number | None:
    if place is None:
        return None
    try:
        return to_axis(float(row[place]))
    except ValueError:
        return None
