"""Reader of a record (`sotl.jsonl`): its sessions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl._utils.text import quoted
from lightning_sotl.record.format import MOST_UNITS, SCHEMA, header_time, parsed_lines
from lightning_sotl.record.session import Session

# Each process that trains a run writes a session.
MOST_SESSIONS = 10_000


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
