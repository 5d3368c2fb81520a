"""The run's record `sotl.jsonl`: what logs lose, one JSON document a line, only ever appended."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from lightning_sotl._utils.files import (
    open_regular,
)
from lightning_sotl.record.format import SCHEMA, _document, header_time, parsed_lines


class RunRecord:
    """Writer of one record file.

    The first line of each process that writes is a header (`schema`, `run_id`, ...); a run that
    resumes into the same directory writes its header again, with the same `run_id`. Then comes
    one line a completed unit, `{"e", "loss", "steps", "checkpoint"}`, and a line a change of
    status, `{"status", ...}`. For an `e` that stands twice under one `run_id` the last line wins.
    Losses are float64 (JSON keeps all digits); a loss that is not finite is null.

    Lines belong to the header above them. Where another process has written in between, or a write
    has failed, the header is written once more.

    Args:
        path: The file; it and its folder are made when the first line is written.

    Attributes:
        path: The same.
        is_shared: Whether another process has been found to write into the file too.
        begun: The `time` of the header, also of one that could not be written; `-inf` before.

    Raises:
        OSError: From each of its methods, if the file cannot be read or written.
        UnreadableFileError: The same, if it is no regular file, or too large.

    Example:
        >>> import tempfile
        >>> record = RunRecord(Path(tempfile.mkdtemp()) / "sotl.jsonl")
        >>> _ = record.header("a1b2", loss_key="loss")
        >>> record.unit(0, 2.5, steps=4)
        >>> record.units_of("a1b2")
        {0: 2.5}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_shared = False
        self.begun = -math.inf
        self._header: dict[str, Any] | None = None
        self._end = -1  # where our last line ends, if that is known; what lies behind is not ours

    def header(self, run_id: str, *, after: float = -math.inf, **facts: Any) -> float:
        """Write what makes this run comparable with others, and return the `time` in it.

        It orders the processes of a run, so it is later than `after` and than those of the file,
        even if the clock was set back. Written again, as after a failure, it keeps its time: it is
        still the same process.
        """
        if self._header is None:
            headers = (line for line in self._lines() if line and "run_id" in line)
            known = [after, *map(header_time, headers)]
            self.begun = max(time.time(), math.nextafter(max(known), math.inf))
        self._header = {"schema": SCHEMA, "run_id": run_id, "time": self.begun, **facts}
        self._append(self._header)
        return self.begun

    def unit(self, unit: int, loss: float, steps: int, checkpoint: str | None = None) -> None:
        """Write a completed unit: its L(e), the number of its losses, and a checkpoint after it."""
        self._append({"e": unit, "loss": loss, "steps": steps, "checkpoint": checkpoint})

    def status(self, status: str, **facts: Any) -> None:
        """Write that the run was stopped, finished or interrupted, and why."""
        self._append({"status": status, "time": time.time(), **facts})

    def units_of(self, run_id: str) -> dict[int, float | None]:
        """Return e -> loss of the units that the file already holds of a run.

        Where a line contradicts an older one at e, what was trained behind that one is of another
        way and counts no more, as `curves.recorded_runs.merge_sessions` reads it.
        """
        units: dict[int, float | None] = {}
        current = None
        for line in self._lines():
            if line is None:
                current = None
                continue
            current = line.get("run_id", current)
            if current == run_id and isinstance(line.get("e"), int) and "loss" in line:
                unit, loss = line["e"], line["loss"]
                if units.get(unit, loss) != loss:
                    units = {known: old for known, old in units.items() if known < unit}
                units[unit] = loss
        return units

    def _lines(self) -> Iterable[dict[str, Any] | None]:
        return parsed_lines(self.path) if self.path.exists() else ()

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = _document(line)
        # One write a line: a kill leaves at most the last line incomplete.
        with open_regular(self.path, appends=True) as file:
            _lock(file)
            end = file.seek(0, 2)
            if end != self._end:
                self.is_shared |= 0 <= self._end < end
                if self._header is not None and self._header is not line:
                    text = _document(self._header) + text
                if _ends_in_half_a_line(file, end):
                    text = b"\n" + text
            self._end = -1  # a full disk may take half of the line
            file.write(text)
        self._end = end + len(text)


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
