"""What promotion reads from a stop's checkpoint, and what it keeps beside it."""

from __future__ import annotations

import copy
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_sotl._utils.files import write_whole
from lightning_sotl._utils.messages import warn_user
from lightning_sotl.record.format import without_cli_keys

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor)


def hparams_in(path: str) -> tuple[dict[str, Any] | None, str]:
    """Return the hyper-parameters in a checkpoint, or None and why there are none.

    It reads no weights and runs nothing in the file. A remote checkpoint is not read.
    """
    if not _is_local_file(path):
        return None, "its checkpoint is not a file here"
    try:
        hparams = saved_hparams(_load_safely(path))
    except Exception as error:  # whatever a damaged file may cause
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            return None, "its checkpoint cannot be read without pickle"
        return None, "its checkpoint cannot be read"
    # The tensors among them are views of the file until they are copied.
    return copy.deepcopy(hparams), "its checkpoint has no hyper-parameters"


def saved_hparams(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the hyper-parameters of module and DataModule; None if the checkpoint has none.

    The module's win if both have a name, as in the record.

    Example:
        >>> saved_hparams({"hyper_parameters": {"lr": 1}, "datamodule_hyper_parameters": {"n": 4}})
        {'n': 4, 'lr': 1}
    """
    parts = [
        checkpoint[key]
        for key in ("datamodule_hyper_parameters", "hyper_parameters")
        if key in checkpoint
    ]
    if not parts:
        return None
    return without_cli_keys({name: value for part in parts for name, value in part.items()})


def refuse_pickle(path: str, *, run_id: str, method: str) -> None:
    """Raise if a local checkpoint holds more than tensors and plain values.

    Raises:
        ValueError: The message names the argument that loads it anyway, and the risk.
    """
    if not _is_local_file(path) or not zipfile.is_zipfile(path):
        return  # Lightning reports what is wrong with it
    try:
        _load_safely(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"Expected the checkpoint of run {run_id!r} to hold only tensors and plain values but "
            f"got {found[1] if found else 'an object'}, which needs pickle. If you trust who wrote "
            f"'{path}', call `winner.{method}(..., weights_only=False)`: loading it then runs any "
            "code that is in the file."
        ) from error


class Reached(NamedTuple):
    """What a run reached at its end: completed epochs (or blocks), and its estimate."""

    epochs: int
    estimate: float | None


class Kept(NamedTuple):
    """What is kept of a promotion: what `train` returned, and what the run reached."""

    result: Any
    reached: Reached


def keep_result(path: str, estimate: float, kept: Kept) -> None:
    """Keep the result of `train` beside the checkpoint, if it is all plain values and tensors."""
    if not _is_plain(kept.result) or "://" in path:
        return
    content = io.BytesIO()
    torch.save(
        {"estimate": estimate, "result": kept.result, "reached": tuple(kept.reached)}, content
    )
    try:
        write_whole(_result_path(path), content.getvalue())
    except OSError as error:
        warn_user(f"The result of `train` cannot be kept for a later `promote`. {error}")


def kept_result(path: str, estimate: float) -> Kept | None:
    """Return what `keep_result` kept of a run with this estimate at T; None if it kept nothing."""
    file = _result_path(path)
    if not _is_local_file(str(file)):
        return None
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        # A checkpoint that is not a stop's own may have been written anew by another run.
        if saved["estimate"] != estimate:
            return None
        return Kept(saved["result"], Reached(*saved["reached"]))
    except Exception:  # a damaged file counts as none
        return None


def forget_result(path: str) -> None:
    """Remove what `keep_result` kept."""
    if "://" not in path:
        _result_path(path).unlink(missing_ok=True)


def _load_safely(path: str) -> dict[str, Any]:
    # A memory map reads no weights; files that are no zip have none.
    mapped = zipfile.is_zipfile(path)
    checkpoint: dict[str, Any] = torch.load(
        path, map_location="cpu", weights_only=True, mmap=mapped
    )
    return checkpoint


def _is_local_file(path: str) -> bool:
    try:
        return "://" not in path and Path(path).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple, set):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _result_path(path: str) -> Path:
    return Path(path).with_suffix(".result.pt")
