"""What can be seen to go wrong before the first batch, and what the user can do about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks._trainer import Look, Trainer, look_of


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
            f"{quote_all(twice)}. Give one of them another `prefix`."
        )


def warn_of_early_looks(trainer: Trainer, first_values: Mapping[str, int]) -> None:
    """Warn if EarlyStopping or ModelCheckpoint will read a metric before it exists, and raise.

    Args:
        trainer: The Trainer, with its loaders set up.
        first_values: Name -> after how many training batches it has its first value.
    """
    if not math.isfinite(trainer.num_training_batches):
        return
    for callback in trainer.callbacks:
        name = str(getattr(callback, "monitor", None))
        problem = _problem(trainer, callback, first_values[name]) if name in first_values else None
        if problem:
            warn_user(f"{type(callback).__name__}(monitor={name!r}) {problem}")


def _problem(trainer: Trainer, callback: Any, first_value: int) -> str | None:
    """Return what is wrong with the first look of a callback; None if nothing is."""
    look = look_of(trainer, callback)
    if look is None:
        return None
    cure = f"Pass `{'check' if look.stops else 'save'}_on_train_epoch_end=True`."
    if look.stops and not look.at_epoch_end and not trainer.enable_validation:
        return f"looks only after validation, and there is none. {cure}"
    epoch = trainer.num_training_batches
    if not look.raises or (first := _first_look(trainer, look)) >= first_value:
        return None
    if not look.at_epoch_end and look.every * epoch >= first_value:
        return (
            "looks after each validation, the first of which comes before an epoch is complete, "
            f"so there is no value yet and it will raise. {cure}"
        )
    cure = "strict=False" if look.stops else f"every_n_epochs={math.ceil(first_value / epoch)}"
    return (
        f"looks after {first:.0f} batches and will raise, since the first value comes after "
        f"{first_value}. Pass `{cure}`."
    )


def _first_look(trainer: Trainer, look: Look) -> float:
    """Return the number of batches after which a callback looks first."""
    epoch = trainer.num_training_batches
    if look.at_epoch_end:
        return float(look.every * epoch)
    interval = trainer.val_check_batch
    if interval is None:  # by the clock
        return math.inf
    if trainer.check_val_every_n_epoch is None:
        return float(interval)
    epochs = math.lcm(look.every, trainer.check_val_every_n_epoch)
    return float((epochs - 1) * epoch + min(interval, epoch))
