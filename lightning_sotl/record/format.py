"""The format of the run's record `sotl.jsonl`: one JSON document a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lightning_sotl._utils.files import (
    MOST_LINE_BYTES,
    MOST_RECORD_BYTES,
    TextLines,
    parse_json,
)

# An epoch beyond this is a damaged number, and would ask for a table of gigabytes.
MOST_UNITS = 10_000_000


SCHEMA = 1


# A header is one line, which readers bound, and it is written again by each process of a run.
MOST_HPARAM_BYTES = MOST_LINE_BYTES // 4


def file_name(prefix: str) -> str:
    """Return the name of the record of a monitor, from which its prefix can be told.

    Example:
        >>> file_name("sotl"), file_name("train/sotl")
        ('sotl.jsonl', 'train%2Fsotl.jsonl')
    """
    return f"{quote(prefix, safe='')}.jsonl"


def parsed_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a record.

    Of those that cannot be read it yields an empty document, and None for one that may have been a
    header: whose the lines below it are is not known.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is no regular file, or too large.
    """
    lines, passed_over = TextLines(path, most=MOST_RECORD_BYTES), 0
    for text in chain(lines, [""]):  # once more behind the last line, which may be too long
        yield from repeat(None, lines.too_long - passed_over)
        passed_over = lines.too_long
        if text.strip():
            yield _record_line(text)


_BELOW_A_HEADER = ('{"e"', '{"status"')


def _record_line(text: str) -> dict[str, Any] | None:
    line = parse_json(text)
    if line is None:
        return {} if text.startswith(_BELOW_A_HEADER) else None
    if not isinstance(line, dict):  # whole as it is, it is no header that was damaged
        return {}
    return line if isinstance(line.get("run_id", ""), (str, int)) else None


def header_time(line: Mapping[str, Any]) -> float:
    """Return when a header says that it was written; `-inf` where it does not say."""
    when = line.get("time")
    # A NaN, or an integer beyond all floats, sorts nothing.
    return float(when) if isinstance(when, (int, float)) and abs(when) < 1e18 else -math.inf


def _document(line: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(line), allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: non-finite numbers null, unknown objects their repr.

    Example:
        >>> plain({"lr": np.float32(0.5), "decay": float("inf"), 3: (1, 2j)})
        {'lr': 0.5, 'decay': None, '3': [1, '2j']}
    """
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


def writable_hparams(hparams: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the hyper-parameters that a header can hold, and the names of the others.

    A model may have been made with anything: a vocabulary of megabytes, of which no reader would
    take the header, or what is no document, as a dictionary that contains itself.

    Example:
        >>> writable_hparams({"words": "x" * 10_000_000, "lr": 0.1})
        ({'lr': 0.1}, ['words'])
    """
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    room = MOST_HPARAM_BYTES
    for name, value in hparams.items():
        try:
            document = {str(name): plain(value)}
            text = json.dumps({"hparams": document}, allow_nan=False)
        except Exception:  # of whatever class the `repr` of a user's object raises
            text = ""
        if text and len(text) <= room and parse_json(text) is not None:
            kept |= document
            room -= len(text)
        else:
            left_out.append(str(name))
    return kept, left_out
