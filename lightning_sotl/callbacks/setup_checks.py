"""What can be seen to go wrong before the first batch, and what the user can do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_sotl.callbacks.trainer_facts import Trainer


def refuse_shared_names(names_of_monitors: Iterable[Iterable[str]]) -> None:
    """Raise if two monitors of one Trainer log the same name: Lightning would average them.

    Raises:
        ValueError: Naming what is logged twice.
    """
    counts = Counter(name for names in names_of_monitors for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            "Expected each SoTLMonitor of a Trainer to log names of its own, but two log "
            f"{', '.join(map(repr, twice))}. Give one of them another `prefix`."
        )


def warn_of_early_looks(trainer: Trainer, names: dict[str, int | float | None]) -> None:
    """Warn where EarlyStopping or ModelCheckpoint will look before a value exists.

    Args:
        trainer: The Trainer, with its loaders set up.
        names: The epoch estimates' names and kinds, see `history.metric_names`.
    """
    for callback in trainer.callbacks:
        monitored = getattr(callback, "monitor", None)
        if monitored not in names:
            continue
        look = _looks_after_validation(trainer, callback)
        if look is None:
            continue
        argument, after_validation = look
        window = names[monitored]
        message = _problem(trainer, argument, after_validation, window)
        if message:
            rank_zero_warn(
                f"{type(callback).__name__}(monitor={monitored!r}) {message}", stacklevel=2
            )


def _looks_after_validation(trainer: Trainer, callback: Any) -> tuple[str, bool] | None:
    """Return the argument that moves the callback's look, and whether it is after validation."""
    if hasattr(callback, "_check_on_train_epoch_end"):
        return "check_on_train_epoch_end", not callback._check_on_train_epoch_end
    if hasattr(callback, "_should_save_on_train_epoch_end"):
        return "save_on_train_epoch_end", not callback._should_save_on_train_epoch_end(trainer)
    return None


def _problem(
    trainer: Trainer, argument: str, after_validation: bool, window: int | float | None
) -> str | None:
    if after_validation and not trainer.enable_validation:
        if argument == "check_on_train_epoch_end":
            return f"looks only after validation, and there is none. Pass `{argument}=True`."
        return None
    if after_validation and _validates_inside_first_epoch(trainer):
        return (
            "looks after each validation, the first of which comes before an epoch is complete, "
            f"so there is no value yet and it will raise. Pass `{argument}=True`."
        )
    if isinstance(window, int) and window > 1:
        return (
            f"looks before {window} epochs are complete, when there is no value yet. "
            "Monitor the estimate over one epoch, or give EarlyStopping `strict=False`."
        )
    return None


def _validates_inside_first_epoch(trainer: Trainer) -> bool:
    if not trainer.enable_validation or trainer.check_val_every_n_epoch not in (None, 1):
        return False
    interval = trainer.val_check_batch
    return interval is not None and interval < trainer.num_training_batches
