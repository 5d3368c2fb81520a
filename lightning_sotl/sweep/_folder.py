"""Reads and writes the directory of a sweep: its settings, its candidates and its runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_sotl._utils.files import UnreadableFileError, is_gone, parse_json, write_whole
from lightning_sotl._utils.text import quoted
from lightning_sotl.policies.turns import Progress
from lightning_sotl.record.format import file_name
from lightning_sotl.record.lineage import RecordedRun, merge_sessions
from lightning_sotl.record.reader import read_record

SCHEMA = 1
_SETTINGS = "sweep.json"
_FAILURE = "set_aside.json"
ENDED = "-end.ckpt"  # ends the checkpoint name of a run that its stopper did not end


@dataclass(frozen=True)
class RunFolder:
    """The folder of one candidate.

    Attributes:
        run_id: The run's name, as `lightning-sotl rank` prints it.
        path: The folder.
        params: The candidate's dictionary.
    """

    run_id: str
    path: Path
    params: dict[str, Any]

    @property
    def failure(self) -> Path:
        """The file that marks a candidate as set aside."""
        return self.path / _FAILURE

    def lock(self) -> FileLock:
        """Return the lock that a process holds while it trains the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".turn.lock")

    def set_aside(self, trace: str) -> None:
        """Mark the candidate as set aside, and store the traceback of `train`."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"time": time.time(), "traceback": trace})
        write_whole(self.failure, content.encode())

    def checkpoints_except(self, kept: str | None) -> list[Path]:
        """Return the checkpoints of the run's pauses and its end, except `kept`."""
        found = sorted(self.path.glob("stopped-*.ckpt"))
        return [path for path in found if kept is None or path.name != Path(kept).name]


class SweepFolder:
    """Reads and writes the state of a sweep.

    Each run has a folder with its record and its newest checkpoint. The state of the sweep is
    computed from these files. `sweep.json` contains the settings and the candidates. It is always
    replaced as a whole, under a lock.

    Args:
        directory: The sweep's directory.
        settings: The settings that must be the same at each start, as JSON.
        prefix: The monitor's prefix, which is part of the records' file name.
        validation: The recorded metric to read, or None.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], *, prefix: str, validation: str | None
    ) -> None:
        self.directory = directory
        self._settings = settings
        self._max_epochs: int = settings["policy"]["max_epochs"]
        self._record = file_name(prefix)
        self._validation = validation
        self._read: dict[Path, tuple[tuple[int, int], RecordedRun | None]] = {}

    def start(self, candidates: Sequence[dict[str, Any]]) -> None:
        """Create or check the settings, add new candidates, and readmit those that were set aside.

        Raises:
            ValueError: If the directory has other settings. The message names both values.
            UnreadableFileError: If its `sweep.json` is damaged.
            OSError: If the directory cannot be written.
        """
        lock = FileLock(self.directory / ".sweep.lock")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise OSError(
                f"'{self.directory}' cannot be written: {error.strerror or error}."
            ) from error
        try:
            stored = self._load()
            if stored is None:
                stored = {"schema": SCHEMA, **self._settings, "candidates": []}
            for name, value in self._settings.items():
                if stored.get(name) != value:
                    raise ValueError(
                        f"Expected `{name}` to be {quoted(stored.get(name))}, as at the start of "
                        f"the sweep in '{self.directory}', but got {quoted(value)}. Use another "
                        "directory for another sweep."
                    )
            known = {identity(candidate): candidate for candidate in stored["candidates"]}
            before = len(known)
            for candidate in candidates:
                known.setdefault(identity(candidate), candidate)
            if len(known) > before:
                stored["candidates"] = list(known.values())
                content = json.dumps(stored, indent=1).encode() + b"\n"
                write_whole(self.directory / _SETTINGS, content)
        finally:
            lock.release()
        for run in self.runs():
            run.failure.unlink(missing_ok=True)

    def runs(self) -> list[RunFolder]:
        """Return the runs of all candidates, including those that another process added."""
        stored = self._load() or {"candidates": []}
        return [
            RunFolder(f"run_{number:03d}", self.directory / f"run_{number:03d}", params)
            for number, params in enumerate(stored["candidates"])
        ]

    def _load(self) -> dict[str, Any] | None:
        path = self.directory / _SETTINGS
        if not path.exists():
            return None
        stored = parse_json(path.read_bytes())
        candidates = stored.get("candidates") if isinstance(stored, dict) else None
        if (
            not isinstance(candidates, list)
            or not all(isinstance(candidate, dict) for candidate in candidates)
            or stored.get("schema") != SCHEMA
        ):
            raise UnreadableFileError(
                f"Expected '{path}' to hold the settings and candidates of a sweep in schema "
                f"{SCHEMA}, but the file is damaged or from a newer version of this package."
            )
        return dict(stored)

    def progress(self, run: RunFolder) -> Progress:
        """Return how far a run has trained, from its record."""
        recorded, set_aside = self.recorded(run), run.failure.exists()
        if recorded is None:
            return Progress(set_aside=set_aside)
        # A turn is complete once the record names its checkpoint. Whether the run has ended must
        # not depend on later lines, because the process may be killed before it writes them.
        epochs, ended = 0, False
        if recorded.checkpoints:
            newest = max(recorded.checkpoints)
            epochs = newest + 1
            ended = (
                epochs >= self._max_epochs
                or not math.isfinite(recorded.losses.get(newest, 0.0))
                or recorded.checkpoints[newest].endswith(ENDED)
            )
        start, _ = self.checkpoint(run)
        return Progress(
            epochs,
            ended=ended,
            can_resume=epochs == 0 or start > 0,
            set_aside=set_aside,
            losses=recorded.losses,
            validations={
                epoch: metrics[self._validation]
                for epoch, metrics in recorded.metrics.items()
                if self._validation in metrics
            },
        )

    def recorded(self, run: RunFolder) -> RecordedRun | None:
        """Return the newest run in a folder's record, or None if it has no L(e)."""
        path = run.path / self._record
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = (stat.st_size, stat.st_mtime_ns)
        if path not in self._read or self._read[path][0] != stamp:
            trained = [each for each in merge_sessions(read_record(path)[0]) if each.losses]
            self._read[path] = (stamp, trained[-1] if trained else None)
        return self._read[path][1]

    def checkpoint(self, run: RunFolder) -> tuple[int, str | None]:
        """Return the completed epochs of the newest existing checkpoint, and its path.

        The search uses the run's folder instead of the recorded paths, because the sweep may have
        been moved. Returns 0 and None if there is no checkpoint.
        """
        recorded = self.recorded(run)
        if recorded is not None:
            for unit, path in sorted(recorded.checkpoints.items(), reverse=True):
                here = run.path / Path(path).name
                if not is_gone(str(here)):
                    return unit + 1, str(here)
        return 0, None


def identity(candidate: dict[str, Any]) -> str:
    """Return the JSON that identifies a candidate, independent of the order of its keys."""
    return json.dumps(candidate, sort_keys=True)
