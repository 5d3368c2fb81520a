"""The order of this package's callbacks in the Trainer's list."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from lightning_sotl.callbacks._trainer import Trainer


class Place(IntEnum):
    """Where a callback belongs in the list; our classes have one as `_sotl_place`."""

    first = 0
    anywhere = 1
    late = 2
    last = 3


def arrange(trainer: Trainer) -> None:
    """Sort the callbacks: the monitor first, stoppers late, then reporters, then checkpoints.

    A callback that saves a checkpoint in `on_train_batch_end` before the monitor has seen that
    batch would store a state that is one loss short, and a stopper must look after all callbacks
    that may log. With this the user's order does not matter. Lightning itself keeps checkpoint
    callbacks last.

    The list is replaced and not changed, since Lightning may be iterating over it.
    """
    checkpoints = trainer.checkpoint_callbacks

    def place_of(callback: Any) -> tuple[bool, Place]:
        is_checkpoint = any(callback is checkpoint for checkpoint in checkpoints)
        return is_checkpoint, getattr(type(callback), "_sotl_place", Place.anywhere)

    trainer.callbacks = sorted(trainer.callbacks, key=place_of)


def move_to_front(trainer: Trainer, callback: Any) -> None:
    """Put one callback before all others, for the hooks that are still to come."""
    trainer.callbacks = [callback, *(cb for cb in trainer.callbacks if cb is not callback)]
