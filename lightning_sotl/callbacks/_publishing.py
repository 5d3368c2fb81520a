"""Shows estimates to other callbacks, on the progress bar and in loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Module, Trainer, logging_step
from lightning_sotl.losses.window import accumulation_dtype


def warn_without_tensorboard(trainer: Trainer) -> None:
    """Warn, in `setup`, if this Trainer has no TensorBoard logger."""
    if trainer.is_global_zero and not trainer.fast_dev_run and not _loggers(trainer):
        warn_user(
            "`hp_metric=True` has no effect because no logger of this Trainer is a "
            "TensorBoardLogger.",
        )


def log_hp_metric(trainer: Trainer, value: float) -> None:
    """Write `value` to every TensorBoard logger, on rank 0 and except with `fast_dev_run`.

    TensorBoard's HPARAMS tab shows the newest value, so this one replaces the -1 that Lightning
    writes before the first batch.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return
    for logger in _loggers(trainer):
        hparams = dict(getattr(logger, "hparams", {}))
        logger.log_hyperparams(hparams, {"hp_metric": value}, step=logging_step(trainer))


def _loggers(trainer: Trainer) -> list[Any]:
    """Return this Trainer's TensorBoard loggers, from either Lightning package."""
    return [logger for logger in trainer.loggers if hasattr(logger.experiment, "add_hparams")]


def show(trainer: Trainer, names: Iterable[str], estimates: Mapping[str, float]) -> None:
    """Put the newest estimates into `callback_metrics`, and remove older ones."""
    shown, device = trainer.callback_metrics, trainer.strategy.root_device
    for name in names:
        shown.pop(name, None)
    for name, value in estimates.items():
        shown[name] = torch.tensor(value, dtype=accumulation_dtype(device), device=device)


def log_with_epoch(
    trainer: Trainer, pl_module: Module, names: Iterable[str], *, prog_bar: bool
) -> None:
    """Let Lightning log the values that `show` stored, together with this epoch's other metrics."""
    if trainer.barebones:  # logging is off, and `log` would only warn about that
        return
    values = {name: trainer.callback_metrics[name] for name in names}
    for name, value in values.items():
        # The value is the same on all ranks. `sync_dist` avoids Lightning's warning about that, and
        # `rank_zero_only` avoids another reduction when a rank first reads the value.
        pl_module.log(
            name,
            value,
            prog_bar=prog_bar,
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=True,
            rank_zero_only=True,
        )


def log_point(trainer: Trainer, estimates: Mapping[str, float], *, epoch: int) -> None:
    """Write one point to every logger now, at Lightning's own x coordinate.

    Blocks are logged this way, because `log` would average them over an epoch, or drop those
    between two multiples of `log_every_n_steps`.
    """
    for logger in trainer.loggers if estimates else ():
        logger.log_metrics({**estimates, "epoch": epoch}, step=logging_step(trainer))


def log_on_unit_axis(trainer: Trainer, estimates: Mapping[str, float], unit: int) -> None:
    """Write `<name>/epoch` to every logger, with the index of the epoch (or block) as x."""
    for logger in trainer.loggers if estimates else ():
        logger.log_metrics({f"{name}/epoch": v for name, v in estimates.items()}, step=unit)
