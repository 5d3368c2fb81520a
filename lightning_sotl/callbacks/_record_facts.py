"""The facts about a run that its record stores, and the path of the record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_sotl._utils.messages import inform_user
from lightning_sotl.callbacks._trainer import Module, Trainer, training_loaders
from lightning_sotl.record.format import file_name
from lightning_sotl.record.writer import RunRecord

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def find_record(trainer: Trainer, *, prefix: str, directory: str | Path | None) -> RunRecord | None:
    """Return the record of this run, or None on other ranks and if there is no folder for it.

    A missing folder is reported once, at the start of the run.
    """
    if trainer.fast_dev_run or not trainer.is_global_zero:
        return None
    if directory is not None:
        return RunRecord(Path(directory) / file_name(prefix))
    problems = []
    for logger in trainer.loggers:
        folder, problem = _folder_of(logger)
        if folder is not None:
            return RunRecord(folder / file_name(prefix))
        problems.append(problem)
    inform_user(
        f"No record of this run is written because {(problems or ['it has no logger'])[0]}. "
        "`rank`, `evaluate` and `promote` will not find the run. Pass SoTLMonitor a `directory`, "
        "or `record=False` if you need no record."
    )
    return None


def _folder_of(logger: Any) -> tuple[Path | None, str]:
    """Return a logger's local folder for this run and "", or None and the reason."""
    folder, parts = getattr(logger, "log_dir", None), []
    if folder is None:
        # All runs of these loggers (W&B, MLflow) share one `save_dir`.
        folder = getattr(logger, "save_dir", None)
        parts = [getattr(logger, name, None) for name in ("name", "version")]
    if not isinstance(folder, (str, Path)):  # a mock has any attribute
        return None, f"{type(logger).__name__} has no directory"
    if "://" in str(folder):
        return None, f"'{folder}' cannot be appended to"
    return Path(folder).joinpath(*(str(part) for part in parts if isinstance(part, (str, int)))), ""


def run_facts(trainer: Trainer, pl_module: Module, *, block: int | None) -> dict[str, Any]:
    """Return the settings that two runs must share for their losses to be comparable."""
    batches = block if block is not None else trainer.num_training_batches
    schedules = (
        dict(callback.scheduling)
        for callback in trainer.callbacks
        if hasattr(callback, "going_to_accumulate_grad_batches")  # GradientAccumulationScheduler
    )
    sizes = (getattr(part, "batch_size", None) for part in training_loaders(trainer))
    # Lightning logs both. If they disagree on a name, it refuses to train with a logger.
    hparams = {**getattr(trainer.datamodule, "hparams", {}), **pl_module.hparams}
    return {
        "unit": "epoch" if block is None else block,
        "batches_per_unit": batches if isinstance(batches, int) else None,
        "batch_size": next((size for size in sizes if isinstance(size, int)), None),
        "world_size": trainer.world_size,
        "accumulate_grad_batches": next(schedules, int(trainer.accumulate_grad_batches)),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "precision": str(trainer.precision),
        "hparams": hparams,
    }


def network_of(pl_module: Module) -> str | None:
    """Return a short hash of a module's layers and their sizes, the same in every process.

    It distinguishes runs whose modules receive their layers as arguments and do not save them as
    hyper-parameters. It is None if the module's `repr` raises.
    """
    try:
        text = repr(pl_module)
    except Exception:  # the `repr` of a user's module may raise anything
        return None
    return hashlib.sha256(_ADDRESS.sub("", text).encode()).hexdigest()[:16]


def batch_size_of(batch: Any) -> int | None:
    """Return the first dimension that all tensors of a batch share, or None if they differ.

    Examples:
        >>> batch_size_of({"image": torch.zeros(4, 3), "label": [torch.zeros(4)], "name": "a"})
        4
    """
    sizes = set(_first_dimensions(batch))
    return sizes.pop() if len(sizes) == 1 else None


def _first_dimensions(batch: Any) -> Iterator[int]:
    if isinstance(batch, torch.Tensor):
        if batch.ndim:
            yield len(batch)
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _first_dimensions(part)
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from _first_dimensions(part)
