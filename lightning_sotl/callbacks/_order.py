"""The order of this package's callbacks in the Trainer's list."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from lightning_sotl.callbacks._trainer import Trainer


class Place(IntEnum):
    """The position of a callback in the list; our callbacks declare it as `_sotl_place`."""

    first = 0
    anywhere = 1
    late = 2
    last = 3


def arrange(trainer: Trainer) -> None:
    """Sort the callbacks: the monitor first, stoppers late, then reporters, then checkpoints.

    The user's order then does not matter. The monitor must be first: a callback that saves a
    checkpoint in `on_train_batch_end` before the monitor would save a state that lacks one loss. A
    stopper must come after every callback that may log. Lightning itself keeps checkpoint callbacks
    last.

    The list is replaced instead of modified, because Lightning may be iterating over it.
    """
    checkpoints = trainer.checkpoint_callbacks

    def place_of(callback: Any) -> tuple[bool, Place]:
        is_checkpoint = any(callback is checkpoint for checkpoint in checkpoints)
        return is_checkpoint, getattr(type(callback), "_sotl_place", Place.anywhere)

    trainer.callbacks = sorted(trainer.callbacks, key=place_of)


def move_to_front(trainer: Trainer, callback: Any) -> None:
    """Move a callback to the front of the list, for the hooks that follow."""
    trainer.callbacks = [callback, *(cb for cb in trainer.callbacks if cb is not callback)]


def give_way(trainer: Trainer) -> None:
    """Remove each callback of the environment if the user has passed one of its kind.

    The others stay. Lightning calls `setup` of the removed ones too, but no later hook.
    """
    ours = [callback for callback in trainer.callbacks if hasattr(type(callback), "_sotl_place")]
    added = [callback for callback in ours if getattr(callback, "gives_way", False)]
    taken = {type(callback)._sotl_place for callback in ours if callback not in added}
    for callback in added:
        callback.gives_way = type(callback)._sotl_place in taken
    trainer.callbacks = [cb for cb in trainer.callbacks if not getattr(cb, "gives_way", False)]
