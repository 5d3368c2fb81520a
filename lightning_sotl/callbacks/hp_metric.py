"""The estimate as `hp_metric`, the column that TensorBoard's HPARAMS tab sorts runs by."""

from __future__ import annotations

from typing import Any

from lightning_sotl._user_warning import warn_user
from lightning_sotl.callbacks.trainer_facts import Trainer, logging_step


def warn_without_tensorboard(trainer: Trainer) -> None:
    """Warn, in `setup`, if no logger of this Trainer will show the value."""
    if trainer.is_global_zero and not trainer.fast_dev_run and not _loggers(trainer):
        warn_user(
            "`hp_metric=True` has no effect, since no logger of this Trainer is a "
            "TensorBoardLogger.",
        )


def log_hp_metric(trainer: Trainer, value: float) -> None:
    """Write `value` into every TensorBoard logger; on other ranks and in dry runs, nothing.

    The tab shows the point that was written last, so this one replaces the -1 that Lightning
    writes before the first batch.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return
    for logger in _loggers(trainer):
        hparams = dict(getattr(logger, "hparams", {}))
        logger.log_hyperparams(hparams, {"hp_metric": value}, step=logging_step(trainer))


def _loggers(trainer: Trainer) -> list[Any]:
    """Return the loggers of this Trainer that write for TensorBoard, of whichever package."""
    return [logger for logger in trainer.loggers if hasattr(logger.experiment, "add_hparams")]
