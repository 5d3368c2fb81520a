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

from lightning_sotl._utils.files import MOST_LINE_BYTES, MOST_RECORD_BYTES, TextLines, parse_json

SCHEMA = 1
# A larger epoch is a damaged number, and would need a table of gigabytes.
MOST_UNITS = 10_000_000
# The header is one line, of bounded length; each process of a run writes it again.
MOST_HPARAM_BYTES = MOST_LINE_BYTES // 4

_BELOW_A_HEADER = ('{"e"', '{"status"')


def file_name(prefix: str) -> str:
    """Return the name of a monitor's record, unique for its prefix.

    Example:
        >>> file_name("sotl"), file_name("train/sotl")
        ('sotl.jsonl', 'train%2Fsotl.jsonl')
    """
    return f"{quote(prefix, safe='')}.jsonl"


def parsed_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a record.

    A line that cannot be read gives an empty document, or None if it may have been a header: the
    run of the lines below it is then unknown.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is no regular file, or too large.
    """
    lines, skipped = TextLines(path, most=MOST_RECORD_BYTES), 0
    for text in chain(lines, [""]):  # the "" is for long lines at the end
        yield from repeat(None, lines.too_long - skipped)
        skipped = lines.too_long
        if text.strip():
            yield _parse_line(text)


def _parse_line(text: str) -> dict[str, Any] | None:
    line = parse_json(text)
    if line is None:
        return {} if text.startswith(_BELOW_A_HEADER) else None
    if not isinstance(line, dict):  # valid JSON, so no damaged header
        return {}
    return line if isinstance(line.get("run_id", ""), (str, int)) else None


def header_time(line: Mapping[str, Any]) -> float:
    """Return the time in a header; `-inf` without a usable one."""
    when = line.get("time")
    # A NaN cannot be sorted, a very large integer is no float.
    return float(when) if isinstance(when, (int, float)) and abs(when) < 1e18 else -math.inf


def plain(value: Any) -> Any:
    """Return `value` as JSON: null for a non-finite number, the `repr` for an unknown object.

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
    """Return the hyper-parameters that fit into a header, and the names of the others.

    Too large are for example a vocabulary of megabytes, or a dictionary that contains itself.

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
        except Exception:  # the `repr` of a user's object may raise any class
            text = ""
        if text and len(text) <= room and parse_json(text) is not None:
            kept |= document
            room -= len(text)
        else:
            left_out.append(str(name))
    return kept, left_out
