"""Damages a valid file in its bytes, lines, values, members or headers."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [
    *("nan", "-nan", "inf", "-inf", "1e999", "-1e999", "1e308", "5e-324", "1e18", "0", "-0", "-1"),
    *("1.5", "2147483648", "9223372036854775808", "1e5", "9" * 400, "9" * 5000, "0x10", "1_0"),
    *("\u0661", "", " ", "--1", "1e", ".", "true", "None", "10000000", "99999999999999999999"),
]
TEXTS = [
    *("\x00", "\x1b[2J", "\r", "\n", "\x85", "\u2028", "\u202e", "\ud800", "\ufffd", "\ufeff"),
    *('"', '""', ",", ";", "'", "\\", "{", "[", "{}", "[]", "null", "../../x", "/etc/passwd"),
    *("C:\\x", "$\\frac{", "=cmd|' /C calc'!A0", "!!python/object", "__reduce__", "a" * 5000),
    *("[" * 2000, '{"a":' * 150 + "1" + "}" * 150, "epoch", "sotl_e1", "run_id", "status", "e"),
]
JSON_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 10**7, 10**30, -(10**30), 10**400, 1e308, float("nan")),
    *(float("inf"), "", "x", "\x1b]0;x\x07", "\ud800", "a" * 3000, [], {}, [[]], {"": {}}),
    *([1, "x"], {"hparams": {"dropout": 1}}, "/" * 5000, "\x00", ["OK"], "OK", "..", 1),
]
BYTES = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\r\n",
    b"PK\x03\x04",
    b"\x80\x04\x95",
    b"\xc3",
]


def bytewise(rng: random.Random, data: bytes) -> bytes:
    """Flip, drop, double, insert or cut some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, kind = rng.randrange(len(changed) + 1), rng.randrange(6)
        length = rng.choice((1, 1, 2, 4, 8, 32, 128))
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at:at] = rng.choice(BYTES)
        elif kind == 4:
            changed[at : at + length] = rng.randbytes(length)
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def linewise(rng: random.Random, data: bytes) -> bytes:
    """Drop, double, swap, join or cut lines."""
    lines = data.splitlines(keepends=True) or [b""]
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines[at:at] = [lines[other]] * rng.choice((1, 2, 20))
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\r\n")
    else:
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return b"".join(lines)


def cellwise(rng: random.Random, data: bytes) -> bytes:
    """Replace cells of a CSV, including the header, by odd numbers and texts."""
    rows = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")]
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rng.choice(rows)
        at, kind = rng.randrange(len(row)), rng.randrange(4)
        if kind == 0:
            row[at] = rng.choice(TEXTS)
        elif kind == 1:
            row[at] = rng.choice(rng.choice(rows))
        elif kind == 2 and rng.random() < 0.3:
            row[at:at] = [""] * rng.choice((1, 3, 3000))
        else:
            row[at] = rng.choice(NUMBERS)
    return "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")


def jsonwise(rng: random.Random, data: bytes) -> bytes:
    """Replace, drop, double or rename values in JSON documents, one per line."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except (ValueError, RecursionError):
        return linewise(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _changed(rng, document)
    if rng.random() < 0.03:
        lines[at] = lines[at].replace(b": ", b": " + rng.choice((b"[", b'{"a":')) * 100_000, 1)
        return b"\n".join(lines)
    lines[at] = json.dumps(document, ensure_ascii=rng.random() < 0.7).encode("utf-8", "replace")
    return b"\n".join(lines)


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, changed = rng.choice(list(value)), dict(value)
        kind = rng.randrange(6)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[rng.choice([*value, *TEXTS])] = changed[key]
        else:
            changed[key] = _changed(rng, changed[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.6:
        at, items = rng.randrange(len(value)), list(value)
        if rng.random() < 0.2:
            return items[:at] + items[at:] * rng.choice((0, 2, 10))
        items[at] = _changed(rng, items[at])
        return items
    return rng.choice(JSON_VALUES)


def memberwise(inner: Sequence[Mutation]) -> Mutation:
    """Return a mutation of one member's content or name that keeps the zip valid."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:  # an earlier mutation may have damaged the archive
            return bytewise(rng, data)
        if not members:
            return bytewise(rng, data)
        at, kind = rng.randrange(len(members)), rng.randrange(8)
        name, content = members[at]
        if kind == 0:
            members[at] = (_name(rng, name), content)
        elif kind == 1:
            members.append((rng.choice((name, f"{_name(rng, name)}.json")), content))
        elif kind == 2:
            del members[at]
        else:
            members[at] = (name, rng.choice(inner)(rng, content))
        return _zipped(rng, members)

    return mutate


