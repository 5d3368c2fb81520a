"""Where the callbacks of this package stand in the Trainer's list."""

from __future__ import annotations

from typing import Any, Generic

from lightning_sotl.callbacks._run import Own
from lightning_sotl.callbacks._trainer import Trainer


class LateCallback(Generic[Own]):
    """A callback that has to look after all others have logged; `Own` as in `RunBound`."""


def arrange(trainer: Trainer, *, first: type, late: type) -> None:
    """Put callbacks of type `first` in front, those of `late` behind all but Checkpoint callbacks.

    A callback that saves a checkpoint in `on_train_batch_end` before the monitor has seen that
    batch would store a state that is one loss short, and a stopper must look after all that may
    log. With this the user's order does not matter. Lightning itself arranges the list so.

    The list is replaced, not changed: Lightning may be walking through it.
    """
    checkpoints = list(trainer.checkpoint_callbacks)

    def place(callback: Any) -> int:
        if isinstance(callback, first):
            return 0
        if isinstance(callback, late):
            return 2
        return 3 if any(callback is checkpoint for checkpoint in checkpoints) else 1

    trainer.callbacks = sorted(trainer.callbacks, key=place)


def move_to_front(trainer: Trainer, callback: Any) -> None:
    """Put one callback in front of all others, for the hooks that are still to come."""
    others = [other for other in trainer.callbacks if other is not callback]
    trainer.callbacks = [callback, *others]
