"""Reader of run records (`sotl.jsonl`): from their lines to the newest state of each run."""

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

# Each process that trains a run writes one; what each may undo is looked through every time.
MOST_SESSIONS = 10_000


@dataclass
class Session:
    """What one process wrote about one run: a header and what follows it.

    Attributes:
        run_id: The run's; several sessions of a run that was resumed share it.
        folder: Where the record lies.
        facts: The header: what makes runs comparable.
        begun: When it was written; in one file never before those above it, whatever the clock.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> checkpoint saved after it.
        status: The last status line, or nothing.
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
        run_id: The run's.
        folders: Where its records lie, the oldest first.
        facts: The newest header.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> checkpoint saved after it.
        status: The newest status line, or nothing while it is being trained.
        stopped_at: T at which a stopper has ended it first, or None.
        ends: Each T at which a process has ended it in good order, to go on later or not.
        contradicted: Folders whose losses a newer session in another folder has replaced.
    """

    run_id: str
    folders: list[Path]
    facts: dict[str, Any]
    losses: dict[int, float]
    checkpoints: dict[int, str]
    status: dict[str, Any]
    stopped_at: int | None = None
    ends: set[int] = field(default_factory=set)
    contradicted: list[Path] = field(default_factory=list)
    # A heap of the units in `losses`, negated. With a walk through them ten thousand sessions that
    # each undo the last of many units take minutes.
    _newest: list[int] = field(default_factory=list, repr=False)

    def take(self, session: Session) -> None:
        """Add what a session has trained; its losses and checkpoints win."""
        for unit in session.losses:
            if unit not in self.losses:
                heapq.heappush(self._newest, -unit)
        self.losses.update(session.losses)
        self.checkpoints.update(session.checkpoints)

    def undo_from(self, first: int) -> None:
        """Forget all units from `first` on."""
        while self._newest and -self._newest[0] >= first:
            unit = -heapq.heappop(self._newest)
            del self.losses[unit]
            self.checkpoints.pop(unit, None)


def read_record(path: Path) -> tuple[list[Session], int]:
    """Return the sessions of one record file, and how many lines could not be read.

    A half-written line, as a kill leaves it, is one that cannot be read; so is a line before the
    first header, or below a header that cannot be read: whose it is, is not known. Processes that
    write at the same time repeat their header where another has written in between; each has its
    own time.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is no regular file, if it is too large, if a header is of a
            schema that this version does not know, or if there are too many headers that repeat
            no other.
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
            _check_schema(line, path)
            when = header_time(line)
            newest = max(newest, when)
            key = (str(line["run_id"]), when)
            current = known.get(key)
            if current is None or when == -math.inf:  # without a time it may be another process
                current = known[key] = _session(line, path, newest)
                sessions.append(current)
                _check_number(sessions, path)
        elif current is None or not _add(current, line):
            unreadable += 1
    return sessions, unreadable


def merge_sessions(sessions: Iterable[Session]) -> list[RecordedRun]:
    """Return the runs that sessions belong to, in the order in which they began.

    A resumed run restates what it knows. Where it contradicts an older session at e, that session
    has gone another way from e on, and nothing of it from there on counts: the result is one
    training, never a mixture of two.

    Example:
        >>> first = Session("a", Path("v0"), {}, begun=1.0, losses={0: 3.0, 1: 2.0, 2: 1.0})
        >>> resumed = Session("a", Path("v1"), {}, begun=2.0, losses={1: 2.5})
        >>> [run.losses for run in merge_sessions([resumed, first])]
        [{0: 3.0, 1: 2.5}]
    """
    runs: dict[str, RecordedRun] = {}
    for session in sorted(sessions, key=lambda entry: entry.begun):
        run = runs.get(session.run_id)
        if run is None:
            run = RecordedRun(session.run_id, [], {}, {}, {}, {})
            runs[session.run_id] = run
        _continue(run, session)
    return list(runs.values())


def _continue(run: RecordedRun, session: Session) -> None:
    changed = [unit for unit, loss in session.losses.items() if run.losses.get(unit, loss) != loss]
    if changed:
        run.undo_from(min(changed))
        run.contradicted += [
            folder
            for folder in run.folders
            if folder != session.folder and folder not in run.contradicted
        ]
    run.take(session)
    run.facts, run.status = session.facts, session.status
    if session.folder not in run.folders:
        run.folders.append(session.folder)
    known = session.losses or run.losses  # a session need not restate what is there already
    if not known:
        return
    if session.status.get("status") in ("stopped", "finished"):
        run.ends.add(max(known) + 1)
    if run.stopped_at is None and str(session.status.get("reason", "")) in _STOPS:
        run.stopped_at = max(known) + 1


_STOPS = ("stop_epoch_reached", "stop_batches_reached")


def _session(header: dict[str, Any], path: Path, begun: float) -> Session:
    hparams = header.get("hparams")
    # Those of another writer may be anything; by name they can only be told if they have names.
    facts = header if isinstance(hparams, (dict, type(None))) else {**header, "hparams": None}
    return Session(str(header["run_id"]), path.parent, facts, begun)


def _check_number(sessions: list[Session], path: Path) -> None:
    if len(sessions) > MOST_SESSIONS:
        raise UnreadableFileError(
            f"Expected '{path}', without repeats, to have at most {MOST_SESSIONS:,} headers but it "
            "has more."
        )


def _check_schema(header: dict[str, Any], path: Path) -> None:
    if header.get("schema") != SCHEMA:
        raise UnreadableFileError(
            f"Expected the record '{path}' to be of schema {SCHEMA} but got "
            f"{quoted(header.get('schema'))}; a newer version of this package may have written it."
        )


def _add(session: Session, line: dict[str, Any]) -> bool:
    """Add a line to its session; return whether it was one that a record has."""
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
    except OverflowError:  # an integer of more digits than a float holds
        return False
    if isinstance(checkpoint, str):
        session.checkpoints[unit] = checkpoint
    elif checkpoint is not None:
        return False
    elif session.losses.get(unit, loss) != loss:
        session.checkpoints.pop(unit, None)  # it was of the training that this line replaces
    session.losses[unit] = loss
    return True
