"""EarlyRankingStopper: ends a run at T, on the full schedule, with all that a promotion needs.

The file is long because one class stays in one file, with its hooks in the order of a run. What
has a job of its own is in the modules whose names begin with an underscore.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_sotl._utils import validation as checks
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl._utils.text import pluralize, visible
from lightning_sotl.callbacks import _promotion_checks, _publishing, _stop_checkpoint
from lightning_sotl.callbacks._limits import check_limits
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._order import Place, arrange, move_to_front
from lightning_sotl.callbacks._run import RunBinding, attributes_without, deep_copy
from lightning_sotl.callbacks._shared_runs import SharedRuns, share_runs
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    batches_into_epoch,
    completed_epochs,
    epoch_is_whole,
    has_pending_gradients,
    limits_allow_stop,
    train_whole_epochs_after_resume,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.callbacks.monitor import monitors_of
from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision
from lightning_sotl.policies.stopping import StoppingReason, stop_at_limit
from lightning_sotl.stats.ranks import Mode

log = logging.getLogger(__name__)


@dataclass
class StopResult:
    """What a checkpoint keeps: the results so far."""

    estimate: float | None = None
    epochs_completed: int | None = None
    stopping_reason: StoppingReason = StoppingReason.not_stopped
    checkpoint_path: str | None = None


@dataclass
class _Memory:
    """What this process remembers of a run."""

    decision: Decision | None = None
    last_decision_at: int | None = None  # in completed units
    shared_runs: SharedRuns | None = None
    warned_of_missing: bool = False


@dataclass
class _Fit:
    """One call of `fit`."""

    stopped: bool = False
    stop_unfinished: bool = False  # the checkpoint is saved at the end of training
    in_blocks: bool = False
    refreshes_statistics: bool = False
    shows_hp_metric: bool = False
    planned_checkpoint: str | None = None  # where the stop will save, from the decision on
    loaded_plan: str | None = None
    loaded_random_states: list[dict[str, Any]] | None = None
    random_states_at_stop: list[dict[str, Any]] | None = None
    loaded_loader_states: list[Any] = field(default_factory=list)
    facts: dict[str, Any] | None = None
    loaded_facts: dict[str, Any] = field(default_factory=dict)


class EarlyRankingStopper:
    r"""Ends a run after `stop_epoch` epochs, once its estimate is there, on the full schedule.

    Leave `max_epochs` at the full budget: learning-rate schedules follow it, and a ranking at T is
    only worth something on the schedule that the winner will be trained with. The run ends at the
    end of the first completed epoch at which `stop_epoch` is reached, Lightning's own
    `min_epochs` and `min_steps` are met and the estimate exists; never inside an epoch. All ranks
    stop together.

    At the stop it saves a checkpoint of its own, with the random state of every rank. To promote
    the run, fit it again from that checkpoint with `promoted=True`: it never stops, and resumes bit
    for bit as if it had never been stopped. If its schedule, batches or hyper-parameters are not
    those at the stop, a warning names both values. Without `promoted`, a run that is resumed at or
    past its limit ends before the first batch, with reason `already_stopped` and its saved
    estimate.
    Bit-equal does not hold where randomness is drawn in `on_train_start`, or kept outside of
    torch's, numpy's, Python's and the training loaders' generators; the README names what else
    Lightning does not restore in the middle of an epoch.

    Args:
        stop_epoch: T, at least 1 and at least the window of the monitored estimate: the run ends
            after T completed epochs. Exactly one of the two limits has to be given, or a policy.
        stop_batches: The same in training batches per rank, for a monitor with
            `every_n_train_batches=N`: a multiple of N.
        monitor: The logged metric to rank by; any logged metric works. If the module logs it
            in its own `on_train_epoch_end`, it is available from the second epoch on. If it is not
            logged in the epoch of the stop, for example between two validations, its newest value
            is used, with a warning.
        promoted: Whether this run has won and is to be trained to the end.
        hp_metric: Whether TensorBoard's HPARAMS tab shows the estimate as `hp_metric`, to sort runs
            by. It is the estimate at T, also for a promoted run, which shows it from its start. A
            run that ends before T shows its last value, with a warning; one that has none or
            breaks off shows nothing, or the -1 of a TensorBoardLogger without
            `default_hp_metric=False`. A diverged run shows `inf`, which the table puts last.
        policy: Decides after each epoch (or block) whether the run continues, from the runs that
            have records below `directory`. A limit, if given too, still ends the run.
            `monitor` must be an estimate of this Trainer's SoTLMonitor, and `policy.max_epochs`
            must equal the Trainer's.
        directory: Where all runs of this sweep, and of no other, have their loggers, at any depth.
            Each run writes its own record there and reads those of the others; nothing else is
            shared.
        checkpoint_dir: Where to save the stop's checkpoint, even with checkpointing off. None for
            the folder of Lightning's own checkpoints; then checkpointing off means no checkpoint.
        validation: With a policy: a metric such as "val_acc" that it reads beside the training
            losses. Each run's SoTLMonitor has to record it (`record_metrics`).
        validation_mode: "max" if a higher `validation` is better, or "min".

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

    _sotl_place = Place.late
    _metric: MonitoredMetric  # from `setup` on

    def __init__(
        self,
        stop_epoch: int | None = None,
        stop_batches: int | None = None,
        monitor: str = "sotl_e1",
        promoted: bool = False,
        hp_metric: bool = False,
        policy: AdaptivePolicy | None = None,
        directory: str | Path | None = None,
        checkpoint_dir: str | Path | None = None,
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
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
            stop_epoch = checks.positive_int("stop_epoch", stop_epoch)
        if stop_batches is not None:
            stop_batches = checks.positive_int("stop_batches", stop_batches)
        self.stop_epoch = stop_epoch
        self.stop_batches = stop_batches
        self.monitor = checks.text("monitor", monitor)
        self.promoted = checks.boolean("promoted", promoted)
        self.hp_metric = checks.boolean("hp_metric", hp_metric)
        self.policy = policy
        self.directory = directory
        if checkpoint_dir is not None and not isinstance(checkpoint_dir, (str, Path)):
            raise TypeError(f"Expected `checkpoint_dir` to be a path but got {checkpoint_dir!r}.")
        self.checkpoint_dir = checkpoint_dir
        checks.validation_pair(validation, validation_mode)
        if validation is not None and policy is None:
            raise ValueError(
                f"Expected a `policy` with `validation` but got validation={validation!r} alone."
            )
        self.validation = validation
        self.validation_mode = validation_mode
        # A Sweep sets the reason for which this turn ends at its limit; otherwise it is None.
        self.reason_at_limit: StoppingReason | None = None
        self._begin()

    def _begin(self, run: RunBinding | None = None) -> None:
        """Make the internal state of a new stopper or a copy from its arguments."""
        self._state_key = f"{type(self).__qualname__}{{'monitor': {self.monitor!r}}}"
        self._run = run or RunBinding()
        self._fit = _Fit()
        self._reset()

    # --- results

    @property
    def estimate(self) -> float | None:
        """The monitored value at the stop, None before; `+inf` if the run has diverged."""
        self._receive()
        return self._result.estimate

    @property
    def epochs_completed(self) -> int | None:
        """Completed epochs at the stop, or None before."""
        self._receive()
        return self._result.epochs_completed

    @property
    def stopping_reason(self) -> StoppingReason:
        """Why the run was ended, or that it was not."""
        self._receive()
        return self._result.stopping_reason

    @property
    def checkpoint_path(self) -> str | None:
        """The checkpoint to promote from; None before the stop, or if none is saved."""
        self._receive()
        return self._result.checkpoint_path

    @property
    def decision(self) -> Decision | None:
        """The policy's newest decision and its reason; None without a policy and before the first.

        It is not in checkpoints.
        """
        self._receive()
        return self._memory.decision

    # --- state

    @property
    def state_key(self) -> str:
        """The state belongs to the monitored name, so that the limit may change on a resume."""
        return self._state_key

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, in plain types."""
        return {
            "stop_epoch": self.stop_epoch,
            "stop_batches": self.stop_batches,
            **asdict(self._result),
            "stopping_reason": self._result.stopping_reason.value,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, unless it is loaded to validate or test."""
        if self._run.takes_state():
            self._restore(state_dict)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state of the stop to its own checkpoint and to later ones.

        A checkpoint that is saved between the decision to stop and the stop's own save names the
        stop's checkpoint, so that a run that is started again from it finds the latter.

        A run that ends before its first batch saves the loader states that it loaded, since
        Lightning has already advanced the loaders for a batch that is never trained.
        """
        fit = self._fit
        _promotion_checks.put_facts(checkpoint, fit.facts)
        if fit.random_states_at_stop is not None:
            checkpoint["callbacks"][self.state_key]["random_states"] = fit.random_states_at_stop
        _stop_checkpoint.put_plan(checkpoint, self.state_key, fit.planned_checkpoint)
        already_stopped = self._result.stopping_reason == StoppingReason.already_stopped
        if already_stopped and fit.loaded_loader_states:
            _stop_checkpoint.put_loader_states(checkpoint, fit.loaded_loader_states)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what matters once it is known whether the run trains anything more."""
        self._fit.loaded_loader_states = _stop_checkpoint.saved_loader_states(checkpoint)
        self._fit.loaded_facts = _promotion_checks.saved_facts(checkpoint)
        self._fit.loaded_plan = _stop_checkpoint.saved_plan(checkpoint, self.state_key)

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Forget another Trainer's run, and refuse limits that this Trainer cannot meet."""
        if not self._run.bind(trainer, stage):
            return
        if self._run.is_new:
            self._reset()
        self._fit = _Fit()
        self._metric = MonitoredMetric(trainer, self.monitor)
        check_limits(trainer, self._metric, self.stop_epoch, self.stop_batches)
        if not self.promoted:
            self._metric.refuse_unknown(pl_module)
        # A `stop_epoch` is looked at only when epochs end, whatever the estimate is over.
        decides_after_units = self.stop_batches is not None or self.policy is not None
        self._fit.in_blocks = decides_after_units and self._metric.counts_blocks
        if self.hp_metric:
            _publishing.warn_without_tensorboard(trainer)
        arrange(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Resume with the random state of the stop, or end a run that is past its limit."""
        train_whole_epochs_after_resume(trainer)
        states, self._fit.loaded_random_states = self._fit.loaded_random_states, None
        if not self.promoted:
            if self._ends_before_first_batch(trainer):
                # What others save from here on belongs to the stop, too.
                self._fit.random_states_at_stop = states
                self._fit.facts = _promotion_checks.facts_in(self._fit.loaded_facts)
                self._stop_before_first_batch(trainer)
                return
            # These belong to an earlier limit.
            self._result.estimate = self._result.epochs_completed = None
        self._fit.facts = _promotion_checks.facts_of(trainer, pl_module)
        if self.promoted and trainer.ckpt_path is not None:
            _promotion_checks.warn_of_differences(
                trainer, pl_module, self._fit.loaded_facts, self._fit.facts
            )
        self._fit.loaded_facts = {}
        self._fit.loaded_loader_states = []
        self._result.stopping_reason = StoppingReason.not_stopped
        if states is not None:
            _stop_checkpoint.resume_as_if_never_stopped(trainer, states)
        elif self.promoted and trainer.is_global_zero:
            self._warn_of_inexact_promotion(trainer)
        if self._result.estimate is not None:
            self._show_hp_metric(trainer)
        if not self._is_idle(trainer) and not self._saves_checkpoint(trainer):
            inform_user(
                "The run will save no checkpoint at its stop, since checkpointing is off, so it "
                "cannot be promoted. Give EarlyRankingStopper a `checkpoint_dir`."
            )
        if self.policy and self.directory is not None and not self._is_idle(trainer):
            self._memory.shared_runs = share_runs(
                trainer,
                self._metric,
                self.policy,
                self.directory,
                self.validation,
                self.validation_mode,
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Mark the value that is shown already: it belongs to an earlier epoch."""
        self._metric.mark()
        self._fit.refreshes_statistics = trains_without_backward(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a block, saving before Lightning closes the epoch.

        If a validation is due, it runs first; at an epoch's last batch the epoch's end decides. A
        run that resumes from the stop then finds both done.
        """
        if not self._fit.in_blocks or not self._metric.is_between_units:
            return
        self._metric.refuse_lossless()
        if not trainer.is_last_batch and not validation_is_due(trainer):
            self._stop_inside_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop after a block whose last batch was followed by a validation."""
        in_training = self._run.stage == "fit" and not trainer.sanity_checking
        if self._fit.in_blocks and in_training and not trainer.is_last_batch:
            self._stop_inside_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop at the end of the first complete epoch at which the limit is reached."""
        if self._is_idle(trainer) or not epoch_is_whole(trainer):
            return
        self._metric.refuse_lossless()
        if self._metric.value is None and self._metric.monitor is None:
            self._warn_if_never_logged(trainer)
        if self._decide(trainer, trainer.current_epoch + 1):
            self._finish_at_end_of_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Finish a stop at an epoch's end, when all of the epoch is done.

        During this callback's `on_train_epoch_end`, ReduceLROnPlateau has not stepped yet, and the
        module's own hook has not logged yet.
        """
        if self._fit.stop_unfinished:
            result = self._result
            result.estimate = self._metric.value
            if result.stopping_reason != StoppingReason.policy:
                result.stopping_reason = self._decide_by_limit(result.estimate)
            self._finish_stop(trainer)
        self._show_hp_metric(trainer)

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Hand the results to a parent process, or to the original of this copy."""
        self._run.release(trainer, stage, type(self).__name__, self._results())

    # --- the decision

    def end_by_policy(
        self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False, save: bool = True
    ) -> None:
        """Stop the run because a reporter was told to by its pruner or scheduler.

        At the limit the stopper decides for itself: a run that has reached T is complete. With
        `save`, the stop saves its own checkpoint.
        """
        if self._is_idle(trainer) or self._is_at_limit(epochs):
            return
        self._stop(trainer, self._metric.value, epochs, StoppingReason.policy)
        if not save:
            self._write_stop(trainer)
        elif inside_epoch:
            self._finish_stop(trainer)
        else:
            self._finish_at_end_of_training(trainer)

    def _decide(self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False) -> bool:
        """Stop if a rule demands it and Lightning's own minima are met; return whether it did."""
        between_blocks = not self._fit.in_blocks or self._metric.is_between_units
        # A policy over blocks may come with a limit in epochs, and their borders differ.
        at_border = not inside_epoch if self.stop_batches is None else between_blocks
        at_limit = at_border and self._is_at_limit(epochs)
        asks_policy = self.policy is not None and between_blocks
        if not (at_limit or asks_policy) or not limits_allow_stop(trainer, epochs):
            return False
        reason, estimate = StoppingReason.not_stopped, self._metric.value
        if at_limit:
            if estimate is None:
                self._require_monitor()
            reason = self._decide_by_limit(estimate)
        if reason == StoppingReason.not_stopped and asks_policy:
            reason = self._decide_by_policy(trainer)
        stop = reason != StoppingReason.not_stopped
        if not trainer.strategy.reduce_boolean_decision(stop, all=False):
            return False
        self._stop(trainer, estimate, epochs, reason)
        return True

    def _decide_by_limit(self, estimate: float | None) -> StoppingReason:
        """Decide for a run that has reached its limit."""
        reached = StoppingReason.stop_epoch_reached
        if self.stop_batches is not None:
            reached = StoppingReason.stop_batches_reached
        reached = self.reason_at_limit or reached
        limit = self._limit or 0
        return stop_at_limit(limit, estimate, limit=limit, reached=reached)

    def _decide_by_policy(self, trainer: Trainer) -> StoppingReason:
        """Ask the policy once a unit, on rank 0, which reads the others' records."""
        memory, monitor = self._memory, self._metric.monitor
        # `share_runs` has refused a policy without a monitor.
        if monitor is None or monitor.units_completed == memory.last_decision_at:
            return StoppingReason.not_stopped
        units = memory.last_decision_at = monitor.units_completed
        decision = None
        if memory.shared_runs is not None:  # on rank 0
            decision = memory.shared_runs.decide(
                monitor.run_id, monitor.epoch_losses, units, session=monitor.begun
            )
        decision = trainer.strategy.broadcast(decision)
        if decision.place is not None:  # none is needed at the end
            memory.decision = decision
        return StoppingReason.not_stopped if decision.goes_on else StoppingReason.policy

    def _require_monitor(self) -> None:
        """Raise if nobody will log the metric; warn if its monitor has no value yet."""
        if self._metric.monitor is None:
            raise RuntimeError(self._metric.explain_missing())
        if not self._memory.warned_of_missing:
            warn_user(
                f"The limit is reached but `{self.monitor}` is not available yet; the run "
                "continues until it is.",
            )
            self._memory.warned_of_missing = True

    @property
    def _limit(self) -> int | None:
        return self.stop_epoch if self.stop_batches is None else self.stop_batches

    def _is_at_limit(self, epochs: int) -> bool:
        completed = epochs if self.stop_batches is None else self._metric.batches_completed
        return self._limit is not None and completed >= self._limit

    def _is_idle(self, trainer: Trainer) -> bool:
        fit = self._fit
        return bool(
            self.promoted or fit.stopped or trainer.fast_dev_run or fit.refreshes_statistics
        )

    # --- the stop

    def _stop(
        self, trainer: Trainer, estimate: float | None, epochs: int | None, reason: StoppingReason
    ) -> None:
        trainer.should_stop = self._fit.stopped = True
        result = self._result
        result.estimate, result.epochs_completed, result.stopping_reason = estimate, epochs, reason

    def _stop_inside_epoch(self, trainer: Trainer) -> None:
        epochs = trainer.current_epoch
        if self._is_idle(trainer) or not self._decide(trainer, epochs, inside_epoch=True):
            return
        if has_pending_gradients(trainer):
            warn_user(
                f"The run stops after {self._metric.batches_completed} batches with gradients "
                "that are accumulated but not applied, and no checkpoint has them: promoted, it "
                "will differ from a run that was never stopped. Stop at a multiple of "
                "`accumulate_grad_batches`.",
            )
        self._finish_stop(trainer)

    def _finish_at_end_of_training(self, trainer: Trainer) -> None:
        # What others do in `on_train_end`, such as swapping averaged weights in, comes after the
        # save.
        move_to_front(trainer, self)
        self._fit.stop_unfinished = True
        if self._saves_checkpoint(trainer):
            self._fit.planned_checkpoint = self._new_checkpoint_path(trainer)

    def _finish_stop(self, trainer: Trainer) -> None:
        """Save the checkpoint to promote from, and write both into the record."""
        self._fit.stop_unfinished = False
        self._metric.warn_of_earlier_value()
        self._fit.random_states_at_stop = _stop_checkpoint.gather_random_states(trainer)
        takes_turns = self.reason_at_limit is not None
        if not takes_turns:
            self._write_stop(trainer)
        if self._saves_checkpoint(trainer):
            self._save_checkpoint(trainer)
        if takes_turns:  # the checkpoint comes first: a kill before this line repeats the turn
            self._write_stop(trainer)
        stop = self._describe_stop()
        if self._result.checkpoint_path is None:
            inform_user(f"{stop}, and without a checkpoint, so it cannot be promoted.")
        else:
            inform_user(f"{stop}; it can be resumed from '{self._result.checkpoint_path}'.")

    def _saves_checkpoint(self, trainer: Trainer) -> bool:
        return self.checkpoint_dir is not None or bool(trainer.checkpoint_callbacks)

    def _new_checkpoint_path(self, trainer: Trainer) -> str:
        at = f"epoch={self._result.epochs_completed}"
        if self._fit.in_blocks and self._metric.is_between_units:
            at = f"batches={self._metric.batches_completed}"
        return _stop_checkpoint.new_checkpoint_path(trainer, at, self.checkpoint_dir)

    def _save_checkpoint(self, trainer: Trainer) -> None:
        path = self._fit.planned_checkpoint or self._new_checkpoint_path(trainer)
        self._result.checkpoint_path = path  # the checkpoint itself has it, too
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:
            self._result.checkpoint_path = None
            if "://" not in path:
                Path(path).unlink(missing_ok=True)  # a full disk may have taken half of it
            consequence = (
                "The run has stopped, as its record shows, and has no checkpoint to resume from."
                if self.reason_at_limit is None
                else "Free the disk and start the script again: it repeats this turn."
            )
            raise OSError(
                f"'{visible(path)}' cannot be written: {error.strerror or error}. {consequence}"
            ) from error
        for monitor in monitors_of(trainer):
            monitor.write_checkpoint(path)

    def _write_stop(self, trainer: Trainer) -> None:
        paused = self._result.stopping_reason == StoppingReason.paused
        for monitor in monitors_of(trainer):
            monitor.write_stop(
                "paused" if paused else "stopped",
                reason=self._result.stopping_reason.value,
                epochs=self._result.epochs_completed,
                monitor=self.monitor,
                estimate=self._result.estimate,
            )

    # --- a run that is resumed at or past its limit

    def _ends_before_first_batch(self, trainer: Trainer) -> bool:
        """Return whether a resumed run is at or past its limit, and not about to decide itself."""
        result = self._result
        if result.stopping_reason == StoppingReason.policy:
            return True
        epochs = completed_epochs(trainer)
        if not self._is_at_limit(epochs) or not limits_allow_stop(trainer, epochs):
            return False
        if result.estimate is not None:
            return True
        inside = batches_into_epoch(trainer) > 0
        at_border = not inside
        if self.stop_batches is not None:
            at_border = self._metric.is_between_units and not (inside and trainer.is_last_batch)
        if self._run.has_saved_state and not at_border:
            return False  # it was trained past its limit, and stops at the next border
        if self._metric.monitor is not None and self._metric.value is None:
            self._require_monitor()
            return False
        return True

    def _stop_before_first_batch(self, trainer: Trainer) -> None:
        result = self._result
        estimate, epochs = result.estimate, result.epochs_completed
        if estimate is None:  # the checkpoint is from a run that had no stopper
            estimate, epochs = self._metric.value, completed_epochs(trainer)
        at_stop = completed_epochs(trainer) == epochs
        if self.stop_batches is not None:
            at_stop = self._metric.batches_completed == self.stop_batches
        if result.checkpoint_path is None and trainer.ckpt_path is not None and at_stop:
            result.checkpoint_path = _stop_checkpoint.checkpoint_of_stop(
                self._fit.loaded_plan, str(trainer.ckpt_path)
            )
        self._stop(trainer, estimate, epochs, StoppingReason.already_stopped)
        inform_user(
            f"The run already ended after {pluralize(epochs or 0, 'epoch')} and is not trained "
            "further. To continue it, give its stopper `promoted=True` or a later limit."
        )
        self._write_stop(trainer)
        if result.checkpoint_path is not None:
            for monitor in monitors_of(trainer):
                monitor.write_checkpoint(result.checkpoint_path)
        self._show_hp_metric(trainer)

    # --- messages

    def _warn_if_never_logged(self, trainer: Trainer) -> None:
        """Warn, long before T, of a name that may be misspelled."""
        # A module that logs it in its own `on_train_epoch_end` has done so an epoch later.
        first = trainer.check_val_every_n_epoch if trainer.enable_validation else 1
        if trainer.current_epoch < (first or 1) or self._memory.warned_of_missing:
            return
        self._memory.warned_of_missing = True
        after = pluralize(trainer.current_epoch + 1, "epoch")
        problem = f"is not logged in the first {after}; logged are"
        warn_user(f"{self._metric.explain_missing(problem)} Without it the run fails at its limit.")

    def _describe_stop(self) -> str:
        """Return when and why the run ends."""
        result, decision = self._result, self._memory.decision
        verb = "is paused" if result.stopping_reason == StoppingReason.paused else "ends"
        stop = f"The run {verb} after {pluralize(result.epochs_completed or 0, 'epoch')}"
        if result.estimate is not None:
            stop += f" with `{self.monitor}` = {result.estimate:.6g}"
        if result.stopping_reason != StoppingReason.policy:
            return stop
        if decision is None or decision.goes_on:  # a reporter's pruner or scheduler has decided
            return f"{stop}, as its pruner or scheduler decided"
        first = "the first continues"
        if decision.places != 1:
            first = f"the first {decision.places} continue"
        return (
            f"{stop}, as its policy decided: place {decision.place} of "
            f"{pluralize(decision.compared, 'compared run')}, and {first}"
        )

    def _show_hp_metric(self, trainer: Trainer) -> None:
        """Show the estimate at T in TensorBoard, or at the end of a run that had none at T."""
        if not self.hp_metric or self._fit.shows_hp_metric:
            return
        estimate = self._result.estimate
        value = self._metric.value if estimate is None else estimate
        if value is None:
            return
        if estimate is None and self._limit is not None and not trainer.fast_dev_run:
            warn_user(
                f"`hp_metric` of this run is `{self.monitor}` at its end, after "
                f"{trainer.current_epoch} epochs: it has no value at the limit of "
                f"{self._limit}, and does not compare with runs that have.",
            )
        _publishing.log_hp_metric(trainer, value)
        self._fit.shows_hp_metric = True

    def _warn_of_inexact_promotion(self, trainer: Trainer) -> None:
        log.warning(
            "The promoted run resumes from no checkpoint: it is trained from its beginning to "
            "the end, and never stopped."
            if trainer.ckpt_path is None
            else "The promoted run resumes from a checkpoint without a stop's random state, so it "
            "differs from one that was never stopped. `checkpoint_path` of the stopper has it."
        )

    def _reset(self) -> None:
        self._result = StopResult()
        self._memory = _Memory()

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore the results, and the random states if the stop itself saved the checkpoint."""
        self._result = StopResult(**{field.name: state[field.name] for field in fields(StopResult)})
        self._result.stopping_reason = StoppingReason(state["stopping_reason"])
        self._fit.loaded_random_states = state.get("random_states")

    # --- copies

    def _results(self) -> dict[str, Any]:
        """Return what copies, originals and parent processes receive, in plain types."""
        decision = self._memory.decision
        return {**self.state_dict(), "decision": None if decision is None else asdict(decision)}

    def _take_results(self, results: dict[str, Any]) -> None:
        self._reset()
        self._restore(results)
        decision = results["decision"]
        self._memory.decision = None if decision is None else Decision(**decision)

    def _receive(self) -> None:
        """Take the results of a spawned process or of a copy, if there are newer ones."""
        results = self._run.newer_results()
        if results is not None:
            self._take_results(results)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments and the results, in types that restricted unpicklers load."""
        self._receive()
        kept = attributes_without(self, "_result", "_memory", "_fit", "_metric")
        return {**kept, "_results": self._results()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        results = self.__dict__.pop("_results")  # otherwise it would hide the method
        self._begin(state.get("_run"))
        self._take_results(results)

    def __deepcopy__(self, memo: dict[int, Any]) -> EarlyRankingStopper:
        twin: EarlyRankingStopper = deep_copy(self, self._run, memo)
        return twin


def stoppers_of(trainer: Trainer) -> list[EarlyRankingStopper]:
    """Return the stoppers among a Trainer's callbacks, of either package."""
    return [callback for callback in trainer.callbacks if isinstance(callback, EarlyRankingStopper)]
