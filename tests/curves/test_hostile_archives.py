"""Hostile archives, made to fill memory, to leave their folder or to run code, are refused."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.cli import main
from lightning_sotl.curves import nas_bench_nlp
from lightning_sotl.curves._npz import parse_npy
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from tests.fuzz import seeds

READERS: dict[str, Callable[[Path], object]] = {
    "x.npz": LearningCurves.load,
    "x.zip": read_nas_bench_nlp,
}
NPY = io.BytesIO()
np.save(NPY, np.ones((2, 2)))
DOCUMENT = seeds.nlp_documents()[0]


def zipped(members: dict[str, bytes], **options: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def listing(names: list[bytes], *, size: int = 1) -> bytes:
    """Return a zip with only a list of members. Each member declares `size` bytes."""
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", *(0,) * 6, 0, 1, size, len(name), *(0,) * 6) + name
        for name in names
    )
    return entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entries), 0, 0)


def declaring(size: int) -> bytes:
    """Return an archive whose first member declares that it unpacks to `size` bytes."""
    packed = bytearray(zipped({"train_loss.npy": NPY.getvalue(), "a.json": DOCUMENT}))
    at = packed.find(b"PK\1\2")
    packed[at + 24 : at + 28] = struct.pack("<L", size)
    return bytes(packed)


def encrypted() -> bytes:
    packed = bytearray(zipped({"train_loss.npy": NPY.getvalue(), "a.json": DOCUMENT}))
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        packed[packed.find(mark) + place] |= 1
    return bytes(packed)


def with_a_repeated_name() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.json", DOCUMENT)
        archive.writestr("b.json", DOCUMENT)
    return content.getvalue().replace(b"b.json", b"a.json")


OUTSIDE = [
    "/etc/x.json",
    "../x.json",
    "a/../../x.json",
    "C:\\x.json",
    "\\\\host\\x.json",
    "C:x.json",
]


@pytest.mark.parametrize("name", ["x.zip", "x.npz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            declaring(2**30),
            rf"unpack to at most {2**30:,} bytes but got {2**30 + len(DOCUMENT):,}\.$",
            id="bomb",
        ),
        pytest.param(encrypted(), "to be stored or deflated but 'train_loss.npy'", id="encrypted"),
        pytest.param(
            zipped({"a.json": DOCUMENT}, compression=zipfile.ZIP_LZMA),
            r"deflated but 'a\.json' is encrypted or compressed by another method\.",
            id="lzma",
        ),
        pytest.param(with_a_repeated_name(), r"to be unique but got 'a\.json' twice", id="twice"),
        *(
            pytest.param(
                zipped({outside: DOCUMENT}),
                re.escape(f"to stay within a folder but got {outside!r}."),
                id=outside,
            )
            for outside in OUTSIDE
        ),
    ],
)
def test_a_hostile_archive_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        READERS[name](tmp_path / name)
    kind = ["--format", "nas-bench-nlp"] if name == "x.zip" else []
    assert main(["rank", str(tmp_path / name), *kind]) == 1
    assert name in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["x.zip", "x.npz"])
def test_too_many_tiny_members_are_refused_before_they_are_listed(
    tmp_path: Path, name: str
) -> None:
    names = [b"%d.json" % number for number in range(20)] * 8_000
    (tmp_path / name).write_bytes(listing(names))
    message = (
        f"Expected '{tmp_path / name}' to have a list of members of at most 8,388,608 bytes (about "
        "100,000 members), but it is longer."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        READERS[name](tmp_path / name)


def test_the_declared_sizes_of_all_members_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(
        listing([b"%d.json" % number for number in range(100)], size=11_000_000)
    )
    with pytest.raises(ValueError, match=r"but got 1,100,000,000\.$"):
        read_nas_bench_nlp(tmp_path / "x.zip")


def npy(header: str, rest: bytes = b"") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rest


def described(kind: str, shape: str) -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npy(described("<f8", "(1000000000000,)")),
            "its header declares 1,000,000,000,000 entries of",
        ),
        (
            npy(described("<U0", "(1000000000000,)")),
            "its header declares 1,000,000,000,000 entries of",
        ),
        (
            npy(described("<f8", "(2,)"), b"\0" * 8),
            "its header declares 2 entries of 8 bytes, but it",
        ),
        (npy(described("|O", "(1,)"), b"\x80\x04."), "it is not an array of numbers or text"),
        (npy(described("|V8", "(1,)"), b"\0" * 8), "it is not an array of numbers or text"),
        (npy("__import__('os').abort()"), "it is not an array of numbers or text"),
        (npy("-" * 9000 + "1"), "it is not an array of numbers or text"),
        (
            npy(described("<f8", "(2, True)"), b"\0" * 16),
            "it is not an array of numbers or text but of impossible shape",
        ),
        (
            npy(described("<f8", "(-2, -3)"), b"\0" * 48),
            "it is not an array of numbers or text but of impossible shape",
        ),
        (
            npy(described("<f8", f"({'9' * 4000},)")),
            "it is not an array of numbers or text but of impossible shape",
        ),
        (npy("(" * 9000), "it is not an array of numbers or text"),
        (npy(described("<U1", "(1,)"), b"\xff\xff\xff\x7f"), "it holds characters that do"),
        (b"\x80\x04\x95", "it is not an array of numbers or text"),
    ],
)
def test_content_that_is_not_a_plain_array_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(zipped({"train_loss.npy": NPY.getvalue(), "run_ids.npy": content}))
    start = f"'run_ids' in '{path}' cannot be read without pickle or is damaged: "
    with pytest.raises(ValueError, match=f"^{re.escape(start + message)}"):
        LearningCurves.load(path)


def test_a_small_file_with_a_million_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, train_loss=np.zeros((1_000_001, 1)))
    message = f"Expected '{path}' to hold at most 1,000,000 runs but got 1,000,001."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.load(path)


@pytest.mark.parametrize(
    "array",
    [
        np.float64(1.5),
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.eye(3)[:2]),
        np.array(["é", "b"]),
    ],
    ids=["scalar", "table", "by column", "text"],
)
def test_arrays_are_read_as_numpy_wrote_them(array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    np.testing.assert_array_equal(parse_npy(content.getvalue()), array)


def test_a_document_that_is_too_large_is_left_out_of_a_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas_bench_nlp, "MOST_DOCUMENT_BYTES", len(DOCUMENT))
    (tmp_path / "x.zip").write_bytes(zipped({"a.json": DOCUMENT, "b.json": DOCUMENT + b" "}))
    curves, notes = read_nas_bench_nlp(tmp_path / "x.zip")
    assert curves.run_ids == ("a",)
    assert notes == ["Left out 1 JSON document without curves of one length: 'b'."]
