"""Reader of run records (`sotl.jsonl`): the sessions of each run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl._utils.text import quoted
from lightning_sotl.record.format import MOST_UNITS, SCHEMA, header_time, parsed_lines
from lightning_sotl.record.lineage import RecordedRun, runs_of

# Each process that trains a run writes a session.
MOST_SESSIONS = 10_000


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
        metrics: e -> the recorded metrics of that epoch, by name.
        status: The last status line; empty without one.
        alive: The newest time at which it is known to have been trained: that of its header, of its
            status, or of the headers above its last line in the same file.
    """

    run_id: str
    folder: Path
    facts: dict[str, Any]
    begun: float = -math.inf
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    alive: float = -math.inf

    def __post_init__(self) -> None:
        self.alive = max(self.alive, self.begun)


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
        else:
            current.alive = max(current.alive, newest)
    return sessions, unreadable


def merge_sessions(sessions: Iterable[Session]) -> list[RecordedRun]:
    """Return the runs of all sessions, in the order in which they began.

    Runs that resumed from one checkpoint share their `run_id` and are forks, each with the units
    that it has from the others. Two continuations of a checkpoint are two runs if both ended by
    themselves or if their parameters differ. If one broke off, and another with the same
    parameters began after that, both are one run with the losses of the newer: those of the older
    belong to a run that was rewound.

    Sessions of older versions do not name what they resumed from. Their place in the tree is
    inferred: in another folder they repeat the units that they resumed from, in the same file they
    write only what it does not have.

    Example:
        >>> first = Session("a", Path("v0"), {}, begun=1.0, losses={0: 3.0, 1: 2.0, 2: 1.0})
        >>> resumed = Session("a", Path("v1"), {}, begun=2.0, losses={1: 2.5})
        >>> [run.losses for run in merge_sessions([resumed, first])]
        [{0: 3.0, 1: 2.5}]
    """
    return runs_of(sessions)


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
        session.alive = max(session.alive, header_time(line))
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
    elif session.losses.get(unit, loss) != loss:  # this line replaces its training
        session.checkpoints.pop(unit, None)
        session.metrics.pop(unit, None)
    session.losses[unit] = loss
    metrics = line.get("metrics")
    if isinstance(metrics, dict):
        session.metrics.setdefault(unit, {}).update(
            (name, float(value)) for name, value in metrics.items() if _is_number(value)
        )
    return True


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300  # a larger integer is no float
