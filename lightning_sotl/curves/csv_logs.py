"""Reader of the `metrics.csv` that Lightning's CSVLogger writes."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from lightning_sotl.curves.logged import MOST_UNITS, Logged

FILE = "metrics.csv"
_AXES = ("epoch", "step")


def read_csv_log(path: Path, wanted: Collection[str]) -> Logged:
    """Return the values of the wanted columns, each placed on the epoch of its row.

    A blank cell is no value. A last line without its end is left out and counted: the number at
    its end may be cut.

    Args:
        path: The `metrics.csv`.
        wanted: The columns to keep.

    Raises:
        ValueError: If a column that was asked for stands there twice.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = text.splitlines()
    logged = Logged(wanted)
    if lines and not text.endswith(("\n", "\r")):
        lines.pop()
        logged.unreadable += 1
    rows = csv.reader(lines)
    header = next(rows, [])
    logged.keys = {name for name in header if name not in _AXES}
    columns = [(place, name) for place, name in enumerate(header) if name in wanted]
    if len({name for _, name in columns}) < len(columns):
        raise ValueError(f"Expected '{path}' to have no column twice but got {header!r}.")
    epoch_place = header.index("epoch") if "epoch" in header else None
    for row in _readable(rows, logged):
        if len(row) != len(header):
            logged.unreadable += 1
            continue
        epoch = _epoch(row, epoch_place)
        for place, name in columns:
            if row[place]:
                _take(logged, name, epoch, row[place])
    return logged


def _readable(rows: Iterator[list[str]], logged: Logged) -> Iterator[list[str]]:
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:  # a cell without an end, as of a lost quote
            logged.unreadable += 1


def _take(logged: Logged, name: str, epoch: int | None, text: str) -> None:
    try:
        logged.add(name, epoch, float(text))
    except ValueError:
        logged.unreadable += 1


def _epoch(row: list[str], place: int | None) -> int | None:
    if place is None:
        return None
    try:
        number = float(row[place])
    except ValueError:
        return None
    return int(number) if number.is_integer() and 0 <= number < MOST_UNITS else None
