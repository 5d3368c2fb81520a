"""Reads and writes named arrays in an `.npz` file, without pickle."""

from __future__ import annotations

import io
import math
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.files import write_whole
from lightning_sotl._utils.text import quote_all, quoted, visible
from lightning_sotl.curves._archives import open_archive, read_member
from lightning_sotl.curves._log_values import MOST_ENTRIES, check_table_size

_MODES = ("metric_mode", "final_mode")
# Version 3 is for field names in other alphabets, which plain arrays do not have.
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a table, except those that are None and `checkpoints` without a path.

    Raises:
        OSError: If the file cannot be written. An existing file is then unchanged.
        ValueError: If `path` does not end in ".npz".
    """
    if path.suffix != ".npz":
        raise ValueError(f"Expected `path` to end in '.npz' but got '{path}'.")
    arrays: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "checkpoints":
            value = [entry or "" for entry in value] if any(value) else None
        if value is not None:
            text = name in (*_MODES, "run_ids", "checkpoints")
            arrays[name] = np.asarray(value, dtype=np.str_ if text else np.float64)
    # With numbers and text only, NumPy has nothing to pickle.
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a table in a file, and the names of unknown arrays in it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If `write` cannot have written the file. The message names the field.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{visible(str(path))}'.")
    with open_archive(path, kind="an .npz archive") as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "train_loss" not in members:
            raise ValueError(
                f"Expected '{path}' to hold 'train_loss' but it holds {quote_all(sorted(members))}."
            )
        unknown = sorted(set(members) - set(names))
        fields = {
            name: _read(archive, members[name], name, path) for name in names if name in members
        }
    runs, epochs = (*fields["train_loss"].shape, 1, 1)[:2]
    check_table_size(path, runs, epochs)
    return fields, unknown


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, path: Path) -> Any:
    try:
        array = parse_npy(read_member(archive, member))
    except ValueError as error:
        raise ValueError(
            f"'{name}' in '{path}' cannot be read without pickle or is damaged: {error}"
        ) from None
    if name in _MODES:
        return str(array)
    if name not in ("run_ids", "checkpoints"):
        return array
    texts = tuple(str(entry) for entry in np.atleast_1d(array).tolist())
    return texts if name == "run_ids" else tuple(text or None for text in texts)


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array in a `.npy` file: numbers or text, with at most 3 dimensions.

    NumPy allocates the size in the header, so the size is first compared with the content.

    Raises:
        ValueError: If the file holds anything else, such as objects, or if its header does not
            match its length.
    """
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _HEADER_READERS[version](file)
    except Exception as error:  # NumPy's parser raises errors of many classes
        reason = quoted(str(error))
        raise ValueError(f"it is not an array of numbers or text (NumPy: {reason}).") from None
    # A dimension of a damaged header may be True, which is an integer to `isinstance`.
    is_sized = all(type(length) is int and 0 <= length < 2**63 for length in shape)
    if dtype.kind not in "biufU" or len(shape) > 3 or not is_sized:
        described = quoted(f"{dtype} of shape {shape}") if is_sized else "of impossible shape"
        raise ValueError(f"it is not an array of numbers or text but {described}.")
    entries, size = math.prod(shape), len(content) - file.tell()
    if entries > MOST_ENTRIES or entries * dtype.itemsize != size:
        raise ValueError(
            f"its header declares {entries:,} entries of {dtype.itemsize} bytes, but it has "
            f"{size:,} bytes; at most {MOST_ENTRIES:,} entries are read."
        )
    if dtype.kind == "U" and size:
        characters = np.frombuffer(content, dtype=f"{dtype.byteorder}u4", offset=file.tell())
        if characters.max() > sys.maxunicode:
            raise ValueError("it holds characters that do not exist.")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
