"""Reads the hyper-parameters in a stop's checkpoint, and saves results beside the checkpoint."""

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
    """Return the hyper-parameters in a checkpoint, or None, and the reason for None.

    It reads no weights and runs no code in the file. It does not read remote checkpoints.
    """
    if not _is_local_file(path):
        return None, "its checkpoint is not a local file"
    try:
        hparams = saved_hparams(_load_safely(path))
    except Exception as error:  # a damaged file may raise anything
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            return None, "its checkpoint cannot be read without pickle"
        return None, "its checkpoint cannot be read"
    # Tensors are views of the mapped file until they are copied.
    return copy.deepcopy(hparams), "its checkpoint has no hyper-parameters"


def saved_hparams(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the hyper-parameters of module and DataModule, or None if the checkpoint has none.

    If both have a name in common, the module's value is returned, as in the record.

    Examples:
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


def refuse_pickle(path: str, *, run_id: str, call: str) -> None:
    """Raise if a local checkpoint contains more than tensors and plain values.

    Raises:
        ValueError: If it does. The message names the argument that loads it anyway, and the risk.
    """
    if not _is_local_file(path) or not zipfile.is_zipfile(path):
        return  # Lightning reports the error
    try:
        _load_safely(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"Expected the checkpoint of run {run_id!r} to hold only tensors and plain values but "
            f"got {found[1] if found else 'an object'}, which needs pickle. If you trust the "
            f"source of '{path}', call `{call}(..., weights_only=False)`. Loading it then runs any "
            "code in the file."
        ) from error


class Reached(NamedTuple):
    """The completed epochs (or blocks) and the estimate of a run at its end."""

    epochs: int
    estimate: float | None


class Kept(NamedTuple):
    """The saved outcome of a promotion: the result of `train`, and what the run reached."""

    result: Any
    reached: Reached


def keep_result(path: str, estimate: float, kept: Kept) -> None:
    """Save the result of `train` beside the checkpoint, if it is all plain values and tensors."""
    if not _is_plain(kept.result) or "://" in path:
        return
    content = io.BytesIO()
    torch.save(
        {"estimate": estimate, "result": kept.result, "reached": tuple(kept.reached)}, content
    )
    try:
        write_whole(_result_path(path), content.getvalue())
    except OSError as error:
        warn_user(f"Cannot save the result of `train` for a later `promote`. {error}")


def kept_result(path: str, estimate: float) -> Kept | None:
    """Return what `keep_result` saved for a run with this estimate at T, or None."""
    file = _result_path(path)
    if not _is_local_file(str(file)):
        return None
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        # Another run may have overwritten a checkpoint that was not saved by a stop.
        if saved["estimate"] != estimate:
            return None
        return Kept(saved["result"], Reached(*saved["reached"]))
    except Exception:  # a damaged file counts as missing
        return None


def forget_result(path: str) -> None:
    """Delete what `keep_result` saved."""
    if "://" not in path:
        _result_path(path).unlink(missing_ok=True)


def _load_safely(path: str) -> dict[str, Any]:
    # A memory map avoids reading the weights. Only zip files can be mapped.
    mapped = zipfile.is_zipfile(path)
    checkpoint: dict[str, Any] = torch.load(
        path, map_location="cpu", weights_only=True, mmap=mapped
    )
    return checkpoint


def _is_local_file(path: str) -> bool:
    try:
        return "://" not in path and Path(path).is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple, set):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _result_path(path: str) -> Path:
    return Path(path).with_suffix(".result.pt")
