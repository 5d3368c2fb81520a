"""Reader of the `metrics.csv` that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from lightning_sotl._utils.files import MOST_LOG_BYTES, TextLines
from lightning_sotl._utils.text import quote_all
from lightning_sotl.curves._log_values import Logged, epoch_of

FILE = "metrics.csv"
_AXES = ("epoch", "step")


def read_csv_log(path: Path, wanted: Collection[str]) -> Logged:
    """Return the values of the wanted columns, each with the epoch of its row.

    A blank cell is no value. An incomplete last line is left out and counted, since its last number
    may be cut off. So is a line that is too long for a row.

    Args:
        path: The `metrics.csv`.
        wanted: The columns to keep.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no regular file, is too large, or has a wanted column twice.
    """
    logged = Logged(wanted)
    lines = TextLines(path, most=MOST_LOG_BYTES)
    rows = _rows(_complete_lines(lines, logged), logged)
    header = next(rows, [])
    if logged.unreadable or lines.too_long:  # the first row that can be read is not the header
        logged.unreadable += lines.too_long
        return logged
    logged.keys = {name for name in header if name not in _AXES}
    columns = [(place, name) for place, name in enumerate(header) if name in wanted]
    repeated = [name for name, times in Counter(name for _, name in columns).items() if times > 1]
    if repeated:
        raise ValueError(
            f"Expected '{path}' to have no column twice but got {quote_all(repeated)}."
        )
    epoch_place = header.index("epoch") if "epoch" in header else None
    for row in rows:
        if len(row) != len(header):
            logged.unreadable += 1
            continue
        epoch = _epoch(row, epoch_place)
        for place, name in columns:
            if row[place]:
                _add(logged, name, epoch, row[place])
    logged.unreadable += lines.too_long
    return logged


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
        except csv.Error:  # an endless cell, for example after a lost quote
            logged.unreadable += 1


def _add(logged: Logged, name: str, epoch: int | None, text: str) -> None:
    try:
        number = float(text)
    except ValueError:
        logged.unreadable += 1
        logged.not_numbers.setdefault(name, text)
    else:
        logged.add(name, epoch, number)


def _epoch(row: list[str], place: int | None) -> int | None:
    if place is None:
        return None
    try:
        return epoch_of(float(row[place]))
    except ValueError:
        return None
