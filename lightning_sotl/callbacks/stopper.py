"""Ends a run at T, on the full schedule, and saves what a promotion needs: the stopper callback."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning_sotl._utils import validation
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl._utils.text import pluralize, quote_all
from lightning_sotl.callbacks import _stop_checkpoint
from lightning_sotl.callbacks._limits import check_limits, counts_batches
from lightning_sotl.callbacks._monitored import missing_monitor
from lightning_sotl.callbacks._order import LateCallback, arrange, move_to_front
from lightning_sotl.callbacks._publishing import log_hp_metric, warn_without_tensorboard
from lightning_sotl.callbacks._run import RunBound
from lightning_sotl.callbacks._shared_runs import SharedRuns, share_runs
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    batches_into_epoch,
    epoch_is_whole,
    has_pending_gradients,
    is_same_value,
    limits_allow_stop,
    train_whole_epochs_after_resume,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.callbacks.monitor import MonitorLogic, monitors_of
from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision
from lightning_sotl.policies.stopping import StoppingReason, stop_at_limit


def stoppers_of(trainer: Trainer) -> list[StopperLogic]:
    """Return the stoppers."""
    return [callback for callback in trainer.callbacks if isinstance(callback, StopperLogic)]


class StopperState(RunBound["StopperState"]):
    r"""Ends a run after `stop_epoch` epochs, once its estimate is there, on the full schedule.

    Leave `max_epochs` at the full budget: learning-rate schedules follow it, and a ranking at T is
    only worth something on the schedule that the winner will be trained with. The run ends at the
    end of the first completed epoch at which `stop_epoch` is reached, Lightning's own
    `min_epochs` and `min_steps` are met and the estimate exists; never inside an epoch. All ranks
    stop together.

    At the stop it saves a checkpoint of its own, with the random state of every rank. To promote
    the run, fit it again from that checkpoint with `promoted=True`: it never stops, and goes on bit
    for bit as if it had never been stopped. Without `promoted`, a run that is resumed at or past
    its limit ends before the first batch, with reason `already_stopped` and its saved estimate.
    Bit-equal does not hold where randomness is drawn in `on_train_start`, or kept outside of
    torch's, numpy's, Python's and the training loaders' generators; the README names what else
    Lightning does not restore in the middle of an epoch.

    Args:
        stop_epoch: T, at least 1 and at least the window of the monitored estimate: the run ends
            after T completed epochs. Exactly one of the two limits has to be given, or a policy.
        stop_batches: The same in training batches per rank, for a monitor with
            `every_n_train_batches=N`: a multiple of N.
        monitor: The logged metric that the run is ranked by; any that is logged will do. One that
            the module logs in its own `on_train_epoch_end` is known from the second epoch on. Of
            one that is not logged in the epoch of the stop, as between two validations, the newest
            value counts, with a warning.
        promoted: Whether this run has won and shall be trained to the end.
        hp_metric: Whether TensorBoard's HPARAMS tab shows the estimate as `hp_metric`, to sort runs
            by. It is the estimate at T, also for a promoted run, which shows it from its start. A
            run that ends before T shows its last value, with a warning; one that has none or
            breaks off shows nothing, or the -1 of a TensorBoardLogger without
            `default_hp_metric=False`. A diverged run shows `inf`, which the table puts last.
        policy: Decides after each epoch (or block) whether the run goes on, from the runs whose
            records lie below `directory`; with a limit too, the run ends there at the latest.
            `monitor` is then an estimate of this Trainer's SoTLMonitor, and its `max_epochs` the
            Trainer's.
        directory: Where all runs of this sweep, and of no other, have their loggers, at any depth.
            Each run writes its own record there and reads those of the others; nothing else is
            shared.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if both limits are given, or neither and no
            policy, or a policy without a directory; in `setup`, if a limit is below the window or
            does not fit the blocks; before the first batch, if a policy has another budget than
            the Trainer, or the run no record below `directory`.
        RuntimeError: At the limit, if `monitor` is not logged and no SoTLMonitor of this Trainer
            will log it (the message lists what is), or if a promoted run has another number of
            ranks or loader generators than the stopped one.

    Example:
        >>> from lightning_sotl import EarlyRankingStopper
        >>> stopper = EarlyRankingStopper(stop_epoch=10)
        >>> print(stopper.stopping_reason, stopper.estimate)
        not_stopped None

    Source:
        Ru et al., arXiv 2006.04492, section 5.5: search by SoTL-E at an early T.
    """

    _estimate: float | None
    _epochs_completed: int | None
    _stopping_reason: StoppingReason
    _checkpoint_path: str | None
    _random_states: list[dict[str, Any]] | None
    _stopped_now: bool
    _stop_unfinished: bool
    _states_at_stop: list[dict[str, Any]] | None
    _loaders_found: list[Any]  # their states in the checkpoint that the run is resumed from
    _said_missing: bool
    _shown_before: Any  # of the metric, as the epoch began: Lightning goes on showing old values
    _refreshes_statistics: bool  # SWA's extra epoch, which it no longer says at that epoch's end
    _shows_hp_metric: bool
    _in_blocks: bool  # decides after blocks of batches, not only after epochs
    _shared: SharedRuns | None  # on rank 0, with a policy
    _asked: int | None  # completed units when the policy was asked last
    _decision: Decision | None

    def __init__(
        self,
        stop_epoch: int | None = None,
        stop_batches: int | None = None,
        monitor: str = "sotl_e1",
        promoted: bool = False,
        hp_metric: bool = False,
        policy: AdaptivePolicy | None = None,
        directory: str | Path | None = None,
    ) -> None:
        super().__init__()
        limits = [limit for limit in (stop_epoch, stop_batches) if limit is not None]
        if len(limits) > 1 or not (limits or policy):
            raise ValueError(
                "Expected exactly one of `stop_epoch` and `stop_batches`, or a `policy`, but got "
                f"stop_epoch={stop_epoch!r} and stop_batches={stop_batches!r}."
            )
        if policy is not None and not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        if (policy is None) != (directory is None):
            raise ValueError(
                "Expected `policy` and `directory` to be given together but got "
                f"policy={policy!r} and directory={directory!r}."
            )
        if stop_epoch is not None:
            stop_epoch = validation.positive_int("stop_epoch", stop_epoch)
        if stop_batches is not None:
            stop_batches = validation.positive_int("stop_batches", stop_batches)
        self.stop_epoch = stop_epoch
        self.stop_batches = stop_batches
        self.monitor = validation.text("monitor", monitor)
        self.promoted = validation.boolean("promoted", promoted)
        self.hp_metric = validation.boolean("hp_metric", hp_metric)
        self.policy = policy
        self.directory = directory
        self._state_key = f"{type(self).__qualname__}{{'monitor': {monitor!r}}}"
        self._reset()

    # --- results

    @property
    def estimate(self) -> float | None:
        """The monitored value at the stop, None before; `+inf` if the run has diverged."""
        self._receive_from_child()
        return self._estimate

    @property
    def epochs_completed(self) -> int | None:
        """Completed epochs at the stop, or None before."""
        self._receive_from_child()
        return self._epochs_completed

    @property
    def stopping_reason(self) -> StoppingReason:
        """Why the run was ended, or that it was not."""
        self._receive_from_child()
        return self._stopping_reason

    @property
    def checkpoint_path(self) -> str | None:
        """The checkpoint to promote from; None before the stop and with checkpointing off."""
        self._receive_from_child()
        return self._checkpoint_path

    @property
    def decision(self) -> Decision | None:
        """What the policy has decided last, and why; None without a policy and before the first.

        It stays in the process that trains, and is not in checkpoints.
        """
        return self._decision

    @property
    def state_key(self) -> str:
        """The state belongs to the monitored name, so that the limit may change on a resume."""
        return self._state_key

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, in plain types."""
        return {
            "stop_epoch": self.stop_epoch,
            "stop_batches": self.stop_batches,
            "estimate": self._estimate,
            "epochs_completed": self._epochs_completed,
            "stopping_reason": self._stopping_reason.value,
            "checkpoint_path": self._checkpoint_path,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Take back the results, and the random state where the stop itself saved them."""
        self._estimate = state["estimate"]
        self._epochs_completed = state["epochs_completed"]
        self._stopping_reason = StoppingReason(state["stopping_reason"])
        self._checkpoint_path = state["checkpoint_path"]
        self._random_states = state.get("random_states")

    def _by_limit(self, completed: int, estimate: float | None) -> StoppingReason:
        """Decide by `stop_epoch` or `stop_batches`, whichever there is."""
        for limit, reached in (
            (self.stop_epoch, StoppingReason.stop_epoch_reached),
            (self.stop_batches, StoppingReason.stop_batches_reached),
        ):
            if limit is not None:
                return stop_at_limit(completed, estimate, limit=limit, reached=reached)
        return StoppingReason.not_stopped

    @property
    def _limit(self) -> int | None:
        return self.stop_epoch if self.stop_batches is None else self.stop_batches

    def _reset(self) -> None:
        self._estimate = None
        self._epochs_completed = None
        self._stopping_reason = StoppingReason.not_stopped
        self._checkpoint_path = None
        self._random_states = None
        self._stopped_now = False
        self._stop_unfinished = False
        self._states_at_stop = None
        self._loaders_found = []
        self._said_missing = False
        self._shown_before = None
        self._refreshes_statistics = False
        self._shows_hp_metric = False
        self._in_blocks = self.stop_batches is not None
        self._shared = None
        self._asked = None
        self._decision = None


# What a TypeError calls the callback whose argument is unknown.
StopperState.__init__.__qualname__ = "EarlyRankingStopper.__init__"


log = logging.getLogger(__name__)


class StopperFacts(StopperState):
    __doc__ = StopperState.__doc__

    def _producers(self, trainer: Trainer) -> list[MonitorLogic]:
        """Return the monitor that logs the metric; none if it is of the module's own."""
        return [one for one in monitors_of(trainer) if self.monitor in one.metric_names]

    def _read(self, trainer: Trainer) -> float | None:
        value = trainer.callback_metrics.get(self.monitor)
        return None if value is None else float(value)

    def _batches_completed(self, trainer: Trainer) -> int:
        """Return the training batches in completed blocks, on each rank."""
        return max((m.batches_completed for m in self._producers(trainer)), default=0)

    def _completed(self, trainer: Trainer, epochs: int) -> int:
        """Return how far the run has come, in what its limit counts: batches, or else epochs."""
        return epochs if self.stop_batches is None else self._batches_completed(trainer)

    def _is_at_limit(self, trainer: Trainer, epochs: int) -> bool:
        return self._limit is not None and self._completed(trainer, epochs) >= self._limit

    def _is_between_blocks(self, trainer: Trainer) -> bool:
        return all(producer.is_between_units for producer in self._producers(trainer))

    def _explain_missing(self, trainer: Trainer) -> None:
        if self._producers(trainer):
            if not self._said_missing:
                warn_user(
                    f"The limit is reached but `{self.monitor}` is not available yet; the run "
                    "goes on until it is.",
                )
                self._said_missing = True
            return
        raise RuntimeError(
            f"`monitor={self.monitor!r}` is not logged; available: "
            f"{quote_all(list(trainer.callback_metrics))}.{missing_monitor(trainer, self.monitor)}"
        )

    def _check_estimate_comes(self, trainer: Trainer) -> None:
        """Raise at an epoch's end, long before T, where no monitor will ever log the estimate.

        What a module logs by that name in its own `on_train_epoch_end` is there in the second.
        """
        never_comes = self._read(trainer) is None and missing_monitor(trainer, self.monitor)
        if never_comes and trainer.current_epoch and not self._producers(trainer):
            self._explain_missing(trainer)

    def _warn_of_earlier_estimate(self, trainer: Trainer) -> None:
        """Say so where the epoch of the stop has not logged the metric, as without a validation."""
        shown = trainer.callback_metrics.get(self.monitor)
        if self._producers(trainer) or shown is None:
            return
        if is_same_value(shown, self._shown_before):
            warn_user(
                f"The estimate `{self.monitor}` of this run is of an earlier epoch than its stop: "
                "it was not logged in the last one. Compare it only with runs that log it in the "
                "same epochs.",
            )

    def _tell_of_stop(self) -> None:
        stop = f"The run ends after {pluralize(self._epochs_completed or 0, 'epoch')}"
        if self._estimate is not None:
            stop += f" with `{self.monitor}` = {self._estimate:.6g}"
        if self._checkpoint_path is None:
            inform_user(f"{stop}, and cannot go on later: checkpointing is off.")
        else:
            inform_user(f"{stop}; it can go on from '{self._checkpoint_path}'.")

    def _tell_of_earlier_stop(self) -> None:
        inform_user(
            f"The run was ended after {pluralize(self._epochs_completed or 0, 'epoch')} before and "
            "trains nothing more. To go on with it, give its stopper `promoted=True` or a later "
            "limit."
        )

    def _ends_before_first_batch(self, trainer: Trainer) -> bool:
        """Return whether a resumed run is at or past its limit, and not about to decide itself."""
        if self._stopping_reason == StoppingReason.policy:
            return True
        epochs = int(trainer.fit_loop.epoch_progress.current.processed)
        if not self._is_at_limit(trainer, epochs) or not limits_allow_stop(trainer, epochs):
            return False
        if self._estimate is not None:
            return True
        if self._has_saved_state and not self._is_at_border(trainer):
            return False  # it went on past its limit, and will stop at the next border
        if self._producers(trainer) and self._read(trainer) is None:
            self._explain_missing(trainer)
            return False
        return True

    def _is_at_border(self, trainer: Trainer) -> bool:
        """Return, in `on_train_start`, whether the run is between two epochs (or blocks)."""
        inside = batches_into_epoch(trainer) > 0
        if self.stop_batches is None:
            return not inside
        return self._is_between_blocks(trainer) and not (inside and trainer.is_last_batch)

    def _resumes_at_stop(self, trainer: Trainer) -> bool:
        """Return whether the checkpoint that the run was resumed from is of where it stopped."""
        if trainer.ckpt_path is None:
            return False
        if self.stop_batches is not None:
            return self._batches_completed(trainer) == self.stop_batches
        return int(trainer.fit_loop.epoch_progress.current.processed) == self._epochs_completed


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
            _stop_checkpoint.resume_as_if_never_stopped(trainer, states)
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
            _stop_checkpoint.set_loader_states(checkpoint, self._loaders_found)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of the loaders until it is known whether the run trains anything more."""
        self._loaders_found = _stop_checkpoint.loader_states(checkpoint)

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
        self._states_at_stop = _stop_checkpoint.gather_random_states(trainer)
        self._write_stop(trainer)
        if not trainer.checkpoint_callbacks:  # checkpointing is off
            self._tell_of_stop()
            return
        at = f"epoch={trainer.current_epoch}"
        if self._in_blocks and self._is_between_blocks(trainer):
            at = f"batches={self._batches_completed(trainer)}"
        self._checkpoint_path = _stop_checkpoint.new_checkpoint_path(trainer, at)
        try:
            _stop_checkpoint.save_checkpoint(trainer, self._checkpoint_path)
        except OSError:
            self._checkpoint_path = None
            raise
        self._tell_of_stop()
        for monitor in monitors_of(trainer):
            monitor.write_checkpoint(self._checkpoint_path)
