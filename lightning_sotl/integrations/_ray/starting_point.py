"""The checkpoint from which a Ray Tune trial starts, if any."""

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
    """The point from which a Ray Tune trial starts.

    Attributes:
        checkpoint_path: The checkpoint to pass to `trainer.fit(ckpt_path=...)`. None if the trial
            starts from scratch.
        promoted: Whether the trial is a winner that is trained to the end. Pass it to
            `EarlyRankingStopper(promoted=...)`.
    """

    checkpoint_path: str | None
    promoted: bool


@contextmanager
def starting_point() -> Iterator[StartingPoint]:
    """Return the point from which this Ray Tune trial starts, as a context manager.

    Call it in the trainable, and train inside the `with` block. The checkpoint is, in this order:

    1. The trial's own newest checkpoint, if a worker died, the trial was paused, or the sweep was
       restored.
    2. The checkpoint of the trial that `promote` continues.
    3. None: the trial starts from scratch. This is also the case outside Ray Tune.

    A checkpoint in remote storage is downloaded, and the local copy is removed at the end of the
    block.

    Returns:
        A context manager whose value is a `StartingPoint`, with `checkpoint_path` and `promoted`.

    Examples:
        >>> from lightning_sotl import EarlyRankingStopper, SoTLMonitor
        >>> from lightning_sotl.integrations.ray import RayReporter, starting_point
        >>> def trainable(config):
        ...     with starting_point() as start:
        ...         stopper = EarlyRankingStopper(stop_epoch=3, promoted=start.promoted)
        ...         callbacks = [SoTLMonitor(), stopper, RayReporter()]
        ...         trainer = Trainer(max_epochs=30, callbacks=callbacks)
        ...         trainer.fit(Net(**config), ckpt_path=start.checkpoint_path, weights_only=True)
        >>> with starting_point() as start:  # outside a trial
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
    """Call a trainable so that its starting point is the checkpoint of another trial.

    Workers import this function from here, because a ContextVar cannot be pickled.
    """
    token = _promoted_from.set(checkpoint)
    try:
        return trainable(config)
    finally:
        _promoted_from.reset(token)
