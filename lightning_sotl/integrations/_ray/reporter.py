"""From a run's estimates to Ray Tune: the reporter, free of either Lightning package."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from lightning_sotl._utils import validation
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.callbacks import _stop_checkpoint
from lightning_sotl.callbacks._monitored import counts_blocks, missing_monitor, producer_of
from lightning_sotl.callbacks._order import LateCallback, arrange, move_to_front
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    epoch_is_whole,
    is_same_value,
    limits_allow_stop,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.callbacks.monitor import MonitorLogic
from lightning_sotl.callbacks.stopper import stoppers_of
from lightning_sotl.integrations._ray import session
from lightning_sotl.integrations._ray.starting_point import CHECKPOINT_NAME
from lightning_sotl.policies.stopping import StoppingReason

_RANDOM_STATES = "lightning_sotl_random_states"


class ReporterLogic(LateCallback["ReporterLogic"]):
    """Reports each completed epoch (or block) to Ray Tune once, with what a trial goes on from.

    A report has the monitored estimate, `epochs_completed`, and the same number of epochs as
    `training_iteration`, which Ray's schedulers count by (in block mode: the number of blocks). It
    is made when all of the epoch is done, before the next one begins or at the end of the run, so
    that a trial that Ray retries, pauses, restores or promotes goes on from its checkpoint as if
    it had never ended, and no epoch is reported twice. An epoch that was cut, or in which the
    monitored name was not logged, is not reported.

    A trial that Ray stops ends through `trainer.should_stop`, with all of Lightning's hooks and
    complete logs. A run whose first estimate is not finite has diverged from the start, reports
    `inf` and ends.

    Args:
        monitor: The logged metric to report; any that is logged will do.
        metrics: Names of other logged metrics to report, NaN where they were not logged since
            the last report.
        checkpoint_every: N, at least 1: every N-th report has a checkpoint, and so has the last
            one of a run that ends by itself. With N above 1 a trial that Ray retries reports the
            epochs since its checkpoint again. None for no checkpoints: no trial can go on.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
        RuntimeError: In `setup`, if the Trainer has more than one process, as Ray hears only the
            trial's own.

    Example:
        >>> from lightning_sotl.integrations.ray import RayReporter
        >>> RayReporter(metrics=["val_acc"]).monitor
        'sotl_e1'
    """

    stopped_by_ray: bool
    _reported: int  # units
    _whole_epochs: int
    _seen: dict[str, Any]  # what was shown at the last report
    _random_states: list[dict[str, Any]] | None  # of the checkpoint that the run goes on from
    _states_to_save: list[dict[str, Any]] | None
    _any_finite: bool
    _ends: bool
    _saving: bool
    _in_blocks: bool

    def __init__(
        self,
        monitor: str = "sotl_e1",
        metrics: Sequence[str] = (),
        checkpoint_every: int | None = 1,
    ) -> None:
        super().__init__()
        self.monitor = validation.text("monitor", monitor)
        if isinstance(metrics, str):
            raise TypeError(f"Expected `metrics` to be a sequence of names but got {metrics!r}.")
        self.metrics = tuple(validation.text("metrics", name) for name in metrics)
        if checkpoint_every is not None:
            checkpoint_every = validation.positive_int("checkpoint_every", checkpoint_every)
        self.checkpoint_every = checkpoint_every
        self._random_states = None
        self._reset()

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Take a place behind the stoppers, whose decision a report has to wait for."""
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise RuntimeError(
                f"Expected a trial's Trainer to have 1 process but got {trainer.world_size}: Ray "
                "hears only the trial's own process. Give it one device, or train with Ray's "
                "TorchTrainer."
            )
        if not session.in_trial():
            warn_user("This is no trial of Ray Tune, so nothing is reported.")
        trainer.callbacks = [cb for cb in trainer.callbacks if cb is not self] + [self]
        arrange(trainer, first=MonitorLogic, late=LateCallback)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Go on behind the epochs that the checkpoint has, which were reported."""
        self._reset()
        self._in_blocks = counts_blocks(trainer, self.monitor)
        self._whole_epochs = trainer.current_epoch
        self._reported = self._completed(trainer)
        self._any_finite = self._reported > 0
        self._seen = dict(trainer.callback_metrics)
        states, self._random_states = self._random_states, None
        if states is not None:
            _stop_checkpoint.resume_as_if_never_stopped(trainer, states)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a block that this batch has filled, if neither validation nor epoch end follow.

        A stopper waits for those, too.
        """
        if (
            self._in_blocks
            and self._completed(trainer) > self._reported
            and not trainer.is_last_batch
            and not validation_is_due(trainer)
        ):
            self._report(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report a block with whose last batch a validation was due."""
        if self._in_blocks and not (trainer.sanity_checking or trainer.is_last_batch):
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Note a complete epoch; its report comes when the step of ReduceLROnPlateau is done."""
        if trains_without_backward(trainer):
            return
        if epoch_is_whole(trainer):
            self._whole_epochs = trainer.current_epoch + 1
        if trainer.reload_dataloaders_every_n_epochs:
            # The next loader, which draws random numbers, is made before the report.
            self._states_to_save = _stop_checkpoint.gather_random_states(trainer)
        if trainer.should_stop or not self._in_blocks:
            # To save before others begin the next epoch, or do in `on_train_end` what changes
            # the weights; but behind a stopper that has moved itself to the front, too.
            move_to_front(trainer, self)
            for stopper in stoppers_of(trainer):
                if stopper.stopping_reason != StoppingReason.not_stopped:
                    move_to_front(trainer, stopper)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Report the epoch before, and begin no other if the trial shall end."""
        with _stop_checkpoint.before_epoch(trainer):
            self._report(trainer)
        if self._ends:
            trainer.should_stop = True
            _stop_checkpoint.begin_no_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report the last epoch, behind a stopper that has ended the run."""
        self._report(trainer, last=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state to the checkpoints of reports, where a stopper expects it."""
        if self._states_to_save is None or not self._saving:
            return
        stoppers = stoppers_of(trainer)
        for stopper in stoppers:
            state = checkpoint["callbacks"][stopper.state_key]
            state.setdefault("random_states", self._states_to_save)
        if not stoppers:
            checkpoint[_RANDOM_STATES] = self._states_to_save

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Take back the random state."""
        self._random_states = checkpoint.get(_RANDOM_STATES)

    # --- how it is done

    def _report(self, trainer: Trainer, *, last: bool = False) -> None:
        unit = self._completed(trainer)
        if unit <= self._reported or not session.in_trial() or self.stopped_by_ray:
            return
        new = self._logged_since_last_report(trainer)
        if self.monitor not in new:
            self._explain_missing(trainer)
            return
        self._reported = unit
        value = new[self.monitor] if math.isfinite(new[self.monitor]) else math.inf
        metrics = {name: new.get(name, math.nan) for name in self.metrics}
        metrics |= {self.monitor: value, "epochs_completed": self._whole_epochs}
        metrics["training_iteration"] = unit
        self._any_finite = self._any_finite or math.isfinite(value)
        every = self.checkpoint_every
        saves = every is not None and (last or unit % every == 0)
        self.stopped_by_ray = self._send(trainer, metrics, with_checkpoint=saves)
        self._ends = self.stopped_by_ray or not self._any_finite
        if self._ends and limits_allow_stop(trainer, self._whole_epochs):
            trainer.should_stop = True
            if self.stopped_by_ray:
                for stopper in stoppers_of(trainer):
                    # What the trial goes on from is the checkpoint of the report.
                    stopper.end_by_policy(trainer, self._whole_epochs, save=False)

    def _send(self, trainer: Trainer, metrics: dict[str, Any], *, with_checkpoint: bool) -> bool:
        """Report to Ray, and return whether Ray wants the trial to end."""
        with tempfile.TemporaryDirectory() as folder:  # Ray has copied it when it has heard
            checkpoint = None
            if with_checkpoint:
                self._save(trainer, str(Path(folder) / CHECKPOINT_NAME))
                checkpoint = tune.Checkpoint.from_directory(folder)
            return session.report(metrics, checkpoint)

    def _save(self, trainer: Trainer, path: str) -> None:
        if self._states_to_save is None:
            self._states_to_save = _stop_checkpoint.gather_random_states(trainer)
        self._saving = True
        try:
            trainer.save_checkpoint(path)
        finally:
            self._saving, self._states_to_save = False, None

    def _completed(self, trainer: Trainer) -> int:
        producer = producer_of(trainer, self.monitor)
        return self._whole_epochs if producer is None else producer.units_completed

    def _logged_since_last_report(self, trainer: Trainer) -> dict[str, float]:
        """Return what is new: Lightning keeps showing what was logged in an earlier epoch."""
        shown = dict(trainer.callback_metrics)
        before, self._seen = self._seen, shown
        return {
            name: float(shown[name])
            for name in (self.monitor, *self.metrics)
            if name in shown and not is_same_value(shown[name], before.get(name))
        }

    def _explain_missing(self, trainer: Trainer) -> None:
        if (
            producer_of(trainer, self.monitor) is None
            and self.monitor not in trainer.callback_metrics
        ):
            available = quote_all(list(trainer.callback_metrics))
            cure = missing_monitor(trainer, self.monitor)
            warn_user(f"`monitor={self.monitor!r}` is not logged; available: {available}.{cure}")

    def _reset(self) -> None:
        self.stopped_by_ray = False
        self._reported = 0
        self._whole_epochs = 0
        self._seen = {}
        self._any_finite = False
        self._ends = False
        self._states_to_save = None
        self._saving = False
        self._in_blocks = False