def _name(rng: random.Random, name: str) -> str:
    at = rng.randrange(len(name) + 1)
    return (name[:at] + rng.choice(TEXTS) + name[at:])[:60000]


def _zipped(rng: random.Random, members: list[tuple[str, bytes]]) -> bytes:
    packing = rng.choice([zipfile.ZIP_DEFLATED] * 6 + [0, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    packed = io.BytesIO()
    try:
        with zipfile.ZipFile(packed, "w", packing, compresslevel=1) as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.compress_type = packing
                with archive.open(info, "w") as file:
                    file.write(content)
    except ValueError:  # a zip cannot have this name
        return packed.getvalue()
    return packed.getvalue()


def headerwise(rng: random.Random, data: bytes) -> bytes:
    """Change the header of a `.npy`: its type, its shape, its text, its length."""
    size = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + size].decode("latin-1"), data[10 + size :]
    kinds = ["<f8", "|O", "<U5", "<U0", "|V0", "<c16", "<M8[s]", "|b1", ">i2", "<f2", "<U999999999"]
    shapes = ["()", "(0, 5)", "(2, 3)", "(1000000000000,)", "(-1, 3)", "(3, 2, 1)", "(9**9,)"]
    kind = rng.randrange(5)
    if kind == 0:
        old = header.partition("'descr': '")[2].partition("'")[0]
        header = header.replace(old, rng.choice(kinds)) if old else header
    elif kind == 1:
        old = header.partition("'shape': ")[2].partition(", }")[0]
        header = header.replace(old, rng.choice(shapes)) if old else header
    elif kind == 2:
        header = header.replace("False", rng.choice(("True", "None", "__import__('os')")))
    elif kind == 3:
        at = rng.randrange(len(header) + 1)
        header = header[:at] + rng.choice(["(" * 500, "-" * 5000, "{", "'", "\n"]) + header[at:]
    encoded = header.encode("latin-1")[:60000]
    declared = len(encoded) if rng.random() < 0.9 else rng.randrange(65536)
    return data[:8] + struct.pack("<H", declared) + encoded + rest


def footerwise(rng: random.Random, data: bytes) -> bytes:
    """Change bytes of the footer of a Parquet file, and keep its length and the magic right."""
    size = int.from_bytes(data[-8:-4], "little")
    if not 0 < size <= len(data) - 8:
        return bytewise(rng, data)
    footer = bytewise(rng, data[-8 - size : -8])
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + data[-4:]


def eventwise(checksum: Callable[[bytes], int]) -> Mutation:
    """Return a mutation of one record of an event file that corrects the checksums."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        records, at = [], 0
        while at + 12 <= len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            records.append(data[at + 12 : at + 12 + size])
            at += 16 + size
        if not records:
            return bytewise(rng, data)
        place, kind = rng.randrange(len(records)), rng.randrange(6)
        if kind == 0:
            records.insert(place, records[rng.randrange(len(records))])
        elif kind == 1:
            del records[place]
        else:
            records[place] = bytewise(rng, records[place])
        written = b""
        for record in records:
            size = len(record) if rng.random() < 0.98 else rng.choice((0, 2**63, 2**40, 10**6))
            length = struct.pack("<Q", size)
            written += length + struct.pack("<I", checksum(length))
            written += record + struct.pack("<I", checksum(record))
        return written

    return mutate
