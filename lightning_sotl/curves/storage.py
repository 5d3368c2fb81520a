"""`LearningCurves` in an `.npz` file, without pickle in either direction."""

from __future__ import annotations

import dataclasses
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lightning_sotl.curves.table import LearningCurves

_NAMES = tuple(field.name for field in dataclasses.fields(LearningCurves))
_MODES = ("metric_mode", "final_mode")


def save(curves: LearningCurves, path: Path) -> None:
    """Write `curves`; an absent field is an absent key, and so are checkpoints if there is none.

    Raises:
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
    np.savez_compressed(path, **arrays)


def load(path: Path) -> LearningCurves:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not what `save` writes; the message says in what.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{path}'.")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"Expected '{path}' to be an .npz archive, but it is none.")
    with path.open("rb") as file, _opened(file, path) as archive:
        if "train_loss" not in archive.files:
            found = ", ".join(map(repr, sorted(archive.files))) or "nothing"
            raise ValueError(f"Expected '{path}' to hold 'train_loss' but it holds {found}.")
        unknown = sorted(set(archive.files) - set(_NAMES))
        fields = {name: _read(archive, name, path) for name in _NAMES if name in archive.files}
    if unknown:
        warnings.warn(
            f"'{path}' also holds {', '.join(map(repr, unknown))}, which LearningCurves does not "
            "know; left out.",
            stacklevel=3,
        )
    try:
        return LearningCurves(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{path}' does not hold learning curves. {error}") from None


def _opened(file: BinaryIO, path: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"'{path}' is damaged and cannot be read: {error}.") from None


def _read(archive: Any, name: str, path: Path) -> Any:
    try:
        array = archive[name]
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        # NumPy refuses an array of Python objects, which only pickle could read.
        raise ValueError(
            f"'{name}' in '{path}' cannot be read without pickle, or is damaged, and is refused: "
            f"{error}"
        ) from None
    if name in _MODES:
        return str(array)
    if name == "run_ids":
        return _texts(array)
    if name == "checkpoints":
        return tuple(entry or None for entry in _texts(array))
    return array


def _texts(array: Any) -> tuple[str, ...]:
    return tuple(str(entry) for entry in np.atleast_1d(array).tolist())
