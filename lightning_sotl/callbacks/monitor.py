"""From the outputs of Lightning's training step to logged estimates: the monitor callback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sotl._user_warning import warn_user
from lightning_sotl._wording import listed
from lightning_sotl.callbacks import publishing, setup_checks
from lightning_sotl.callbacks.monitor_state import MonitorState
from lightning_sotl.callbacks.order import LateCallback, arrange
from lightning_sotl.callbacks.recorder import Recorder, find_record, run_facts
from lightning_sotl.callbacks.trainer_facts import (
    Module,
    Trainer,
    batches_behind,
    batches_into_epoch,
    batches_not_seen,
    begins_epoch_anew,
    epoch_is_whole,
    is_distributed,
    sum_over_ranks,
    train_whole_epochs_after_resume,
    trains_without_backward,
)
from lightning_sotl.monitor_name import parse_monitor
from lightning_sotl.window import LossWindow


class MonitorLogic(MonitorState):
    __doc__ = MonitorState.__doc__

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Forget another Trainer's run, and take the first place in the list of callbacks."""
        self._is_global_zero = trainer.is_global_zero
        if not self._bind(trainer, stage):
            return
        self._raised = False
        setup_checks.refuse_shared_names(one.metric_names for one in monitors_of(trainer))
        arrange(trainer, first=MonitorLogic, late=LateCallback)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start afresh or go on, and make what is known visible before the first batch."""
        train_whole_epochs_after_resume(trainer)
        if trainer.fit_loop.total_batch_idx < 0:
            self._forget_run()
        else:
            self._go_on(trainer)
        # Only the automatic loss is a clone already.
        self._takes_loss_as_it_is = self.loss_key == "loss" and pl_module.automatic_optimization
        self._warn_of_early_looks(trainer)
        if self._lost_ranks:
            self._warn_of_lost_ranks()
        self._start_record(trainer, pl_module)
        history = self._losses.history
        publishing.show(trainer, self._kinds, history.estimates())
        newest = history.completed - 1
        if self.every_n_train_batches is None and self._logged < newest < trainer.current_epoch:
            # Resumed from the epoch's last batch: Lightning calls no epoch end for it any more.
            publishing.log_point(trainer, history.estimates(), epoch=newest)
            self._logged = newest

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step's loss; close the epoch with its last batch, or the block when full.

        Closing here, and not at the epoch's end, makes the estimate visible to the validation
        that follows the last batch.
        """
        # A step's cost is mostly calls, so the usual case makes few: properties are spelled out.
        loop, losses, block = trainer.fit_loop, self._losses, self.every_n_train_batches
        window = losses.open
        unit = losses.history.completed if block else loop.epoch_progress.current.completed
        if block or window is None or window.unit != unit:
            if trains_without_backward(trainer):
                return
            window = losses.window(unit)
        window.steps += 1
        loss = outputs.get(self.loss_key) if outputs else None
        if self._takes_loss_as_it_is and type(loss) is Tensor and not loss.ndim:
            self._loss_seen = True
            window.add(loss, trainer.accumulate_grad_batches)
        elif outputs:
            loss = self._loss(outputs)
            if loss is not None:
                # Lightning has divided the loss, but no other entry of the outputs.
                window.add(loss, trainer.accumulate_grad_batches if self.loss_key == "loss" else 1)
        if window.steps == block if block else loop.epoch_loop.batch_progress.is_last_batch:
            if not block and unit >= losses.history.completed:
                self._note_partial_epoch(window, batches_not_seen(trainer, window.steps))
            self._close(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Close an epoch whose end only its loader knew; log one that a resume has closed."""
        if self.every_n_train_batches is not None or trains_without_backward(trainer):
            return
        epoch, history, window = trainer.current_epoch, self._losses.history, self._losses.open
        if window is not None and window.unit == epoch and window.steps:
            # Lightning trains one more batch of a complete epoch on some resumes.
            if epoch in history or epoch_is_whole(trainer):
                self._close(trainer, pl_module)
        elif history.completed == epoch + 1 and self._handed_to_lightning < epoch:
            self._publish(trainer, pl_module, epoch)
        if history.completed == epoch + 1:
            self._logged = epoch

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Say in the record how the run ended, unless a stopper has."""
        if trainer.should_stop:
            self._recorder.status("stopped", reason="trainer.should_stop")
        else:
            self._recorder.status("finished")

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Say in the record that the run broke off."""
        self._raised = True
        self._recorder.status("interrupted", error=type(exception).__name__)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Put the sum over all ranks in place of rank 0's, the only one that Lightning keeps."""
        state = checkpoint["callbacks"][self.state_key]["open"]
        if not is_distributed(trainer) or state is None:
            return
        if self._raised:
            # One rank alone may be here; a collective would hang and lose the checkpoint.
            state["lost_ranks"] = trainer.world_size - 1
            return
        total, count = sum_over_ranks(trainer, state["total"], state["count"])
        state.update(total=total, count=count)

    # --- for the stopper

    @property
    def run_id(self) -> str:
        """The run's name in its record, the same after a resume."""
        return self._run_id

    @property
    def record_path(self) -> Path | None:
        """Where this run's record lies; None on other ranks and where there is none."""
        return self._recorder.path

    def write_stop(self, **facts: Any) -> None:
        """Write into the record that the run was stopped, and why."""
        self._recorder.status("stopped", **facts)

    def write_checkpoint(self, path: str) -> None:
        """Name a checkpoint of the run after its newest unit in the record."""
        history = self._losses.history
        self._recorder.unit(history, history.completed - 1, path)

    # --- how it is done

    def _loss(self, outputs: Mapping[str, Any]) -> Tensor | None:
        loss = outputs.get(self.loss_key)
        if loss is None:
            if not self._loss_seen and self.loss_key not in outputs:
                raise RuntimeError(
                    f"`loss_key={self.loss_key!r}` is not in the output of `training_step`; "
                    f"available: {', '.join(map(repr, outputs))}."
                )
            return None
        self._loss_seen = True
        if not isinstance(loss, Tensor):
            if isinstance(loss, bool) or not isinstance(loss, (int, float)):
                raise TypeError(
                    f"Expected `outputs[{self.loss_key!r}]` to be a tensor or a number but got "
                    f"{type(loss).__name__}."
                )
            return torch.tensor(float(loss), dtype=torch.float64)
        if loss.numel() != 1:
            raise ValueError(
                f"Expected `outputs[{self.loss_key!r}]` to be one number but got the shape "
                f"{tuple(loss.shape)}."
            )
        if not self._takes_loss_as_it_is:
            loss = loss.detach().clone()
        return loss.reshape(()) if loss.ndim else loss

    def _close(self, trainer: Trainer, pl_module: Module) -> None:
        window = self._losses.open
        assert window is not None  # noqa: S101  # both callers have just looked at it
        total, count = window.result()
        if is_distributed(trainer):
            total, count = sum_over_ranks(trainer, total, count)
        if not count and not window.misses:
            unit = "epoch" if self.every_n_train_batches is None else "block"
            warn_user(
                f"None of the {window.steps} steps of {unit} {window.unit} gave a loss, so it has "
                "no epoch loss and counts in no estimate. Return the loss from `training_step`, "
                "under manual optimization too.",
            )
        self._losses.close(total, count)
        self._recorder.unit(self._losses.history, window.unit)
        self._publish(trainer, pl_module, window.unit)

    def _publish(self, trainer: Trainer, pl_module: Module, unit: int) -> None:
        estimates = self._losses.history.estimates()
        publishing.show(trainer, self._kinds, estimates)
        if self.every_n_train_batches is None:
            publishing.log_with_epoch(trainer, pl_module, estimates, prog_bar=self.prog_bar)
            self._handed_to_lightning = unit
        else:
            publishing.log_point(trainer, estimates, epoch=trainer.current_epoch)
            if self.prog_bar:
                publishing.show_on_progress_bar(trainer, estimates)
        if self.epoch_axis:
            publishing.log_on_unit_axis(trainer, estimates, unit)

    def _start_record(self, trainer: Trainer, pl_module: Module) -> None:
        if not self.record:
            return
        self._recorder = Recorder(find_record(trainer, prefix=self.prefix))
        facts = run_facts(trainer, pl_module, block=self.every_n_train_batches)
        facts = {"prefix": self.prefix, "loss_key": self.loss_key, **facts}
        self._begun = self._recorder.start(
            self._run_id, facts, self._losses.history, after=self._begun
        )

    def _go_on(self, trainer: Trainer) -> None:
        if trainer.ckpt_path is not None and not self._has_saved_state:
            self._forget_run()  # what is here was trained before that checkpoint was loaded
        if self._losses.is_empty:
            self._join(trainer)
        elif self.every_n_train_batches is None and begins_epoch_anew(trainer):
            self._losses.forget_from(trainer.current_epoch)
            self._logged = min(self._logged, trainer.current_epoch - 1)

    def _join(self, trainer: Trainer) -> None:
        """Come into a run that another has begun, perhaps in the middle of a unit."""
        block = self.every_n_train_batches
        if block is None:
            unit, misses = trainer.current_epoch, batches_into_epoch(trainer)
        else:
            unit, misses = divmod(batches_behind(trainer), block)
        self._losses.join(unit, misses)
        if misses:
            warn_user(
                f"The checkpoint has no state of this SoTLMonitor, so the losses of the first "
                f"{misses} batches of {'epoch' if block is None else 'block'} {unit} are unknown: "
                "it has no epoch loss and counts in no estimate.",
            )

    def _note_partial_epoch(self, window: LossWindow, not_seen: int) -> None:
        if not_seen:
            window.misses += not_seen
            warn_user(
                f"Lightning has trained {window.steps} of the {window.steps + not_seen} batches "
                f"that it counts in epoch {window.unit}, as after some resumes: the epoch has no "
                "epoch loss and counts in no estimate.",
            )

    def _warn_of_early_looks(self, trainer: Trainer) -> None:
        batches = self.every_n_train_batches or trainer.num_training_batches
        missing = set(self._kinds) - set(self._losses.history.estimates())
        setup_checks.warn_of_early_looks(
            trainer, {name: self.units_needed(name) * batches for name in missing}
        )

    def _warn_of_lost_ranks(self) -> None:
        window = self._losses.open
        warn_user(
            f"The checkpoint was saved while an exception was raised, so the losses of "
            f"{self._lost_ranks} other ranks in the first {window.steps if window else 0} batches "
            f"of unit {window.unit if window else '?'} are lost; its loss is of the rest.",
        )


def monitors_of(trainer: Trainer) -> list[MonitorLogic]:
    """Return the monitors among a Trainer's callbacks, of either package."""
    return [callback for callback in trainer.callbacks if isinstance(callback, MonitorLogic)]


def missing_monitor(trainer: Trainer, name: str) -> str:
    """Return a sentence on why no monitor logs `name`; empty if that is not an estimate's name."""
    monitors = monitors_of(trainer)
    estimate = parse_monitor(name)
    if estimate is None or estimate.prefix not in {"sotl", *(one.prefix for one in monitors)}:
        return ""
    if not monitors:
        return " A SoTLMonitor logs it, and this Trainer has none among its callbacks."
    names = listed([name for one in monitors for name in one.metric_names])
    return f" The SoTLMonitor of this Trainer logs {names}."
