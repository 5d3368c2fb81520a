"""`LearningCurves` in an `.npz` file, without pickle in either direction."""

from __future__ import annotations

import dataclasses
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lightning_sotl._reading import open_regular
from lightning_sotl._wording import listed, visible
from lightning_sotl._writing import write_whole
from lightning_sotl.curves.archives import open_archive, read_member
from lightning_sotl.curves.logged import check_table_size
from lightning_sotl.curves.npy_arrays import parse_npy
from lightning_sotl.curves.table import LearningCurves

_NAMES = tuple(field.name for field in dataclasses.fields(LearningCurves))
_MODES = ("metric_mode", "final_mode")


def save(curves: LearningCurves, path: Path) -> None:
    """Write `curves`; an absent field is an absent key, and so are checkpoints if there is none.

    Raises:
        OSError: If it cannot be written; then what stood there before still does.
        ValueError: If `path` does not end in ".npz".
    """
    if path.suffix != ".npz":
        raise ValueError(f"Expected `path` to end in '.npz' but got '{path}'.")
    arrays: dict[str, Any] = {}
    for name in _NAMES:
        value = getattr(curves, name)
        if name == "checkpoints":
            value = [entry or "" for entry in value] if any(value) else None
        if value is not None:
            text = name in (*_MODES, "run_ids", "checkpoints")
            arrays[name] = np.asarray(value, dtype=np.str_ if text else np.float64)
    # Numbers and text only, checked above, so that NumPy has nothing to pickle.
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def load(path: Path) -> LearningCurves:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not what `save` writes; the message says in what.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{visible(str(path))}'.")
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"Expected '{path}' to be an .npz archive, but it is none.")
    with open_archive(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "train_loss" not in members:
            raise ValueError(
                f"Expected '{path}' to hold 'train_loss' but it holds {listed(sorted(members))}."
            )
        unknown = sorted(set(members) - set(_NAMES))
        fields = {
            name: _read(archive, members[name], name, path) for name in _NAMES if name in members
        }
    runs, epochs = (*fields["train_loss"].shape, 1, 1)[:2]
    check_table_size(path, runs, epochs, "it")
    if unknown:
        warnings.warn(
            f"'{visible(str(path))}' also holds {listed(unknown)}, which LearningCurves does not "
            "know; left out.",
            stacklevel=3,
        )
    try:
        return LearningCurves(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{path}' does not hold learning curves. {error}") from None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, path: Path) -> Any:
    try:
        array = parse_npy(read_member(archive, member))
        return _value(array, name)
    except ValueError as error:
        raise ValueError(
            f"'{name}' in '{path}' cannot be read without pickle, or is damaged, and is refused: "
            f"{error}"
        ) from None


def _value(array: Any, name: str) -> Any:
    if name in _MODES:
        return str(array)
    if name == "run_ids":
        return _texts(array)
    if name == "checkpoints":
        return tuple(entry or None for entry in _texts(array))
    return array


def _texts(array: Any) -> tuple[str, ...]:
    return tuple(str(entry) for entry in np.atleast_1d(array).tolist())
