"""Reads the event files that Lightning's TensorBoardLogger writes.

TensorBoard's own reader needs 0.1 ms per event and by default keeps 10,000 points per tag. This
reader parses the files itself, verifies their checksums, and keeps every point.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from lightning_sotl._utils import extras
from lightning_sotl._utils.files import open_regular
from lightning_sotl.curves._log_values import Logged, epoch_of, step_of
from lightning_sotl.curves._timeline import Timeline

FILE_PREFIX = "events.out.tfevents."
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_CHECKED = 4096
_FLOAT_TYPES = {1: struct.Struct("<f"), 2: struct.Struct("<d")}  # DT_FLOAT, DT_DOUBLE
# An event with a scalar has about 50 bytes. Larger ones hold pictures, graphs or videos.
MOST_EVENT_BYTES = 16 * 2**20


def event_module() -> ModuleType:
    """Return TensorBoard's module of events.

    Raises:
        ModuleNotFoundError: If `tensorboard` is not installed.
    """
    return extras.require(
        "tensorboard.compat.proto.event_pb2",
        extra="tensorboard",
        purpose="read TensorBoard's event files",
    )


def read_event_files(paths: Collection[Path], wanted: Collection[str]) -> Logged:
    """Return the values of the wanted tags, each with the epoch that was logged beside it.

    Lightning logs `epoch` at the same step as the other tags of a row. If a resumed run returned to
    an earlier step, or a writer has a `purge_step`, the older values from that step on are left
    out. An incomplete event at the end of a file, as in a run in progress, is left out and counted.

    Args:
        paths: The event files of one folder.
        wanted: The tags to keep.

    Raises:
        ModuleNotFoundError: If `tensorboard` is not installed.
        OSError: If a file cannot be read.
        ValueError: If a file is not a regular file.
    """
    event_pb2 = event_module()
    logged = Logged(wanted)
    timeline = Timeline(wanted)
    for path in sorted(paths, key=_age):
        step, entries = 0, list[tuple[str, float]]()
        for event in _events(path, event_pb2, logged):
            if event.step != step or event.HasField("session_log"):
                _add_step(step, entries, timeline, wanted)
                step, entries = event.step, []
            if event.session_log.status == event_pb2.SessionLog.START:
                timeline.purge(step)
            for value in event.summary.value:
                if (number := _number(value)) is not None:
                    entries.append((value.tag, number))
                    logged.keys.add(value.tag)
        _add_step(step, entries, timeline, wanted)
    logged.keys.discard("epoch")
    timeline.fill(logged)
    return logged


def _add_step(
    step: int, entries: list[tuple[str, float]], timeline: Timeline, wanted: Collection[str]
) -> None:
    """Add the values that were written at a step, as rows that each end with their epoch."""
    rows: list[tuple[int | None, list[tuple[str, float]]]] = []
    row: list[tuple[str, float]] = []
    epoch = None
    for tag, number in entries:
        if tag == "epoch":
            epoch = epoch_of(number)
            rows.append((epoch, row))
            row = []
        else:
            row.append((tag, number))
    rows.append((epoch, row))  # for a module that logs a key `epoch` before the others
    for epoch, row in rows:
        if row:
            values = {tag: number for tag, number in row if tag in wanted}
            others = [tag for tag, _ in row if tag not in wanted]
            timeline.add(epoch, step_of(step), values, others)


def _number(entry: Any) -> float | None:
    kind = entry.WhichOneof("value")
    tensor = entry.tensor
    if kind == "simple_value":
        return float(entry.simple_value)
    if kind != "tensor" or tensor.tensor_shape.dim:
        return None
    if values := tensor.float_val or tensor.double_val:
        return float(values[0])
    layout = _FLOAT_TYPES.get(tensor.dtype)
    if layout is None or len(tensor.tensor_content) != layout.size:
        return None
    return float(layout.unpack(tensor.tensor_content)[0])


def _events(path: Path, event_pb2: Any, logged: Logged) -> Iterator[Any]:
    """Yield the events of a file up to the first one that is cut off or damaged."""
    with open_regular(path) as file:
        try:
            for record in _records(file, logged):
                yield event_pb2.Event.FromString(record)
        except Exception as error:
            # The module of Protobuf's DecodeError depends on its version.
            if not isinstance(error, ValueError) and type(error).__name__ != "DecodeError":
                raise
            logged.unreadable += 1  # the next event cannot be found


def _records(file: BinaryIO, logged: Logged) -> Iterator[bytes]:
    """Yield the records of a file. Records that are too large for a scalar are only counted.

    A record is its length, the checksum of the length, the data, and the checksum of the data.

    Raises:
        ValueError: If a record is cut off or damaged.
    """
    while header := file.read(12):
        if len(header) < 12 or _CHECKSUM.unpack_from(header, 8)[0] != masked_crc32c(header[:8]):
            raise ValueError("The header of a record is cut off or damaged.")
        size = _LENGTH.unpack_from(header)[0]
        if size > MOST_EVENT_BYTES:
            if size + 4 > os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError("A record is cut off.")
            file.seek(size + 4, os.SEEK_CUR)
            logged.unreadable += 1
            continue
        data, checksum = file.read(size), file.read(4)
        if len(data) < size or len(checksum) < 4:
            raise ValueError("A record is cut off.")
        # Only pictures and graphs are larger, and they are not used.
        if size <= _CHECKED and _CHECKSUM.unpack(checksum)[0] != masked_crc32c(data):
            raise ValueError("A record is damaged.")
        yield data


def _checksum_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _checksum_table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`, rotated and shifted as the file format requires.

    Examples:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _age(path: Path) -> tuple[int, list[str | int]]:
    """Return a sort key: the time in the name of an event file, and the numbers after it.

    The names of files from the same second differ in a count at the end, where 10 follows 9.
    """
    name = path.name.removeprefix(FILE_PREFIX)
    texts = re.split("([0-9]+)", name)  # alternates texts and numbers
    parts = [int(part) if place % 2 else part for place, part in enumerate(texts)]
    return (int(texts[1]) if len(texts) > 1 and not texts[0] else 0, parts)
