"""The format of a run's record `sotl.jsonl`: one JSON document per line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lightning_sotl._utils.files import (
    MOST_LINE_BYTES,
    MOST_NESTED,
    MOST_RECORD_BYTES,
    TextLines,
    parse_json,
)
from lightning_sotl._utils.text import shortened

SCHEMA = 1
RECORD_SUFFIX = ".jsonl"
# A larger epoch number is damaged, and would need a table of gigabytes.
MOST_UNITS = 10_000_000
# The header is a single line, and each process of a run repeats it.
MOST_HPARAM_BYTES = MOST_LINE_BYTES // 4

_CLI_KEYS = ("_instantiator", "_class_path")
_STARTS_OF_OTHER_LINES = ('{"e"', '{"status"')


def file_name(prefix: str) -> str:
    """Return the name of a monitor's record, which is unique to its prefix.

    Examples:
        >>> file_name("sotl"), file_name("train/sotl")
        ('sotl.jsonl', 'train%2Fsotl.jsonl')
    """
    return f"{quote(prefix, safe='')}{RECORD_SUFFIX}"


def parsed_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a record.

    For a line that cannot be read, yield an empty document, or None if the line may have been a
    header. The run of the lines below it is then unknown.

    Raises:
        OSError: If the file cannot be read.
        UnreadableFileError: If it is not a regular file, or is too large.
    """
    lines, skipped = TextLines(path, most=MOST_RECORD_BYTES), 0
    for text in chain(lines, [""]):  # the "" counts long lines at the end
        yield from repeat(None, lines.too_long - skipped)
        skipped = lines.too_long
        if text.strip():
            yield _parse_line(text)


def _parse_line(text: str) -> dict[str, Any] | None:
    line = parse_json(text)
    if line is None:
        return {} if text.startswith(_STARTS_OF_OTHER_LINES) else None
    if not isinstance(line, dict):  # valid JSON, so not a damaged header
        return {}
    return line if isinstance(line.get("run_id", ""), (str, int)) else None


def header_time(header: Mapping[str, Any], name: str = "time") -> float:
    """Return a time in a header, or `-inf` if it has no usable one."""
    when = header.get(name)
    # NaN cannot be sorted, and a very large integer does not fit a float.
    return float(when) if isinstance(when, (int, float)) and abs(when) < 1e18 else -math.inf


def plain(value: Any) -> Any:
    """Return `value` as JSON: null for a non-finite number, the `repr` of an unknown object.

    Examples:
        >>> plain({"lr": np.float32(0.5), "decay": float("inf"), 3: (1, 2j)})
        {'lr': 0.5, 'decay': None, '3': [1, '2j']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return repr(value)


def inexact_part(name: str, value: Any, *, most_nested: int = MOST_NESTED) -> str | None:
    """Return which part of `value` JSON would change, in value or type.

    Args:
        name: What to call `value`.
        value: The value to write as JSON.
        most_nested: How many levels of nesting it may have.

    Returns:
        The first such part and what it is, for example a tuple, a key that is not a string, or NaN.
        None if there is none.

    Examples:
        >>> inexact_part("params", {"lr": 0.1, "sizes": (16, 8)})
        "`params['sizes']` is the tuple (16, 8)"
    """
    if value is None or type(value) in (bool, int, str):
        return None
    if type(value) is float:
        return None if math.isfinite(value) else f"`{name}` is {value}"
    if type(value) not in (dict, list):
        return f"`{name}` is the {type(value).__name__} {shortened(repr(value))}"
    if most_nested == 0:
        return f"`{shortened(name)}` is nested too deeply"
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return f"`{name}` has the key {key!r}, which is not a string"
    entries = value.items() if type(value) is dict else enumerate(value)
    parts = (
        inexact_part(f"{name}[{key!r}]", entry, most_nested=most_nested - 1)
        for key, entry in entries
    )
    return next((part for part in parts if part is not None), None)


def check_params(name: str, value: object) -> None:
    """Check that `value` is a mapping that fits a header and survives JSON unchanged.

    Raises:
        TypeError: If `value` is not a mapping.
        ValueError: If JSON would change a part of it (the message names the part), or if it is too
            large.

    Examples:
        >>> check_params("x", {"a": ()})
        Traceback (most recent call last):
        ValueError: Expected `x` to survive JSON unchanged but `x['a']` is the tuple ().
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"Expected `{name}` to be a mapping but got {value!r}.")
    part = inexact_part(name, dict(value), most_nested=MOST_NESTED // 2)
    if part is not None:
        raise ValueError(f"Expected `{name}` to survive JSON unchanged but {part}.")
    if (size := len(json.dumps(dict(value)))) > MOST_HPARAM_BYTES:
        raise ValueError(
            f"Expected `{name}` to have at most {MOST_HPARAM_BYTES:,} bytes as JSON but got "
            f"{size:,}."
        )


def run_params(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run: those given to its monitor, or else its hyper-parameters.

    Args:
        facts: The header of its record, or an empty dictionary without a record.

    Examples:
        >>> run_params({"hparams": {"width": 8, "path": "x"}, "params": {"width": 8}})
        {'width': 8}
        >>> run_params({"hparams": {"width": 8, "path": "x"}, "params": None})
        {'width': 8, 'path': 'x'}
    """
    params, hparams = facts.get("params"), facts.get("hparams")
    if isinstance(params, dict):  # a record from another writer may hold anything
        return dict(params)
    return without_cli_keys(hparams) if isinstance(hparams, dict) else {}


def without_cli_keys(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters without those that LightningCLI adds to recreate the object.

    Examples:
        >>> without_cli_keys({"lr": 0.1, "_class_path": "my.Net"})
        {'lr': 0.1}
    """
    return {name: value for name, value in hparams.items() if name not in _CLI_KEYS}


def writable_hparams(hparams: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the hyper-parameters that fit into a header, and the names of the others.

    For example, a vocabulary of megabytes does not fit, nor does a dictionary that contains itself.

    Examples:
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
        except Exception:  # the `repr` of a user's object may raise any error
            text = ""
        if text and len(text) <= room and parse_json(text) is not None:
            kept |= document
            room -= len(text)
        else:
            left_out.append(str(name))
    return kept, left_out
