"""Reader of a record, `sotl.jsonl`, as sessions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl._utils.text import quoted
from lightning_sotl.record.format import MOST_UNITS, SCHEMA, header_time, parsed_lines
from lightning_sotl.record.session import Session

# Each process that trains a run writes one session.
MOST_SESSIONS = 10_000


def read_record(path: Path) -> tuple[list[Session], int]:
    """Return the sessions of a record, and how many of its lines could not be read.

    A line that was cut off by a kill counts as unreadable. So does a line without a readable header
    above it, because its run is unknown. Processes that write at the same time repeat their
    headers. The time in a header identifies its process.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is not a regular file, is too large, has a header of an unknown
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
            if current is None or when == -math.inf:  # without a time, it may be another process
                current = known[key] = Session(key[0], path.parent, _facts(line), newest)
                sessions.append(current)
                if len(sessions) > MOST_SESSIONS:
                    raise UnreadableFileError(
                        f"Expected '{path}' to have at most {MOST_SESSIONS:,} different headers "
                        "but it has more."
                    )
            else:  # a repeated header may have more facts, such as the size of the first batch
                current.facts = _facts(line)
        elif current is None or not _add_line(current, line):
            unreadable += 1
        else:
            current.last_seen = max(current.last_seen, newest)
    return sessions, unreadable


def _facts(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header whose hyper-parameters and parameters are objects or null."""
    # A record from another writer may hold anything.
    odd = [
        name
        for name in ("hparams", "params")
        if not isinstance(header.get(name), (dict, type(None)))
    ]
    return {**header, **dict.fromkeys(odd)} if odd else header


def _add_line(session: Session, line: dict[str, Any]) -> bool:
    """Add a status or a unit to its session. Return False if the line is neither."""
    if "status" in line:
        session.status = line
        session.last_seen = max(session.last_seen, header_time(line))
        return True
    unit, loss, checkpoint = line.get("e"), line.get("loss", ""), line.get("checkpoint")
    if type(unit) is not int or not 0 <= unit < MOST_UNITS:
        return False
    if loss is None:
        loss = math.inf
    if type(loss) not in (int, float):
        return False
    try:
        loss = float(loss) if math.isfinite(loss) else math.inf
    except OverflowError:  # an integer too large for a float
        return False
    if isinstance(checkpoint, str):
        session.checkpoints[unit] = checkpoint
    elif checkpoint is not None:
        return False
    elif session.losses.get(unit, loss) != loss:  # the unit was trained again
        session.checkpoints.pop(unit, None)
        session.metrics.pop(unit, None)
    session.losses[unit] = loss
    metrics = line.get("metrics")
    if isinstance(metrics, dict):
        session.metrics.setdefault(unit, {}).update(
            (name, math.nan if value is None else float(value))
            for name, value in metrics.items()
            if value is None or _is_number(value)
        )
    return True


def _is_number(value: object) -> bool:
    # A larger integer does not fit a float.
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) < 1e300
