"""The run's record `sotl.jsonl`: what logs lose, one JSON document a line, only ever appended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lightning_sotl._reading import MOST_RECORD_BYTES, TextLines, open_regular

SCHEMA = 1
# Python gives up at about 1,000 levels, in whichever function comes first.
MOST_NESTED = 100


def file_name(prefix: str) -> str:
    """Return the name of the record of a monitor, from which its prefix can be told.

    Example:
        >>> file_name("sotl"), file_name("train/sotl")
        ('sotl.jsonl', 'train%2Fsotl.jsonl')
    """
    return f"{quote(prefix, safe='')}.jsonl"


class RunRecord:
    """Writer of one record file.

    The first line of each process that writes is a header (`schema`, `run_id`, ...); a run that
    resumes into the same directory writes its header again, with the same `run_id`. Then comes
    one line a completed unit, `{"e", "loss", "steps", "checkpoint"}`, and a line a change of
    status, `{"status", ...}`. For an `e` that stands twice under one `run_id` the last line wins.
    Losses are float64 (JSON keeps all digits); a loss that is not finite is null.

    Args:
        path: The file; it and its folder are made when the first line is written.

    Raises:
        OSError: From each of its methods, if the file cannot be read or written.
        UnreadableFileError: The same, if it is no regular file, or too large.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = False

    def header(self, run_id: str, **facts: Any) -> None:
        """Write what makes this run comparable with others."""
        self._append({"schema": SCHEMA, "run_id": run_id, "time": time.time(), **facts})

    def unit(self, unit: int, loss: float, steps: int, checkpoint: str | None = None) -> None:
        """Write a completed unit: its L(e), the number of its losses, and a checkpoint after it."""
        self._append({"e": unit, "loss": loss, "steps": steps, "checkpoint": checkpoint})

    def status(self, status: str, **facts: Any) -> None:
        """Write that the run was stopped, finished or interrupted, and why."""
        self._append({"status": status, "time": time.time(), **facts})

    def units_of(self, run_id: str) -> dict[int, float | None]:
        """Return e -> loss of the units that the file already holds of a run."""
        units: dict[int, float | None] = {}
        current = None
        texts = TextLines(self.path, most=MOST_RECORD_BYTES) if self.path.exists() else ()
        for line in map(parse_line, texts):
            current = line.get("run_id", current)
            unit = line.get("e")
            if current == run_id and isinstance(unit, int) and "loss" in line:
                units[unit] = line["loss"]
        return units

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(plain(line), allow_nan=False) + "\n"
        if not self._started:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if _ends_in_half_a_line(self.path):
                text = "\n" + text
        self._started = False  # a full disk may take half of the line
        # One write a line: a kill leaves at most the last line incomplete.
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self._started = True


def parse_line(text: str) -> dict[str, Any]:
    """Return the document in one line; of a line that holds none, as a kill leaves it, nothing.

    Example:
        >>> parse_line('{"e": 0, "loss": 1.5}'), parse_line('{"e": 0, "lo')
        ({'e': 0, 'loss': 1.5}, {})
    """
    line = parse_json(text)
    return line if isinstance(line, dict) else {}


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds, or None if it is none, or nested too deep to be walked.

    Args:
        text: Of a file that anyone may have written.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level, depth = [value], 0
    while level:
        if depth > MOST_NESTED:
            return None
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return value


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.exists():
        return False
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read() not in (b"", b"\n")


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: non-finite numbers null, unknown objects their repr."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return repr(value)
