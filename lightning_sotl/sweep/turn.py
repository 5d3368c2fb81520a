"""`Turn`: one run of a sweep, ready to train from its last pause to the next rung."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks.monitor import SoTLMonitor
from lightning_sotl.callbacks.stopper import (
    REPEATS_TURN,
    EarlyRankingStopper,
    save_checkpoint,
)
from lightning_sotl.policies.stopping import StoppingReason
from lightning_sotl.sweep._checkpoints import refuse_pickle
from lightning_sotl.sweep._folder import ENDED
from lightning_sotl.sweep.promotion import loading


@dataclass
class Turn:
    """One run of a sweep, ready to train from `start_epoch` to `stop_epoch`.

    A Sweep makes the turns and passes them to your `train` function. Build the Trainer with
    `callbacks`, build the model from `params`, and call `fit`.

    Attributes:
        params: The candidate's dictionary.
        run_id: The run's name in `Sweep.ranking()` and in `lightning-sotl rank`.
        directory: The folder of this run, which holds its record and its checkpoints. You may also
            use it as the Trainer's `default_root_dir`.
        start_epoch: Completed epochs (or blocks) at the start of the turn.
        stop_epoch: Completed epochs (or blocks) at the end of the turn.
        checkpoint_path: The checkpoint from which the run resumes, or None on its first turn.
        monitor: The SoTLMonitor, which writes the record into `directory`.
        stopper: The EarlyRankingStopper, which ends the turn and saves the checkpoint into
            `directory`.
        max_epochs: The `max_epochs` that the Trainer must have, or None if the sweep counts blocks.
        unlogged: Set by `fit` if a metric that the sweep records has no value: the message names
            the metric and the available ones. Otherwise None.
        set_aside: Whether `train` raised for this turn in `Sweep.run`.

    Examples:
        >>> import pytorch_lightning as pl
        >>> def train(turn):
        ...     trainer = pl.Trainer(
        ...         max_epochs=30, callbacks=turn.callbacks, enable_checkpointing=False
        ...     )
        ...     turn.fit(trainer, Net(**turn.params), loader)
        >>> sweep.run(train)  # doctest: +SKIP
    """

    params: dict[str, Any]
    run_id: str
    directory: Path
    start_epoch: int
    stop_epoch: int
    checkpoint_path: str | None
    monitor: SoTLMonitor
    stopper: EarlyRankingStopper
    max_epochs: int | None
    unlogged: str | None = field(default=None, init=False)
    set_aside: bool = field(default=False, init=False)

    @property
    def callbacks(self) -> list[Any]:
        """A new list with the monitor and the stopper, for the Trainer's `callbacks`."""
        return [self.monitor, self.stopper]

    def fit(self, trainer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """Train the turn: call `trainer.fit(model, ...)` with the run's checkpoint.

        Args:
            trainer: A new Trainer on one device. Its callbacks include `turn.callbacks`, and its
                `max_epochs` is the policy's.
            model: The LightningModule, built from `params`.
            *args: Further arguments of `trainer.fit`, for example loaders or a DataModule.
            **kwargs: Further keyword arguments of `trainer.fit`. `weights_only` defaults to False,
                because the sweep itself wrote the checkpoint.

        Raises:
            ValueError: If the Trainer has another `max_epochs`, lacks the callbacks, or trains in
                several processes.
            OSError: If the checkpoint cannot be written, for example to a full disk.
        """
        self._refuse_other_callbacks(trainer)
        if trainer.world_size > 1:
            raise ValueError(
                "Expected the Trainer of a turn to have 1 process but got "
                f"{trainer.world_size}. The runs of a sweep take turns on one device."
            )
        if self.max_epochs is not None and trainer.max_epochs != self.max_epochs:
            raise ValueError(
                f"Expected the Trainer's `max_epochs` to be the policy's, {self.max_epochs}, but "
                f"got {trainer.max_epochs}. Learning-rate schedules depend on it."
            )
        weights_only = kwargs.pop("weights_only", False)
        with warnings.catch_warnings():
            # Both warnings are expected here: each turn logs into a new folder.
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
            if self.checkpoint_path is None:
                trainer.fit(model, *args, **kwargs)
            else:
                if weights_only is not False:
                    refuse_pickle(self.checkpoint_path, run_id=self.run_id, call="turn.fit")
                with loading(trainer, self.checkpoint_path, weights_only) as how:
                    trainer.fit(model, *args, ckpt_path=self.checkpoint_path, **kwargs, **how)
        logged = list(trainer.callback_metrics)
        missing = [name for name in self.monitor.record_metrics if name not in logged]
        if missing and trainer.current_epoch >= (trainer.check_val_every_n_epoch or 1):
            self.unlogged = f"{missing[0]!r} is not logged; available: {quote_all(logged)}"
        completed = self.monitor.units_completed
        if self.stopper.stopping_reason == StoppingReason.not_stopped and completed:
            # Something other than the stopper ended the run, so the run is complete.
            path = str(self.directory.absolute() / f"stopped-epoch={completed}{ENDED}")
            save_checkpoint(trainer, path, REPEATS_TURN)
            self.monitor.write_checkpoint(path)
            self.monitor.write_end(trainer)

    def _refuse_other_callbacks(self, trainer: Any) -> None:
        missing = [
            type(own).__name__
            for own in self.callbacks
            if not any(own is callback for callback in trainer.callbacks)
        ]
        if missing:
            raise ValueError(
                "Expected the Trainer to have the callbacks of the turn, "
                f"`callbacks=[*turn.callbacks, ...]`, but it lacks the {' and '.join(missing)}."
            )
