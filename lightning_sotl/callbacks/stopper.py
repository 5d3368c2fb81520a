"""EarlyRankingStopper: stops a run after T epochs and saves a checkpoint to promote it from.

This file is long because it holds the whole class, with its hooks in the order in which a run calls
them. Separate tasks are in the modules of this folder whose names begin with an underscore.
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
from lightning_sotl.callbacks._loader_states import LoaderStates
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._order import Place, arrange, give_way, move_to_front
from lightning_sotl.callbacks._run import RunBinding, attributes_without, deep_copy
from lightning_sotl.callbacks._shared_runs import SharedRuns, share_runs
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    batches_into_epoch,
    completed_epochs,
    correct_batch_totals,
    epoch_is_whole,
    has_fetched_ahead,
    has_loader_without_state,
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

REPEATS_TURN = "Free disk space and run the script again; it repeats this turn."


@dataclass
class StopResult:
    """The results so far, which checkpoints contain."""

    estimate: float | None = None
    epochs_completed: int | None = None
    stopping_reason: StoppingReason = StoppingReason.not_stopped
    checkpoint_path: str | None = None


@dataclass
class _Memory:
    """The part of a run's state that only this process needs."""

    decision: Decision | None = None
    last_decision_at: int | None = None  # in completed units
    shared_runs: SharedRuns | None = None
    warned_of_missing: bool = False


@dataclass
class _Fit:
    """The state of one call of `fit`."""

    stopped: bool = False
    stop_unfinished: bool = False  # the checkpoint will be saved at the end of training
    in_blocks: bool = False
    refreshes_statistics: bool = False
    shows_hp_metric: bool = False
    planned_checkpoint: str | None = None  # the path of the stop's checkpoint, before it is saved
    loaded_plan: str | None = None
    loaded_random_states: list[dict[str, Any]] | None = None
    random_states_at_stop: list[dict[str, Any]] | None = None
    loaded_loader_states: list[Any] = field(default_factory=list)
    loader_states: LoaderStates = field(default_factory=LoaderStates)
    facts: dict[str, Any] | None = None
    loaded_facts: dict[str, Any] = field(default_factory=dict)


