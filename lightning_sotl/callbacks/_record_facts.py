"""Which facts of a running Trainer go into the record, and where the record is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Module, Trainer, training_loaders
from lightning_sotl.record.format import file_name
from lightning_sotl.record.writer import RunRecord


def find_record(trainer: Trainer, *, prefix: str) -> RunRecord | None:
    """Return the record of this run; None on other ranks and without a directory for it."""
    if not trainer.loggers or trainer.fast_dev_run or not trainer.is_global_zero:
        return None
    logger = trainer.loggers[0]
    directory, parts = getattr(logger, "log_dir", None), []
    if directory is None:
        # The `save_dir` of these loggers (W&B, MLflow) is one for all runs.
        directory, parts = logger.save_dir, [logger.name, logger.version]
    if directory is None:
        return None
    if "://" in str(directory):
        warn_user(
            f"The run's record is not written: it is appended to, which '{directory}' does not "
            "allow. Give the Trainer a first logger with a local directory, or `record=False`.",
        )
        return None
    folder = Path(directory).joinpath(*(str(part) for part in parts if part is not None))
    return RunRecord(folder / file_name(prefix))


def run_facts(trainer: Trainer, pl_module: Module, *, block: int | None) -> dict[str, Any]:
    """Return what must be alike in two runs for their losses to be comparable."""
    batches = block if block is not None else trainer.num_training_batches
    schedules = (
        dict(callback.scheduling)
        for callback in trainer.callbacks
        if hasattr(callback, "going_to_accumulate_grad_batches")  # GradientAccumulationScheduler
    )
    sizes = (getattr(part, "batch_size", None) for part in training_loaders(trainer))
    return {
        "unit": "epoch" if block is None else block,
        "batches_per_unit": batches if isinstance(batches, int) else None,
        "batch_size": next((size for size in sizes if isinstance(size, int)), None),
        "world_size": trainer.world_size,
        "accumulate_grad_batches": next(schedules, int(trainer.accumulate_grad_batches)),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "precision": str(trainer.precision),
        "hparams": dict(pl_module.hparams),
    }
