"""Reader of run records (`sotl.jsonl`): the newest state of each run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl._utils.text import quoted
from lightning_sotl.record.format import MOST_UNITS, SCHEMA, header_time, parsed_lines

# Each process that trains a run writes a session.
MOST_SESSIONS = 10_000

_STOPS = ("stop_epoch_reached", "stop_batches_reached")


@dataclass
class Session:
    """What one process wrote about one run: a header and the lines below it.

    Attributes:
        run_id: The run; the sessions of a resumed run share it.
        folder: The folder of the record.
        facts: The header: what makes runs comparable.
        begun: The time of the header; not earlier than those above it in the same file.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after it.
        status: The last status line; empty without one.
    """

    run_id: str
    folder: Path
    facts: dict[str, Any]
    begun: float = -math.inf
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)


@dataclass
class RecordedRun:
    """The newest state of one run, over all processes that trained it.

    Attributes:
        run_id: The run.
        folders: The folders of its records, the oldest first.
        facts: The newest header.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after it.
        checkpoint_facts: The header of the process that wrote the newest of them.
        status: The newest status line; empty while the run is being trained.
        stopped_at: T at which a stopper first ended it, or None.
        ends: Each T at which a process ended the run in good order.
        contradicted: Folders whose losses a newer session in another folder replaced.
    """

    run_id: str
    folders: list[Path] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    checkpoint_facts: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    stopped_at: int | None = None
    ends: set[int] = field(default_factory=set)
    contradicted: list[Path] = field(default_factory=list)
    # A heap of the units in `losses`, negated. Without it, ten thousand sessions that each drop the
    # last of many units would take minutes.
    _newest: list[int] = field(default_factory=list, repr=False)

    def add(self, session: Session) -> None:
        """Add the next session of the run; its losses and checkpoints win."""
        losses = session.losses
        changed = [unit for unit, loss in losses.items() if self.losses.get(unit, loss) != loss]
        if changed:
            self._drop_from(min(changed))
            self.contradicted += [
                folder
                for folder in self.folders
                if folder != session.folder and folder not in self.contradicted
            ]
        for unit in losses:
            if unit not in self.losses:
                heapq.heappush(self._newest, -unit)
        self.losses.update(losses)
        # A process that finds the run stopped repeats the line of the stop.
        if not session.checkpoints.items() <= self.checkpoints.items():
            self.checkpoint_facts = session.facts
        self.checkpoints.update(session.checkpoints)
        self.facts, self.status = session.facts, session.status
        if session.folder not in self.folders:
            self.folders.append(session.folder)
        known = losses or self.losses  # a session need not repeat what the run already has
        if not known:
            return
        if session.status.get("status") in ("stopped", "finished"):
            self.ends.add(max(known) + 1)
        if self.stopped_at is None and str(session.status.get("reason", "")) in _STOPS:
            self.stopped_at = max(known) + 1

    def _drop_from(self, first: int) -> None:
        while self._newest and -self._newest[0] >= first:
            unit = -heapq.heappop(self._newest)
            del self.losses[unit]
            self.checkpoints.pop(unit, None)


def read_record(path: Path) -> tuple[list[Session], int]:
    """Return the sessions of a record, and how many of its lines could not be read.

    Not readable are a line that a kill cut off, and lines without a readable header above them,
    since their run is unknown. Processes that write at the same time repeat their headers; the
    time in a header identifies its process.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is no regular file, is too large, has a header of an unknown
            schema, or has too many different headers.
    """
    sessions: list[Session] = []
    known: dict[tuple[str, float], Session] = {}
    current: Session | None = None
    unreadable, newest = 0, -math.inf
    for line in parsed_lines(path):
        if line is None:
            current = None
            unreadable += 1
        elif "run_id" in line:
            if line.get("schema") != SCHEMA:
                raise UnreadableFileError(
                    f"Expected the record '{path}' to be of schema {SCHEMA} but got "
                    f"{quoted(line.get('schema'))}; a newer version of this package may have "
                    "written it."
                )
            when = header_time(line)
            newest = max(newest, when)
            key = (str(line["run_id"]), when)
            current = known.get(key)
            if current is None or when == -math.inf:  # without a time it may be another process
                current = known[key] = _begin_session(line, path, newest)
                sessions.append(current)
                if len(sessions) > MOST_SESSIONS:
                    raise UnreadableFileError(
                        f"Expected '{path}', without repeats, to have at most {MOST_SESSIONS:,} "
                        "headers but it has more."
                    )
            else:  # a repeated header may know more, such as the size of the first batch
                current.facts = _facts(line)
        elif current is None or not _add_line(current, line):
            unreadable += 1
    return sessions, unreadable


def merge_sessions(sessions: Iterable[Session]) -> list[RecordedRun]:
    """Return the runs of all sessions, in the order in which they began.

    If a session changes the loss of epoch e, the older losses from e on are dropped: they belong to
    a run that was rewound.

    Example:
        >>> first = Session("a", Path("v0"), {}, begun=1.0, losses={0: 3.0, 1: 2.0, 2: 1.0})
        >>> resumed = Session("a", Path("v1"), {}, begun=2.0, losses={1: 2.5})
        >>> [run.losses for run in merge_sessions([resumed, first])]
        [{0: 3.0, 1: 2.5}]
    """
    runs: dict[str, RecordedRun] = {}
    for session in sorted(sessions, key=lambda entry: entry.begun):
        runs.setdefault(session.run_id, RecordedRun(session.run_id)).add(session)
    return list(runs.values())


def _begin_session(header: dict[str, Any], path: Path, begun: float) -> Session:
    return Session(str(header["run_id"]), path.parent, _facts(header), begun)


def _facts(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header in which the hyper-parameters and the parameters are objects or null."""
    # Another writer may have put anything there.
    odd = [
        name
        for name in ("hparams", "params")
        if not isinstance(header.get(name), (dict, type(None)))
    ]
    return {**header, **dict.fromkeys(odd)} if odd else header


def _add_line(session: Session, line: dict[str, Any]) -> bool:
    """Add a status or a unit to its session; return False if the line is neither."""
    if "status" in line:
        session.status = line
        return True
    unit, loss, checkpoint = line.get("e"), line.get("loss", ""), line.get("checkpoint")
    if isinstance(unit, bool) or not isinstance(unit, int) or not 0 <= unit < MOST_UNITS:
        return False
    if loss is None:
        loss = math.inf
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        return False
    try:
        loss = float(loss) if math.isfinite(loss) else math.inf
    except OverflowError:  # an integer beyond all floats
        return False
    if isinstance(checkpoint, str):
        session.checkpoints[unit] = checkpoint
    elif checkpoint is not None:
        return False
    elif session.losses.get(unit, loss) != loss:
        session.checkpoints.pop(unit, None)  # this line replaces its training
    session.losses[unit] = loss
    return True