class EarlyRankingStopper:
    r"""Stops a run after T epochs and saves a checkpoint from which it can be promoted.

    Stop every run of a sweep at the same early epoch T, rank the runs by their estimates, and train
    only the best ones to the end. Set `max_epochs` to the full budget in all of them. Learning-rate
    schedules depend on `max_epochs`, and a ranking at T is useful only on the schedule with which
    the winners will be trained.

    The run stops at the end of the first complete epoch at which `stop_epoch` is reached,
    Lightning's `min_epochs` and `min_steps` are met, and the estimate is available. With
    `stop_batches`, it stops at the end of the first block that meets these conditions. All ranks
    stop together. After `fit`, the results are in `estimate`, `epochs_completed`,
    `stopping_reason` and `checkpoint_path`.

    To promote a run, fit again from `checkpoint_path` with `promoted=True`. The checkpoint contains
    the random state of every rank. The promoted run is therefore bit-equal to a run that was never
    stopped. If the schedule, the batches or the hyper-parameters of the promoted run differ from
    those at the stop, a warning names both values.

    If you resume a run at or past its limit without `promoted=True`, it ends before the first
    batch, with its saved estimate and the reason `already_stopped`.

    A promoted run is not bit-equal if random numbers are drawn in `on_train_start`, while
    `val_dataloader` creates the loaders, or from generators other than those of torch, NumPy,
    Python and the training loaders. After a stop in the middle of an epoch (`stop_batches`), the
    training loaders must also have a `state_dict`; a warning reports a loader without one. Even so,
    random numbers in worker processes differ, and Lightning does not restore accumulated
    gradients, metrics over the whole epoch, the factor of a GradientAccumulationScheduler, or the
    last step of a ReduceLROnPlateau with `interval="step"`.

    Args:
        stop_epoch: T, the number of completed epochs after which the run stops. It must be at least
            1, and at least the window of the monitored estimate. Pass either `stop_epoch` or
            `stop_batches`; with a `policy`, both may be None.
        stop_batches: The number of training batches per rank after which the run stops. It requires
            an estimate from a SoTLMonitor with `every_n_train_batches=N`, and must be a multiple of
            N.
        monitor: The logged metric by which runs are ranked. Any logged metric works. A metric that
            the module logs in its own `on_train_epoch_end` is available from the second epoch on.
            If the metric is not logged in the epoch of the stop, for example between two
            validations, its newest value is used, with a warning.
        promoted: Whether this run is a winner that is trained to the end.
        hp_metric: Whether to show the estimate in TensorBoard's HPARAMS tab as `hp_metric`, so that
            runs can be sorted by it. The value is the estimate at T. A promoted run shows it from
            its start. A run that ends before T shows its last value, with a warning. A diverged run
            shows `inf`, which the tab sorts last. A run without a value, or one that is
            interrupted, shows nothing, or -1 if its TensorBoardLogger does not have
            `default_hp_metric=False`.
        policy: An AdaptivePolicy that decides after each epoch (or block) whether the run
            continues. It compares the run with the runs that have records below `directory`. If
            you also pass a limit, the limit stops the run too. `monitor` must be an estimate of
            this Trainer's SoTLMonitor. `policy.max_epochs` must equal the Trainer's `max_epochs`,
            or with blocks, it is the budget in blocks.
        directory: The folder below which all runs of this sweep, and no others, have their loggers.
            Each run writes its own record there and reads the records of the other runs. Required
            with a `policy`.
        checkpoint_dir: The folder in which to save the stop's checkpoint, even with checkpointing
            off. None means the folder of Lightning's own checkpoints, and no checkpoint if
            checkpointing is off.
        validation: A metric, such as "val_acc", that the policy reads in addition to the training
            losses. The SoTLMonitor of every run must record it (`record_metrics`).
        validation_mode: "max" if a higher `validation` is better, or "min" if a lower one is.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range. If both limits are given, or neither limit and
            no policy. If only one of `policy` and `directory` is given, or `validation` without a
            policy or without `validation_mode`.
        ValueError: In `setup`, if a limit is below the window, or `stop_batches` is not a multiple
            of N.
        ValueError: Before the first batch, if `policy` has another budget than the Trainer, if the
            run has no record below `directory`, or if `validation` is not recorded.
        RuntimeError: In `setup` or at the limit, if nothing logs `monitor`. The message lists the
            available names.
        RuntimeError: After an epoch, if no training step returned a loss.
        RuntimeError: On a resume from a stop, if the number of ranks or the generators of the
            training loaders have changed.
        OSError: If the checkpoint of the stop cannot be written.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from lightning_sotl import EarlyRankingStopper, SoTLMonitor
        >>> stopper = EarlyRankingStopper(stop_epoch=10)
        >>> trainer = pl.Trainer(max_epochs=100, callbacks=[SoTLMonitor(), stopper])
        >>> trainer.fit(model, loader)  # doctest: +SKIP
        >>> print(stopper.stopping_reason, stopper.estimate)  # doctest: +SKIP
        stop_epoch_reached 1.69

        Train a winner to the end:

        >>> promoted = EarlyRankingStopper(stop_epoch=10, promoted=True)
        >>> trainer = pl.Trainer(max_epochs=100, callbacks=[SoTLMonitor(), promoted])
        >>> checkpoint = stopper.checkpoint_path
        >>> trainer.fit(model, loader, ckpt_path=checkpoint, weights_only=True)  # doctest: +SKIP

        With `lightning.pytorch`, import the callbacks from `lightning_sotl.lightning`.

    Source:
        Ru et al., arXiv 2006.04492, section 5.5: search by SoTL-E at an early T.
    """

    _sotl_place = Place.late
    _metric: MonitoredMetric  # created in `setup`

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
        # Set by a Sweep: the reason with which this turn ends at its limit.
        self.reason_at_limit: StoppingReason | None = None
        # Set by a Sweep: the checkpoint from which a run's turn continues.
        self.turn_checkpoint: str | None = None
        # Set for a stopper from the environment, until `setup`: it leaves if there is another one.
        self.gives_way = False
        self._begin()

    def _begin(self, run: RunBinding | None = None) -> None:
        """Create the internal state of a new stopper or of a copy from the arguments."""
        self._state_key = f"{type(self).__qualname__}{{'monitor': {self.monitor!r}}}"
        self._run = run or RunBinding()
        self._fit = _Fit()
        self._reset()

    # --- results

    @property
    def estimate(self) -> float | None:
        """The value of `monitor` at the stop, or None before it. `+inf` for a diverged run."""
        self._receive()
        return self._result.estimate

    @property
    def epochs_completed(self) -> int | None:
        """The number of completed epochs at the stop, or None before it."""
        self._receive()
        return self._result.epochs_completed

    @property
    def stopping_reason(self) -> StoppingReason:
        """Why the run was stopped, or `not_stopped`."""
        self._receive()
        return self._result.stopping_reason

    @property
    def checkpoint_path(self) -> str | None:
        """The path of the checkpoint to promote from, or None if the stop has saved none."""
        self._receive()
        return self._result.checkpoint_path

    @property
    def decision(self) -> Decision | None:
        """The policy's newest decision, or None before the first one and without a policy.

        Checkpoints do not contain it.
        """
        self._receive()
        return self._memory.decision

    # --- state

    @property
    def state_key(self) -> str:
        """The key of the saved state. It depends only on `monitor`, so a resume may change T."""
        return f"{self._state_key} of the environment" if self.gives_way else self._state_key

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, in plain types."""
        return {
            "stop_epoch": self.stop_epoch,
            "stop_batches": self.stop_batches,
            **asdict(self._result),
            "stopping_reason": self._result.stopping_reason.value,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state of `state_dict`; ignore it if it is loaded to validate or test."""
        if self._run.takes_state():
            self._restore(state_dict)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states of the stop to its checkpoint and to later checkpoints.

        A checkpoint that is saved after the decision to stop, but before the stop saves its own,
        contains the path of the stop's checkpoint. A run that is started again from the former can
        then find the latter.

        A run that ends before its first batch saves the loader states that it loaded, because
        Lightning has already advanced the loaders for a batch that will not be trained.
        """
        fit = self._fit
        _promotion_checks.put_facts(checkpoint, fit.facts)
        if fit.random_states_at_stop is not None:
            checkpoint["callbacks"][self.state_key]["random_states"] = fit.random_states_at_stop
        _stop_checkpoint.put_plan(checkpoint, self.state_key, fit.planned_checkpoint)
        if fit.random_states_at_stop is not None and fit.loader_states.after_block is not None:
            _stop_checkpoint.put_loader_states(checkpoint, fit.loader_states.after_block)
        already_stopped = self._result.stopping_reason == StoppingReason.already_stopped
        if already_stopped and fit.loaded_loader_states:
            _stop_checkpoint.put_loader_states(checkpoint, fit.loaded_loader_states)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the entries that `on_train_start` needs to decide how the run resumes."""
        correct_batch_totals(checkpoint)
        self._fit.loaded_loader_states = _stop_checkpoint.saved_loader_states(checkpoint)
        self._fit.loaded_facts = _promotion_checks.saved_facts(checkpoint)
        self._fit.loaded_plan = _stop_checkpoint.saved_plan(checkpoint, self.state_key)

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Drop the run of another Trainer, and refuse limits that this Trainer cannot meet."""
        give_way(trainer)
        if self.gives_way:
            return
        if not self._run.bind(trainer, stage):
            return
        if self._run.is_new:
            self._reset()
        self._fit = _Fit()
        self._metric = MonitoredMetric(trainer, self.monitor)
        check_limits(trainer, self._metric, self.stop_epoch, self.stop_batches)
        if not self.promoted:
            self._metric.refuse_unknown(pl_module)
        # `stop_epoch` is checked only at the end of epochs, even if the estimate is over blocks.
        decides_after_units = self.stop_batches is not None or self.policy is not None
        self._fit.in_blocks = decides_after_units and self._metric.counts_blocks
        if self.hp_metric:
            _publishing.warn_without_tensorboard(trainer)
        arrange(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Resume with the random state of the stop, or end a run that is at or past its limit."""
        if self.turn_checkpoint is not None and trainer.ckpt_path is None:
            raise RuntimeError(
                "Expected the turn to continue from the run's checkpoint, but `fit` was called "
                "without one. Call `turn.fit(trainer, model, ...)` instead of `trainer.fit`."
            )
        train_whole_epochs_after_resume(trainer)
        states, self._fit.loaded_random_states = self._fit.loaded_random_states, None
        if not self.promoted:
            if self._ends_before_first_batch(trainer):
                # Checkpoints that other callbacks save from here on belong to the stop, too.
                self._fit.random_states_at_stop = states
                self._fit.facts = _promotion_checks.facts_in(self._fit.loaded_facts)
                self._stop_before_first_batch(trainer)
                return
            # The saved results belong to an earlier limit.
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
                "Checkpointing is off, so the run will save no checkpoint when it stops and cannot "
                "be promoted. Pass EarlyRankingStopper a `checkpoint_dir`."
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
        self._fit.loader_states.look_ahead(trainer, self._metric)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Mark the present value of the metric as one of an earlier epoch."""
        self._metric.mark()
        self._fit.refreshes_statistics = trains_without_backward(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a block, and save before Lightning ends the epoch.

        If a validation is due, the stop waits for it. At the last batch of an epoch, the stop waits
        for the end of the epoch. A run that resumes from the stop must not repeat either of them.
        """
        if not self._metric.counts_blocks:
            return
        self._fit.loader_states.update(trainer, self._metric)
        if not self._fit.in_blocks or not self._metric.is_between_units:
            return
        self._metric.refuse_lossless()
        if not trainer.is_last_batch and not validation_is_due(trainer):
            self._stop_inside_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop after a block whose last batch is followed by a validation."""
        in_training = self._run.stage == "fit" and not trainer.sanity_checking
        if self._fit.in_blocks and in_training and not trainer.is_last_batch:
            self._stop_inside_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Stop at the end of the first complete epoch at which the limit is reached."""
        if self._is_idle(trainer) or not epoch_is_whole(trainer):
            return
        if self._metric.lags(trainer.current_epoch + 1):
            return
        self._metric.refuse_lossless()
        if self._metric.value is None and self._metric.monitor is None:
            self._warn_if_never_logged(trainer)
        if self._decide(trainer, trainer.current_epoch + 1):
            self._finish_at_end_of_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Finish a stop at an epoch's end, when the epoch is entirely finished.

        It is too early in `on_train_epoch_end`: ReduceLROnPlateau has not stepped, and the module's
        own hook has not logged its metrics.
        """
        if self._fit.stop_unfinished:
            result = self._result
            result.estimate = self._metric.value
            if result.stopping_reason != StoppingReason.policy:
                result.stopping_reason = self._decide_by_limit(result.estimate)
            self._finish_stop(trainer)
        self._show_hp_metric(trainer)

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Pass the results to the parent process, or to the callback that this is a copy of."""
        self._run.release(trainer, stage, type(self).__name__, self._results())

    # --- the decision

    def end_by_policy(
        self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False, save: bool = True
    ) -> None:
        """Stop the run because the pruner or scheduler of a reporter has decided so.

        At the limit, the call has no effect: a run that has reached T is complete, and the stopper
        stops it.

        Args:
            trainer: The Trainer.
            epochs: The number of completed epochs.
            inside_epoch: Whether the call comes from inside an epoch.
            save: Whether the stop saves its own checkpoint.
        """
        if self._is_idle(trainer) or self._is_at_limit(epochs):
            return
        self._stop(trainer, self._metric.value, epochs, StoppingReason.policy)
        if not save:
            self._write_stop(trainer)
        elif inside_epoch:
            self._finish_stop_inside_epoch(trainer)
        else:
            self._finish_at_end_of_training(trainer)

    def _decide(self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False) -> bool:
        """Stop if a rule requires it and Lightning's minima are met; return whether it stops."""
        between_blocks = not self._fit.in_blocks or self._metric.is_between_units
        # A policy over blocks may be combined with a limit in epochs, whose borders differ.
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
        """Return the reason to stop a run that has reached its limit."""
        reached = StoppingReason.stop_epoch_reached
        if self.stop_batches is not None:
            reached = StoppingReason.stop_batches_reached
        reached = self.reason_at_limit or reached
        limit = self._limit or 0
        return stop_at_limit(limit, estimate, limit=limit, reached=reached)

    def _decide_by_policy(self, trainer: Trainer) -> StoppingReason:
        """Ask the policy once per unit, on rank 0, which reads the records of the other runs."""
        memory, monitor = self._memory, self._metric.monitor
        # `share_runs` has already refused a policy without a monitor.
        if monitor is None or monitor.units_completed == memory.last_decision_at:
            return StoppingReason.not_stopped
        units = memory.last_decision_at = monitor.units_completed
        decision = None
        if memory.shared_runs is not None:  # only on rank 0
            decision = memory.shared_runs.decide(
                monitor.run_id, monitor.epoch_losses, units, session=monitor.begun
            )
        decision = trainer.strategy.broadcast(decision)
        if decision.place is not None:  # a run without a place was not ranked
            memory.decision = decision
        return StoppingReason.not_stopped if decision.goes_on else StoppingReason.policy

    def _require_monitor(self) -> None:
        """Raise if no SoTLMonitor logs the metric; warn if the monitor has no value yet."""
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
        if not self._is_idle(trainer) and self._decide(trainer, epochs, inside_epoch=True):
            self._finish_stop_inside_epoch(trainer)

    def _finish_stop_inside_epoch(self, trainer: Trainer) -> None:
        if has_pending_gradients(trainer):
            warn_user(
                f"The run stops after {self._metric.batches_completed} batches with gradients "
                "that are accumulated but not applied. Checkpoints do not contain them, so the "
                "promoted run will differ from a run that was never stopped. Stop at a multiple "
                "of `accumulate_grad_batches`.",
            )
        if self._saves_checkpoint(trainer) and has_loader_without_state(trainer):
            warn_user(
                "The run stops inside an epoch, and a training loader has no `state_dict`. A run "
                "that resumes from the stop starts this loader from its beginning, so it will "
                "differ from a run that was never stopped. Use a loader with a state, such as "
                "torchdata's StatefulDataLoader, or stop at the end of an epoch.",
            )
        elif has_fetched_ahead(trainer) and self._fit.loader_states.after_block is None:
            warn_user(
                "The run stops after the first batch of an epoch, and its training loaders have no "
                "length, so Lightning has already fetched the next batch. The promoted run will "
                "skip it.",
            )
        self._finish_stop(trainer)

    def _finish_at_end_of_training(self, trainer: Trainer) -> None:
        # The save must come before the `on_train_end` of other callbacks, which may, for example,
        # swap in averaged weights.
        move_to_front(trainer, self)
        self._fit.stop_unfinished = True
        self._fit.loader_states.after_block = None  # the states at the end of the epoch count
        if self._saves_checkpoint(trainer):
            self._fit.planned_checkpoint = self._new_checkpoint_path(trainer)

    def _finish_stop(self, trainer: Trainer) -> None:
        """Save the checkpoint to promote from, and write the stop and its path to the record."""
        self._fit.stop_unfinished = False
        self._metric.warn_of_earlier_value()
        self._fit.random_states_at_stop = _stop_checkpoint.gather_random_states(
            trainer, self._fit.loader_states.after_block
        )
        takes_turns = self.reason_at_limit is not None
        if not takes_turns:
            self._write_stop(trainer)
        if self._saves_checkpoint(trainer):
            self._save_checkpoint(trainer)
        if takes_turns:  # after the save, so that a turn that is killed before is repeated
            self._write_stop(trainer)
        stop = self._describe_stop()
        if takes_turns:
            inform_user(f"{stop}.")
        elif self._result.checkpoint_path is None:
            inform_user(f"{stop}. It saved no checkpoint, so it cannot be promoted.")
        else:
            inform_user(f"{stop}. It can be resumed from '{self._result.checkpoint_path}'.")

    def _saves_checkpoint(self, trainer: Trainer) -> bool:
        return self.checkpoint_dir is not None or bool(trainer.checkpoint_callbacks)

    def _new_checkpoint_path(self, trainer: Trainer) -> str:
        at = f"epoch={self._result.epochs_completed}"
        if self._fit.in_blocks and self._metric.is_between_units:
            at = f"batches={self._metric.batches_completed}"
        return _stop_checkpoint.new_checkpoint_path(trainer, at, self.checkpoint_dir)

    def _save_checkpoint(self, trainer: Trainer) -> None:
        path = self._fit.planned_checkpoint or self._new_checkpoint_path(trainer)
        self._result.checkpoint_path = path  # before the save, so that the checkpoint contains it
        consequence = REPEATS_TURN
        if self.reason_at_limit is None:
            consequence = (
                "The run has stopped, as its record shows, but has no checkpoint to resume from."
            )
        try:
            save_checkpoint(trainer, path, consequence)
        except OSError:
            self._result.checkpoint_path = None
            raise
        for monitor in monitors_of(trainer):
            monitor.write_checkpoint(path)

    def _write_stop(self, trainer: Trainer) -> None:
        status = "stopped"
        if self._result.stopping_reason == StoppingReason.paused:
            status = "paused"
        elif self.reason_at_limit not in (None, StoppingReason.paused):  # the end of a Sweep's run
            status = "finished"
        for monitor in monitors_of(trainer):
            monitor.write_stop(
                status,
                reason=self._result.stopping_reason.value,
                epochs=self._result.epochs_completed,
                monitor=self.monitor,
                estimate=self._result.estimate,
            )

    # --- a run that is resumed at or past its limit

    def _ends_before_first_batch(self, trainer: Trainer) -> bool:
        """Return whether a resumed run is at or past its limit and must not train any further.

        It returns False if the run will itself decide at the next end of an epoch or block.
        """
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
        if self._metric.lags(epochs) or (self._run.has_saved_state and not at_border):
            return False  # the run was trained past its limit, and stops at the next border
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
            f"The run already ended after {self._progress(epochs)} and is not trained "
            "further. To continue it, pass its stopper `promoted=True` or a later limit."
        )
        self._write_stop(trainer)
        if result.checkpoint_path is not None:
            for monitor in monitors_of(trainer):
                monitor.write_checkpoint(result.checkpoint_path)
        self._show_hp_metric(trainer)

    # --- messages

    def _warn_if_never_logged(self, trainer: Trainer) -> None:
        """Warn early, long before T, about a name that may be misspelled."""
        # If the module logs it in its own `on_train_epoch_end`, it appears one epoch later.
        first = trainer.check_val_every_n_epoch if trainer.enable_validation else 1
        if trainer.current_epoch < (first or 1) or self._memory.warned_of_missing:
            return
        self._memory.warned_of_missing = True
        after = pluralize(trainer.current_epoch + 1, "epoch")
        problem = f"was not logged in the first {after}; available"
        advice = "If it is never logged, the run will fail at its limit."
        warn_user(f"{self._metric.explain_missing(problem)} {advice}")

    def _describe_stop(self) -> str:
        """Return a text about when and why the run ends, without a full stop."""
        result, decision = self._result, self._memory.decision
        verb = "is paused" if result.stopping_reason == StoppingReason.paused else "ends"
        # In a Sweep, the folder of the turn has the name of its run.
        run = "The run" if self.reason_at_limit is None else Path(str(self.checkpoint_dir)).name
        stop = f"{run} {verb} after {self._progress(result.epochs_completed)}"
        if result.estimate is not None:
            stop += f" with `{self.monitor}` = {result.estimate:.6g}"
        if result.stopping_reason != StoppingReason.policy:
            return stop
        if decision is None or decision.goes_on:  # so the decision came from a reporter
            return f"{stop}, as its pruner or scheduler decided"
        first = "only the first continues"
        if decision.places != 1:
            first = f"only the first {decision.places} continue"
        return (
            f"{stop}, as its policy decided: place {decision.place} of "
            f"{pluralize(decision.compared, 'compared run')}, and {first}"
        )

    def _progress(self, epochs: int | None) -> str:
        """Return, for example, "3 epochs" or "5 blocks of 10 batches"."""
        monitor = self._metric.monitor
        if monitor is None or monitor.every_n_train_batches is None or not monitor.is_between_units:
            return pluralize(epochs or 0, "epoch")
        size = monitor.every_n_train_batches
        batches = "1 batch" if size == 1 else f"{size:,} batches"
        return f"{pluralize(monitor.units_completed, 'block')} of {batches}"

    def _show_hp_metric(self, trainer: Trainer) -> None:
        """Show the estimate at T in TensorBoard, or the last value of a run without one at T."""
        if not self.hp_metric or self._fit.shows_hp_metric:
            return
        estimate = self._result.estimate
        value = self._metric.value if estimate is None else estimate
        if value is None:
            return
        if estimate is None and self._limit is not None and not trainer.fast_dev_run:
            warn_user(
                f"`hp_metric` of this run is `{self.monitor}` at its end, after "
                f"{self._progress(trainer.current_epoch)}, because it has no value at the limit of "
                f"{self._limit}. Do not compare it with runs that have one.",
            )
        _publishing.log_hp_metric(trainer, value)
        self._fit.shows_hp_metric = True

    def _warn_of_inexact_promotion(self, trainer: Trainer) -> None:
        log.warning(
            "The promoted run was started without a checkpoint, so it is trained from epoch 0 and "
            "not stopped. To continue it from its stop, call `winner.fit`, or pass `ckpt_path` to "
            "`fit`."
            if trainer.ckpt_path is None
            else "The promoted run resumes from a checkpoint without the random state of a stop, "
            "so it will differ from a run that was never stopped. Resume from the stopper's "
            "`checkpoint_path` instead."
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
        """Return the results for copies, originals and parent processes, in plain types."""
        decision = self._memory.decision
        return {**self.state_dict(), "decision": None if decision is None else asdict(decision)}

    def _take_results(self, results: dict[str, Any]) -> None:
        self._reset()
        self._restore(results)
        decision = results["decision"]
        self._memory.decision = None if decision is None else Decision(**decision)

    def _receive(self) -> None:
        """Take newer results from a spawned process or from a copy, if there are any."""
        results = self._run.newer_results()
        if results is not None:
            self._take_results(results)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments and the results, in types that restricted unpicklers accept."""
        self._receive()
        kept = attributes_without(self, "_result", "_memory", "_fit", "_metric")
        return {**kept, "_results": self._results()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        results = self.__dict__.pop("_results")  # it would hide the method of this name
        self._begin(state.get("_run"))
        self._take_results(results)

    def __deepcopy__(self, memo: dict[int, Any]) -> EarlyRankingStopper:
        twin: EarlyRankingStopper = deep_copy(self, self._run, memo)
        return twin


def save_checkpoint(trainer: Trainer, path: str, consequence: str) -> None:
    """Save a checkpoint, or delete the partial file and raise an error that names it.

    Args:
        trainer: The Trainer.
        path: The path of the checkpoint.
        consequence: The sentence of the message about what the failure means for the user.

    Raises:
        OSError: If the checkpoint cannot be written, for example to a full disk.
    """
    try:
        trainer.save_checkpoint(path, weights_only=False)
    except OSError as error:
        if "://" not in path:
            Path(path).unlink(missing_ok=True)
        raise OSError(
            f"'{visible(path)}' cannot be written: {error.strerror or error}. {consequence}"
        ) from error


def stoppers_of(trainer: Trainer) -> list[EarlyRankingStopper]:
    """Return the stoppers among a Trainer's callbacks, from either Lightning package."""
    return [callback for callback in trainer.callbacks if isinstance(callback, EarlyRankingStopper)]
