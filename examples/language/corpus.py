"""Reads the text that the language models are trained on: the sources of mpmath 1.3.0, by bytes.

The table must mean the same on every machine. The standard library differs between versions of
Python, so a table made from it could be continued on one version only. PyTorch requires SymPy, and
SymPy requires mpmath below 1.4, so pip installs mpmath 1.3.0 beside every PyTorch. It is pure
Python under the BSD license, has 87 source files with 1.9 MB of code, documentation and number
tables, and is the same for every version of Python. A checksum of all names and contents is
compared on each start.

The files are split before they are cut into sequences, so that no file is in two parts. They are
sorted by size and dealt in turn, because a few large files hold half of the bytes.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE, VERSION = "mpmath", "1.3.0"
SHA256 = "8c9c51a1d1f457b5e7ecbab7490deca7fb11b3c280325d1cd3c7450898555d2a"
EVERY = 8  # of the files sorted by size, one in eight each is for validation and for the test
VALIDATION_TURN, TEST_TURN = 3, 6

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """The sequences of one context length, each of shape `(sequences, context)`."""

    train: Bytes
    validation: Bytes
    test: Bytes


def read_files() -> dict[str, bytes]:
    """Return the source files by their names below the package, in alphabetical order.

    Raises:
        RuntimeError: If the package is absent or if its files are not those of version 1.3.0.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"Expected {PACKAGE} {VERSION} to be installed. {_advice()}")
    folder = Path(spec.origin).parent
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    files = {name: paths[name].read_bytes() for name in sorted(paths)}
    if (found := checksum(files)) != SHA256:
        raise RuntimeError(
            f"Expected the sources of {PACKAGE} {VERSION} with the SHA-256 {SHA256} but got "
            f"{found} in {folder}. {_advice()}"
        )
    return files


def checksum(files: dict[str, bytes]) -> str:
    """Return the SHA-256 of the names and the contents, in alphabetical order of the names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n{len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def split_files(files: dict[str, bytes]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the training, validation and test files, each in alphabetical order."""
    by_size = sorted(files, key=lambda name: (-len(files[name]), name))
    turns = {name: place % EVERY for place, name in enumerate(by_size)}
    validation = [name for name in files if turns[name] == VALIDATION_TURN]
    test = [name for name in files if turns[name] == TEST_TURN]
    held_out = {*validation, *test}
    return [name for name in files if name not in held_out], validation, test


@cache
def read_corpus(context: int, *, validation: int, test: int) -> Corpus:
    """Return all training sequences, and evenly spaced sequences of the held-out files.

    Args:
        context: Bytes in a sequence.
        validation: The number of validation sequences.
        test: The number of test sequences.

    Raises:
        RuntimeError: If the text is not the expected one.
        ValueError: If the held-out files have fewer sequences than requested.
    """
    files = read_files()
    train, *held_out = (cut(files, names, context) for names in split_files(files))
    kept = [
        choose_evenly(part, count) for part, count in zip(held_out, (validation, test), strict=True)
    ]
    return Corpus(train, *kept)


def cut(files: dict[str, bytes], names: list[str], context: int) -> Bytes:
    """Return the joined files in sequences of `context` bytes, without an incomplete last one."""
    text = np.frombuffer(b"".join(files[name] for name in names), dtype=np.uint8)
    rows = text.size // context
    return text[: rows * context].reshape(rows, context)


def choose_evenly(sequences: Bytes, count: int) -> Bytes:
    """Return `count` evenly spaced sequences in a random order, so that any part covers all files.

    Raises:
        ValueError: If there are fewer.
    """
    if len(sequences) < count:
        raise ValueError(f"Expected at least {count} sequences but got {len(sequences)}.")
    rows = np.linspace(0, len(sequences) - 1, count).round().astype(int)
    return sequences[np.random.default_rng(0).permutation(rows)]


def _advice() -> str:
    return f"Install it with `{Path(sys.executable).name} -m pip install {PACKAGE}=={VERSION}`."
