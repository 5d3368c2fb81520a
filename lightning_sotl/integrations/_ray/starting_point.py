"""Where a trial of Ray Tune begins: its own checkpoint after a failure, or the one of its stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from lightning_sotl.integrations._ray.session import in_trial

CHECKPOINT_NAME = "checkpoint.ckpt"
_promoted_from: ContextVar[tune.Checkpoint | None] = ContextVar("promoted_from", default=None)


@dataclass(frozen=True)
class StartingPoint:
    """Where a trial begins.

    Attributes:
        checkpoint_path: For `trainer.fit(ckpt_path=...)`; None for a trial that begins anew.
        promoted: For `EarlyRankingStopper(promoted=...)`: whether the trial has won and is
            trained to the end.
    """

    checkpoint_path: str | None
    promoted: bool


@contextmanager
def starting_point() -> Iterator[StartingPoint]:
    """Give the checkpoint that this trial has to go on from, for as long as the block lasts.

    That is the trial's own newest checkpoint if a worker has died, the trial was paused or the
    sweep was restored; else the one of the stop that `promote` continues; else none. One in a
    remote storage is fetched, and removed at the end. Outside of Ray Tune a trial begins anew.

    Example:
        >>> with starting_point() as start:
        ...     print(start)
        StartingPoint(checkpoint_path=None, promoted=False)
    """
    origin = _promoted_from.get()
    checkpoint = (tune.get_checkpoint() if in_trial() else None) or origin
    if checkpoint is None:
        yield StartingPoint(None, promoted=False)
        return
    with checkpoint.as_directory() as folder:
        yield StartingPoint(str(Path(folder) / CHECKPOINT_NAME), promoted=origin is not None)


def call_promoted(
    trainable: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    checkpoint: tune.Checkpoint,
) -> Any:
    """Call a trial's function so that its starting point is the stop of another trial.

    It is a function of this module so that workers import it: a ContextVar cannot be sent.
    """
    token = _promoted_from.set(checkpoint)
    try:
        return trainable(config)
    finally:
        _promoted_from.reset(token)
