"""Writer of a run's record `sotl.jsonl`, which only ever appends lines."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from lightning_sotl._utils.files import open_regular
from lightning_sotl.record.format import SCHEMA, header_time, parsed_lines, plain


class RunRecord:
    """Writer of one record file.

    Each process begins with a header (`schema`, `run_id`, ...). A resumed run keeps its `run_id`.
    Each completed unit adds a line `{"e", "loss", "steps", "checkpoint"}`, and its validation adds
    a second line with "metrics". Each change of status adds a line `{"status", ...}`. If an `e` is
    repeated under the same `run_id`, the last line counts. Losses are float64, and JSON keeps all
    their digits. A loss that is not finite is null.

    A line belongs to the header above it. The header is repeated after a failed write, and after
    lines of another process.

    Args:
        path: The file. The first line creates it and its folder.

    Attributes:
        path: The file.
        is_shared: Whether another process also writes to the file.
        begun: The `time` in the header, even if it could not be written; `-inf` without a header.

    Raises:
        OSError: From each method, if the file cannot be read or written.
        UnreadableFileError: From each method, if it is not a regular file, or is too large.

    Examples:
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
        self._end = -1  # where our last line ends, or -1; other processes wrote what follows

    def header(self, run_id: str, *, after: float = -math.inf, **facts: Any) -> float:
        """Write what makes this run comparable with others, and return the header's `time`.

        The time orders the processes of a run. It is later than `after` and all times in the file,
        even if the clock was set back. A repeated header keeps its time.
        """
        if self._header is None:
            headers = (line for line in self._lines() if line and "run_id" in line)
            known = [after, *map(header_time, headers)]
            self.begun = max(time.time(), math.nextafter(max(known), math.inf))
        self._header = {"schema": SCHEMA, "run_id": run_id, "time": self.begun, **facts}
        self._append(self._header)
        return self.begun

    def unit(
        self,
        unit: int,
        loss: float,
        steps: int,
        checkpoint: str | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Write a completed unit: L(e), and how many steps returned a loss.

        The line also has the checkpoint and the validation metrics that followed, if any.
        """
        line = {"e": unit, "loss": loss, "steps": steps, "checkpoint": checkpoint}
        self._append({**line, "metrics": metrics} if metrics else line)

    def status(self, status: str, **facts: Any) -> None:
        """Write that the run was stopped, finished, interrupted or paused, and why."""
        self._append({"status": status, "time": time.time(), **facts})

    def units_of(self, run_id: str) -> dict[int, float | None]:
        """Return the units of a run in the file: e -> its loss.

        If a line changes the loss of epoch e, later epochs are dropped: they belong to a run that
        was rewound, as `record.lineage.merge_sessions` reads it.
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
        text = _to_json(line)
        # With a single write, a kill leaves at most the last line incomplete.
        with open_regular(self.path, appends=True) as file:
            _lock(file)
            end = file.seek(0, 2)
            if end != self._end:
                self.is_shared |= 0 <= self._end < end
                if self._header is not None and self._header is not line:
                    text = _to_json(self._header) + text
                if _ends_in_half_a_line(file, end):
                    text = b"\n" + text
            self._end = -1  # a full disk may cut the line
            file.write(text)
        self._end = end + len(text)


def _lock(file: BinaryIO) -> None:
    """Lock `file` until it is closed, if the file system has locks. Wait at most 20 ms.

    A process that was suspended while it wrote must not block the training of others.
    """
    if sys.platform == "win32":
        return
    import fcntl

    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # this file system has no locks
            return
        else:
            return


def _to_json(line: dict[str, Any]) -> bytes:
    return json.dumps(plain(line), allow_nan=False).encode() + b"\n"


def _ends_in_half_a_line(file: BinaryIO, end: int) -> bool:
    if end == 0:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"
