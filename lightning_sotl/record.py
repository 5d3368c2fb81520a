"""The run's record `sotl.jsonl`: what logs lose, one JSON document a line, only ever appended."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

SCHEMA = 1


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

    Lines belong to the header above them. Where another process has written in between, the header
    is written once more.

    Args:
        path: The file; it and its folder are made when the first line is written.

    Attributes:
        path: The same.
        is_shared: Whether another process has been found to write into the file too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_shared = False
        self._header: dict[str, Any] | None = None
        self._end = -1  # where our last line ends; what lies behind it is not ours

    def header(self, run_id: str, *, after: float = -math.inf, **facts: Any) -> float:
        """Write what makes this run comparable with others, and return the `time` in it.

        It orders the processes of a run, so it is later than `after` and than those of the file,
        even if the clock was set back.
        """
        headers = (line for line in parsed_lines(self.path) if line and "run_id" in line)
        known = [after, *map(header_time, headers)]
        now = max(time.time(), math.nextafter(max(known), math.inf))
        self._header = {"schema": SCHEMA, "run_id": run_id, "time": now, **facts}
        self._append(self._header)
        return now

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
        for line in parsed_lines(self.path):
            if line is None:
                current = None
                continue
            current = line.get("run_id", current)
            if current == run_id and isinstance(line.get("e"), int) and "loss" in line:
                units[line["e"]] = line["loss"]
        return units

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = _document(line)
        # One write a line: a kill leaves at most the last line incomplete.
        with self.path.open("a+b") as file:
            _lock(file)
            end = file.seek(0, 2)
            if end != self._end:
                if self._end >= 0 and self._header is not None:
                    self.is_shared |= end > self._end
                    text = _document(self._header) + text
                if _ends_in_half_a_line(file, end):
                    text = b"\n" + text
            file.write(text)
        self._end = end + len(text)


def parsed_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a record that is there.

    Of those that cannot be read it yields an empty document, and None for one that may have been a
    header: whose the lines below it are is not known.
    """
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if text.strip():
            line = _parsed(text)
            yield line if line or text.startswith(_BELOW_A_HEADER) else None


_BELOW_A_HEADER = ('{"e"', '{"status"')


def header_time(line: Mapping[str, Any]) -> float:
    """Return when a header says that it was written; `-inf` where it does not say."""
    when = line.get("time")
    return float(when) if isinstance(when, (int, float)) and abs(when) < 1e18 else -math.inf


def _parsed(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def _document(line: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(line), allow_nan=False).encode() + b"\n"


def _lock(file: BinaryIO) -> None:
    """Keep other writers out until `file` is closed, where the file system can; never wait long.

    A process that was stopped while it wrote must not stop the training of others.
    """
    if sys.platform == "win32":
        return
    import fcntl

    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # no locks on this file system
            return
        else:
            return


def _ends_in_half_a_line(file: BinaryIO, end: int) -> bool:
    if end == 0:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: non-finite numbers null, unknown objects their repr."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return repr(value)
