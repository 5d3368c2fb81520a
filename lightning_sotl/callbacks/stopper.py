"""Ends a run at T, on the full schedule, and saves what a promotion needs: the stopper callback."""

from __future__ import annotations

import logging
from typing import Any

from lightning_sotl._user_warning import warn_user
from lightning_sotl.callbacks import promotion
from lightning_sotl.callbacks.hp_metric import log_hp_metric, warn_without_tensorboard
from lightning_sotl.callbacks.limits import check_limits, counts_batches
from lightning_sotl.callbacks.monitor import MonitorLogic, monitors_of
from lightning_sotl.callbacks.order import LateCallback, arrange, move_to_front
from lightning_sotl.callbacks.shared_runs import share_runs
from lightning_sotl.callbacks.stopper_facts import StopperFacts
from lightning_sotl.callbacks.trainer_facts import (
    Module,
    Trainer,
    epoch_is_whole,
    has_pending_gradients,
    limits_allow_stop,
    train_whole_epochs_after_resume,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.policies import StoppingReason

log = logging.getLogger(__name__)


class StopperLogic(LateCallback["StopperLogic"], StopperFacts):
    __doc__ = StopperFacts.__doc__

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Forget another Trainer's run, and refuse limits that this Trainer cannot meet."""
        if not self._bind(trainer, stage):
            return
        self._stopped_now = self._stop_unfinished = self._refreshes_statistics = False
        self._states_at_stop = None
        self._shows_hp_metric = False
        check_limits(trainer, monitors_of(trainer), self)
        self._in_blocks = counts_batches(self, self._producers(trainer))
        if self.hp_metric:
            warn_without_tensorboard(trainer)
        arrange(trainer, first=MonitorLogic, late=LateCallback)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Go on where the stop left the random state, or end a run that is past its limit."""
        train_whole_epochs_after_resume(trainer)
        states, self._random_states = self._random_states, None
        if not self.promoted:
            if self._ends_before_first_batch(trainer):
                self._states_at_stop = states  # what others save from here on is of the stop, too
                self._stop_before_first_batch(trainer)
                return
            self._estimate = self._epochs_completed = None  # of an earlier limit
        self._loaders_found = []
        self._stopping_reason = StoppingReason.not_stopped
        if states is not None:
            promotion.go_on_as_if_never_stopped(trainer, states)
        elif self.promoted and trainer.ckpt_path is not None and trainer.is_global_zero:
            log.warning(
                "The promoted run goes on from a checkpoint without a stop's random state, so it "
                "differs from one that was never stopped. `checkpoint_path` of the stopper has it."
            )
        elif self.promoted and not trainer.ckpt_path and trainer.is_global_zero:
            log.warning(
                "The promoted run goes on from no checkpoint: it is trained from its beginning to "
                "the end, and never stopped."
            )
        if self._estimate is not None:
            self._show_hp_metric(trainer)
        if self.policy is not None and not self._is_idle(trainer):
            self._shared = share_runs(trainer, self, self._producers(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Note what is shown of the metric already: it is of an earlier epoch."""
        self._shown_before = trainer.callback_metrics.get(self.monitor)
        self._refreshes_statistics = trains_without_backward(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a block, saving before Lightning closes the epoch.

        A validation that is due now comes first, and at an epoch's last batch the epoch's end
        decides: a run that goes on from the stop must find them done.
        """
        if not self._in_blocks or not self._is_between_blocks(trainer):
            return
        if not trainer.is_last_batch and not validation_is_due(trainer):
            self._stop_inside_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop after a block where a validation was due with its last batch."""
        in_training = self._stage == "fit" and not trainer.sanity_checking
        if self._in_blocks and in_training and not trainer.is_last_batch:
            self._stop_inside_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop at the end of the first complete epoch at which the limit is reached."""
        if self._is_idle(trainer) or not epoch_is_whole(trainer):
            return
        self._check_estimate_comes(trainer)
        if self._decide(trainer, trainer.current_epoch + 1):
            # What others do in `on_train_end`, such as swapping averaged weights in, comes after
            # the save.
            move_to_front(trainer, self)
            self._stop_unfinished = True

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Finish a stop at an epoch's end, when all of the epoch is done.

        In `on_train_epoch_end` the step of ReduceLROnPlateau is still to come, and what the module
        logs in its own hook.
        """
        if self._stop_unfinished:
            self._estimate = self._read(trainer)
            if self._limit is not None and self._stopping_reason != StoppingReason.policy:
                self._stopping_reason = self._by_limit(self._limit, self._estimate)
            self._finish_stop(trainer)
        self._show_hp_metric(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state of the stop to its own checkpoint and to later ones.

        A run that trains nothing more saves the loaders as it has found them: Lightning has moved
        them on for a batch that never came.
        """
        if self._states_at_stop is not None:
            checkpoint["callbacks"][self.state_key]["random_states"] = self._states_at_stop
        if self._stopping_reason == StoppingReason.already_stopped and self._loaders_found:
            promotion.set_loader_states(checkpoint, self._loaders_found)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of the loaders until it is known whether the run trains anything more."""
        self._loaders_found = promotion.loader_states(checkpoint)

    # --- decision

    def _is_idle(self, trainer: Trainer) -> bool:
        return bool(
            self.promoted or self._stopped_now or trainer.fast_dev_run or self._refreshes_statistics
        )

    def _decide(self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False) -> bool:
        """Stop if a rule says so and Lightning's own minima are met; say whether it did."""
        between_blocks = not self._in_blocks or self._is_between_blocks(trainer)
        # A policy over blocks may come with a limit in epochs, and their borders differ.
        at_border = not inside_epoch if self.stop_batches is None else between_blocks
        at_limit = at_border and self._is_at_limit(trainer, epochs)
        asks = self.policy is not None and between_blocks
        if not (at_limit or asks) or not limits_allow_stop(trainer, epochs):
            return False
        reason, estimate = StoppingReason.not_stopped, self._read(trainer)
        if at_limit:
            if estimate is None:
                self._explain_missing(trainer)
            reason = self._by_limit(self._completed(trainer, epochs), estimate)
        if reason == StoppingReason.not_stopped and asks:
            reason = self._by_policy(trainer)
        stop = reason != StoppingReason.not_stopped
        if not trainer.strategy.reduce_boolean_decision(stop, all=False):
            return False
        self._estimate, self._epochs_completed = estimate, epochs
        self._stopping_reason = reason
        self._stopped_now = True
        trainer.should_stop = True
        return True

    def _by_policy(self, trainer: Trainer) -> StoppingReason:
        """Ask the policy once a unit, on rank 0, which reads the others' records."""
        producer = self._producers(trainer)[0]
        if producer.units_completed == self._asked:
            return StoppingReason.not_stopped
        self._asked = producer.units_completed
        told = None
        if self._shared is not None:
            told = self._shared.decide(
                producer.run_id, producer.epoch_losses, producer.units_completed
            )
        told = trainer.strategy.broadcast(told)
        if told is not None and told.place is not None:  # at the end there is nothing to decide
            self._decision = told
        if told is None or told.goes_on:
            return StoppingReason.not_stopped
        return StoppingReason.policy

    def end_by_policy(
        self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False, save: bool = True
    ) -> None:
        """Take a pruner's or scheduler's decision, which a reporter has got, as this stopper's own.

        At the limit this stopper decides by itself: a run that has come to T is complete.

        Args:
            trainer: Whose `should_stop` the reporter has set.
            epochs: Completed epochs.
            inside_epoch: Whether the epoch's end is still to come.
            save: Whether to save the stop's checkpoint.
        """
        if self._is_idle(trainer) or self._is_at_limit(trainer, epochs):
            return
        self._estimate, self._epochs_completed = self._read(trainer), epochs
        self._stopping_reason, self._stopped_now = StoppingReason.policy, True
        if not save:
            self._write_stop(trainer)
        elif inside_epoch:
            self._finish_stop(trainer)
        else:
            move_to_front(trainer, self)
            self._stop_unfinished = True

    def _write_stop(self, trainer: Trainer) -> None:
        for monitor in monitors_of(trainer):
            monitor.write_stop(
                reason=self._stopping_reason.value,
                epochs=self._epochs_completed,
                monitor=self.monitor,
                estimate=self._estimate,
            )

    # --- how it is done

    def _show_hp_metric(self, trainer: Trainer) -> None:
        """Show the estimate at T in TensorBoard, or at the end of a run that had none at T."""
        if not self.hp_metric or self._shows_hp_metric:
            return
        value = self._read(trainer) if self._estimate is None else self._estimate
        if value is None:
            return
        if self._estimate is None and self._limit is not None and not trainer.fast_dev_run:
            warn_user(
                f"`hp_metric` of this run is `{self.monitor}` at its end, after "
                f"{trainer.current_epoch} epochs: it has no value at the limit of "
                f"{self._limit}, and does not compare with runs that have.",
            )
        log_hp_metric(trainer, value)
        self._shows_hp_metric = True

    def _stop_inside_epoch(self, trainer: Trainer) -> None:
        if self._is_idle(trainer):
            return
        if self._decide(trainer, trainer.current_epoch, inside_epoch=True):
            if has_pending_gradients(trainer):
                warn_user(
                    f"The run stops after {self._batches_completed(trainer)} batches with "
                    "gradients that are accumulated but not applied, and no checkpoint has them: "
                    "promoted, it will differ from a run that was never stopped. Stop at a "
                    "multiple of `accumulate_grad_batches`.",
                )
            self._finish_stop(trainer)

    def _stop_before_first_batch(self, trainer: Trainer) -> None:
        if self._estimate is None:  # the checkpoint is of a run that had no stopper
            self._estimate = self._read(trainer)
            self._epochs_completed = int(trainer.fit_loop.epoch_progress.current.processed)
        if self._checkpoint_path is None and self._resumes_at_stop(trainer):
            # A kill came between the decision and the save.
            self._checkpoint_path = str(trainer.ckpt_path)
        self._stopping_reason = StoppingReason.already_stopped
        self._stopped_now = True
        trainer.should_stop = True
        self._tell_of_earlier_stop()
        self._write_stop(trainer)
        if self._checkpoint_path is not None:
            for monitor in monitors_of(trainer):
                monitor.write_checkpoint(self._checkpoint_path)
        self._show_hp_metric(trainer)

    def _finish_stop(self, trainer: Trainer) -> None:
        """Save the checkpoint to promote from, and write both into the record."""
        self._stop_unfinished = False
        self._warn_of_earlier_estimate(trainer)
        self._states_at_stop = promotion.gather_random_states(trainer)
        self._write_stop(trainer)
        if not trainer.checkpoint_callbacks:  # checkpointing is off
            self._tell_of_stop()
            return
        at = f"epoch={trainer.current_epoch}"
        if self._in_blocks and self._is_between_blocks(trainer):
            at = f"batches={self._batches_completed(trainer)}"
        self._checkpoint_path = promotion.new_checkpoint_path(trainer, at)
        try:
            promotion.save_checkpoint(trainer, self._checkpoint_path)
        except OSError:
            self._checkpoint_path = None
            raise
        self._tell_of_stop()
        for monitor in monitors_of(trainer):
            monitor.write_checkpoint(self._checkpoint_path)
