"""OptunaReporter: reports a run's estimates to an Optuna trial."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import optuna

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.validation import text as check_text
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._order import Place, arrange
from lightning_sotl.callbacks._run import RunBinding, attributes_without, deep_copy
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    completed_epochs,
    epoch_is_whole,
    limits_allow_stop,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.callbacks.stopper import EarlyRankingStopper, stoppers_of
from lightning_sotl.integrations._optuna.restart import own_identity, process_key
from lightning_sotl.integrations._optuna.storage import (
    ask_pruner,
    ask_pruner_again,
    note_decision,
    note_validation,
    noted_decision,
    report_pending,
    reported_values,
    retry_storage,
    sign_of,
    validations_of,
)
from lightning_sotl.losses.names import parse_monitor, unit_of
from lightning_sotl.policies.stopping import StoppingReason
from lightning_sotl.stats.ranks import Mode, check_mode

CHECKPOINT_KEY = "lightning_sotl:checkpoint_path"


@dataclass
class _State:
    """The state that checkpoints contain."""

    reported: dict[int, float] = field(default_factory=dict)  # step -> value
    pending: dict[int, float] = field(default_factory=dict)  # step -> value, not yet in the storage
    value: float | None = None
    pruned: bool = False
    reached_limit: bool = False
    checkpoint: str | None = None


@dataclass
class _Fit:
    """The state of one call of `fit`."""

    hopeless: bool = False  # the first reported value is not finite
    decision: int | None = None  # the step at which the pruner ended the trial, as in the study
    undecided: int | None = None  # the newest reported step, if its process died before a decision
    repeated: int | None = None  # the newest completed step, if the study already had its value
    ends_after: int = 0  # the step after which the run had to end, decided before a kill
    reasons_before: dict[str, StoppingReason] = field(default_factory=dict)  # by the stopper's key
    validations: dict[int, float] = field(default_factory=dict)  # step -> value, lower is better
    to_compare: dict[int, float] = field(default_factory=dict)  # earlier reports, not yet compared
    any_whole_epoch: bool = False


class OptunaReporter:
    """Reports each estimate of a run to an Optuna trial, and ends the run if the trial is pruned.

    Add the reporter to the Trainer's callbacks. After `fit`, return `reporter.finish()` from the
    objective.

    The value after epoch e is reported once, at step e, counted from 0. With blocks, the step is
    the index of the block. If a validation follows, the report waits for it. A pruned run
    ends through `trainer.should_stop`, so its loggers and checkpoints are complete. If the first
    value is not finite, the run has diverged from the start and ends there. Rank 0 reports and
    decides, and all ranks stop together.

    If the storage fails during a report, the reporter tries three times within a second. The run
    then continues with a warning, and the value is reported with the next one or in `finish()`.

    The study also stores the pruner's decision. A trial that is killed and resumed (see
    `requeue_interrupted`) therefore ends as it would have without the kill. A copy of a reporter,
    which some libraries make, reports to the same trial.

    Args:
        trial: The trial, from a study with one objective. With several processes, only rank 0 needs
            it, and the other ranks may pass None.
        monitor: The logged metric to report. Any metric that is logged in training or validation
            steps works. It is reported at the end of each epoch in which it is logged. A
            sum of training losses, such as "sotl_e1", requires a study that minimizes.
        validation: A logged validation metric, such as "val_acc", that an `AdaptivePruner` uses in
            addition to `monitor`. It is stored with the report of each epoch (or block) in which it
            is logged. Other pruners ignore it.
        validation_mode: "min" if lower is better in `validation`, "max" if higher is better.
            Required with `validation`.

    Raises:
        TypeError: If `monitor` or `validation` is not a string.
        ValueError: If `validation_mode` is not "min" or "max", if the study has several objectives,
            or if it maximizes a sum of training losses. In `setup`, if `trial` is None on rank 0.
        RuntimeError: In `setup`, if `monitor` is the name of an estimate that no SoTLMonitor of
            this Trainer logs. After the first epoch (or block), if a SoTLMonitor receives no
            losses.

    Warns:
        UserWarning: If the storage fails, if a metric was never logged, or if the study has other
            values for this trial, because the run did not resume from the trial's checkpoint.

    Examples:
        >>> import optuna
        >>> from lightning_sotl import SoTLMonitor
        >>> from lightning_sotl.integrations.optuna import OptunaReporter
        >>> def objective(trial):
        ...     model = Net(width=trial.suggest_int("width", 4, 64, log=True))
        ...     reporter = OptunaReporter(trial)
        ...     Trainer(max_epochs=30, callbacks=[SoTLMonitor(), reporter]).fit(model)
        ...     return reporter.finish()
        >>> study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
        >>> study.optimize(objective, n_trials=20)  # doctest: +SKIP
    """

    _sotl_place = Place.last
    _metric: MonitoredMetric  # from `setup` on
    _validation_metric: MonitoredMetric | None

    def __init__(
        self,
        trial: optuna.trial.BaseTrial | None,
        monitor: str = "sotl_e1",
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
        self.trial = trial
        self.monitor = check_text("monitor", monitor)
        self.validation = None if validation is None else check_text("validation", validation)
        if validation is not None:
            check_mode("validation_mode", validation_mode)
        self.validation_mode = validation_mode
        self._worst = math.inf
        if isinstance(trial, optuna.Trial):
            self._worst = _sign_of(trial, monitor) * math.inf
            retry_storage(partial(trial.set_user_attr, process_key(trial.number), own_identity()))
        self._run = RunBinding()
        self._state = _State()
        self._fit = _Fit()

    # --- state

    @property
    def state_key(self) -> str:
        """The key of the state, which contains the monitored name."""
        return f"OptunaReporter{{'monitor': {self.monitor!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Return the reports and decisions in plain types."""
        return asdict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, unless a checkpoint is loaded only to validate or test."""
        if self._run.takes_state():
            state = {field.name: state_dict[field.name] for field in fields(_State)}
            self._state = _State(**copy.deepcopy(state))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Remove the state from the checkpoint of a stop.

        A promoted run has no reporter, and Lightning would warn about the missing callback. The
        storage has the reports.
        """
        reasons = {stopper.stopping_reason for stopper in stoppers_of(trainer)}
        if reasons - {StoppingReason.not_stopped}:
            checkpoint["callbacks"].pop(self.state_key, None)

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Reset the state for a new Trainer, and move behind the callbacks that may log."""
        if not self._run.bind(trainer, stage):
            return
        if self._run.is_new:
            self._state = _State()
        self._fit = _Fit()
        self._metric = MonitoredMetric(trainer, self.monitor)
        self._metric.refuse_unknown(pl_module)
        if self.validation is None:
            self._validation_metric = None
        else:
            self._validation_metric = MonitoredMetric(trainer, self.validation, "validation")
        if trainer.is_global_zero:
            self._required_trial()  # rather than at the first report
        arrange(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Remember why the run was stopped. Its stopper only restores that it was stopped."""
        states = checkpoint.get("callbacks", {})
        self._fit.reasons_before = {
            key: StoppingReason(states[key]["stopping_reason"])
            for key in (stopper.state_key for stopper in stoppers_of(trainer))
            if key in states
        }

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Read the trial's reports, and end a run if its end was decided before a kill."""
        state, fit = self._state, self._fit
        decided = set(state.reported)  # before the checkpoint was saved
        if trainer.is_global_zero:
            read = partial(reported_values, self.trial)
            # If the storage fails, use the checkpoint's reports.
            state.reported = retry_storage(read, otherwise=state.reported)
            fit.decision = max(state.reported, default=0) if state.pruned else None
            fit.decision = retry_storage(
                partial(noted_decision, self.trial), otherwise=fit.decision
            )
            self._settle_stop_before()
            fit.to_compare = dict(state.reported)
            if self.validation is not None and isinstance(self.trial, optuna.Trial):
                fit.validations = validations_of(self.trial)
        state.reported, fit.decision = trainer.strategy.broadcast((state.reported, fit.decision))
        state.pending = {s: v for s, v in state.pending.items() if s not in state.reported}
        state.pruned, state.reached_limit = fit.decision is not None, False
        first, newest = min(state.reported, default=None), max(state.reported, default=None)
        fit.hopeless = first is not None and not math.isfinite(state.reported[first])
        fit.ends_after = (first if fit.decision is None else fit.decision) or 0
        stopped_before = set(fit.reasons_before.values()) - {StoppingReason.not_stopped}
        fit.undecided = None if stopped_before or newest in decided else newest
        self._end_before_first_batch(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Mark the present values as old: they belong to an earlier epoch."""
        self._metric.mark()
        if self._validation_metric is not None:
            self._validation_metric.mark()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the block that this batch completes, unless a validation or epoch end follows.

        A stopper waits for those too.
        """
        # With epochs, keep each step cheap.
        if not self._metric.counts_blocks or not self._metric.is_between_units:
            return
        self._metric.refuse_lossless()
        if not trainer.is_last_batch and not validation_is_due(trainer):
            self._report_inside_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report a block that ended just before this validation."""
        if self._run.stage != "fit" or trainer.sanity_checking or trainer.is_last_batch:
            return
        if self._metric.counts_blocks and self._metric.is_between_units:
            self._report_inside_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report a complete epoch, or a block that ended with it."""
        if trains_without_backward(trainer):
            return
        self._metric.refuse_lossless()
        units, whole = self._metric.units_completed, epoch_is_whole(trainer)
        step = trainer.current_epoch if units is None else units - 1
        reports = whole or units is not None
        if self._metric.counts_blocks:
            reports = self._metric.is_between_units
        if reports:
            self._report(trainer, step)
        if whole:
            self._fit.any_whole_epoch = True
            self._stop_if_allowed(trainer, step, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Remember the last value; warn about metrics that were never logged."""
        state = self._state
        if self._fit.repeated is not None:  # the study keeps the first report
            state.value = state.reported[self._fit.repeated]
        elif self._metric.value is not None:
            state.value = self._metric.value
        if self._metric.monitor is None and not state.reported:
            problem = "was never reported because training and validation steps do not log it"
            if not self._fit.any_whole_epoch:
                problem = "was never reported because no epoch was completed"
            warn_user(self._metric.explain_missing(f"{problem}; available"))
        is_stored = not trainer.is_global_zero or self._fit.validations
        if self._validation_metric is not None and not is_stored:
            unit = unit_of(self.monitor)
            problem = f"was never reported because no {unit} logged it before its end"
            warn_user(self._validation_metric.explain_missing(f"{problem}; available"))

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Note whether a stopper ended the run; pass the results to the parent or the original.

        Not in `on_train_end`, which Lightning does not call if a run is resumed at its very end.
        """
        if stage == "fit":
            self._note_stops(trainer)
        self._run.release(trainer, stage, type(self).__name__, self.state_dict())

    # --- for the objective

    def finish(self) -> float:
        """Return the trial's value after `fit`, or raise `optuna.TrialPruned` if it was pruned.

        A run that an EarlyRankingStopper ended at T is complete, even if the pruner decided to end
        it there. The value of a diverged run is `inf`, or `-inf` in a study that maximizes, even if
        the pruner ended it. The trial is then COMPLETE and ranks last, and the sampler learns from
        it.

        Returns:
            The last value of the monitored metric that the study has or `fit` logged.

        Raises:
            optuna.TrialPruned: If the pruner ended the run.
            RuntimeError: If the run has no value, because no epoch (or block) was completed or the
                reporter was not in a Trainer's callbacks.
        """
        newer = self._run.newer_results()  # of a spawned process, or of a copy of this reporter
        state = self._state = self._state if newer is None else _State(**newer)
        has_trained = newer is not None or self._run.was_in_trainer
        if isinstance(self.trial, optuna.Trial):
            trial = self.trial
            stored = retry_storage(partial(reported_values, trial), otherwise={})
            for step, value in {**state.reported, **state.pending}.items():
                if step not in stored:
                    retry_storage(partial(trial.report, value, step))
            if state.checkpoint is not None:
                retry_storage(partial(trial.set_user_attr, CHECKPOINT_KEY, state.checkpoint))
            if has_trained:  # a run that is resumed at its very end logs no value
                state.reported = {**state.reported, **stored}
                if state.value is None and state.reported:
                    state.value = state.reported[max(state.reported)]
                decision = retry_storage(partial(noted_decision, trial))
                state.pruned = state.pruned or decision is not None
        diverged = state.value is not None and not math.isfinite(state.value)
        if state.pruned and not state.reached_limit and not diverged:
            raise optuna.TrialPruned(f"Pruned after step {max(state.reported, default=0)}.")
        if state.value is None:
            problem = f"The run ended before `{self.monitor}` was available, so it has no value."
            if not self._run.was_in_trainer:
                problem += " This OptunaReporter was not in the callbacks of a Trainer."
            raise RuntimeError(problem)
        return state.value if math.isfinite(state.value) else self._worst

    # --- a run that is resumed after a kill

    def _settle_stop_before(self) -> None:
        """On rank 0, store whether the pruner caused a stop before a kill, if a stopper knows.

        Later checkpoints of this run only record that it was stopped.
        """
        reasons = set(self._fit.reasons_before.values())
        if StoppingReason.policy in reasons:
            self._note_decision(max(self._state.reported, default=0))
        elif reasons - {StoppingReason.not_stopped, StoppingReason.already_stopped}:
            self._note_decision(None)

    def _end_before_first_batch(self, trainer: Trainer) -> None:
        """Make the report and decision that the process could not make before it was killed.

        Lightning does not repeat the end of an epoch for a checkpoint of its last batch.
        """
        self._metric.mark()
        units = self._metric.units_completed
        newest = trainer.current_epoch - 1 if units is None else units - 1
        if self._metric.counts_blocks or newest < trainer.current_epoch:
            self._report(trainer, newest)
            self._stop_if_allowed(trainer, newest, completed_epochs(trainer))

    def _note_stops(self, trainer: Trainer) -> None:
        """Note why the run was stopped, if it was, and its checkpoint."""
        state = self._state
        for stopper in stoppers_of(trainer):
            reason = self._reason_of(stopper)
            if reason == StoppingReason.policy:
                state.pruned = True  # by the pruner or by the stopper's policy
            elif reason == StoppingReason.already_stopped:
                state.reached_limit = not state.pruned
            elif reason != StoppingReason.not_stopped:
                state.reached_limit = True
            state.checkpoint = stopper.checkpoint_path or state.checkpoint
        if trainer.is_global_zero:
            if state.reached_limit:
                self._note_decision(None)
            elif state.pruned:
                self._note_decision(max(state.reported, default=0))

    def _reason_of(self, stopper: EarlyRankingStopper) -> StoppingReason:
        reason = stopper.stopping_reason
        if reason == StoppingReason.already_stopped:
            return self._fit.reasons_before.get(stopper.state_key, reason)
        return reason

    def _note_decision(self, step: int | None) -> None:
        """Store in the study, on rank 0, the step at which the trial is pruned, or None."""
        fit = self._fit
        if (step is None) != (fit.decision is None):
            fit.decision = step
            retry_storage(partial(note_decision, self._required_trial(), step))

    # --- one report

    def _report_inside_epoch(self, trainer: Trainer) -> None:
        step = (self._metric.units_completed or 0) - 1
        self._report(trainer, step)
        self._stop_if_allowed(trainer, step, trainer.current_epoch, inside_epoch=True)

    def _report(self, trainer: Trainer, step: int) -> None:
        state, fit, metric = self._state, self._fit, self._metric
        if step in fit.to_compare:
            self._compare(step, metric.value)
        if step < 0 or step in state.pending:
            return
        if step in state.reported:
            fit.repeated = step
            if trainer.is_global_zero:
                self._store_validation(step)
            if step == fit.undecided:
                self._decide_again(trainer, step)
            return
        # Values of a SoTLMonitor are never old. Lightning keeps other metrics' values of earlier
        # epochs, and only rank 0 distinguishes them from new ones.
        if metric.monitor is not None and metric.value is None:
            return
        report = None
        if trainer.is_global_zero and (metric.monitor is not None or metric.is_new):
            report = self._report_value(step, metric.value)
        report = trainer.strategy.broadcast(report)
        if report is None:
            return
        fit.repeated = None
        state.value, hopeless, pruned = report
        if not trainer.is_global_zero:
            state.reported[step] = state.value
        # A decision is final, though `min_epochs` or `min_steps` may delay the stop.
        fit.hopeless |= hopeless
        state.pruned |= pruned

    def _report_value(self, step: int, shown: float | None) -> tuple[float, bool, bool]:
        """Report a value and store the validation metric, on rank 0.

        Returns:
            The reported value, whether the run's first value is not finite, and whether the pruner
            ends the run.
        """
        trial, state = self._required_trial(), self._state
        value = shown if shown is not None and math.isfinite(shown) else self._worst
        known = {**state.reported, **state.pending, step: value}
        hopeless = not math.isfinite(known[min(known)])
        state.pending[step] = value
        self._store_validation(step)
        is_stored = report_pending(trial, state.pending, state.reported)
        # While the storage fails, training continues.
        asks = is_stored and not hopeless
        pruned = asks and retry_storage(partial(ask_pruner, trial), otherwise=False)
        if pruned:
            self._note_decision(step)
        return value, hopeless, pruned

    def _store_validation(self, step: int) -> None:
        """Store the validation metric of a step on rank 0, if its value is new."""
        validation, known = self._validation_metric, self._fit.validations
        if validation is None or validation.value is None or not validation.is_new:
            return
        validation.mark()  # an epoch may have several blocks
        if step not in known:
            sign = -1.0 if self.validation_mode == "max" else 1.0
            known[step] = sign * validation.value
            note_validation(self._required_trial(), known)

    def _decide_again(self, trainer: Trainer, step: int) -> None:
        """Ask the pruner again about a report whose process may have died before the decision."""
        fit, pruned = self._fit, False
        fit.undecided = None
        if trainer.is_global_zero and not fit.hopeless and not self._state.pruned:
            pruned = retry_storage(
                partial(ask_pruner_again, self._required_trial()), otherwise=False
            )
            if pruned:
                self._note_decision(step)
        self._state.pruned |= trainer.strategy.broadcast(pruned)

    def _compare(self, step: int, shown: float | None) -> None:
        """Warn if the study has a different value at this step, for example after a kill."""
        stored = self._fit.to_compare.pop(step)
        if shown is None or not math.isfinite(stored) or math.isclose(shown, stored, rel_tol=1e-6):
            return
        self._fit.to_compare = {}
        batches = ""
        if self._metric.counts_blocks:  # the checkpoint may be from inside an epoch
            batches = ", or its training loader has no `state_dict`"
        warn_user(
            f"The study has the value {stored:.6g} for this trial at step {step}, but the run now "
            f"has {shown:.6g}: it did not resume from the trial's checkpoint{batches}. The study "
            "keeps the first value."
        )

    def _stop_if_allowed(
        self, trainer: Trainer, step: int, epochs: int, *, inside_epoch: bool = False
    ) -> None:
        pruned = self._state.pruned
        ends = (self._fit.hopeless or pruned) and step >= self._fit.ends_after
        if ends and limits_allow_stop(trainer, epochs):
            trainer.should_stop = True
            if pruned:
                for stopper in stoppers_of(trainer):
                    stopper.end_by_policy(trainer, epochs, inside_epoch=inside_epoch)

    def _required_trial(self) -> optuna.trial.BaseTrial:
        if self.trial is None:
            raise ValueError("Expected `trial` to be an Optuna trial on rank 0 but got None.")
        return self.trial

    def __getstate__(self) -> dict[str, Any]:
        return {**attributes_without(self, "_metric", "_validation_metric"), "_fit": _Fit()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_run": RunBinding(), **state})

    def __deepcopy__(self, memo: dict[int, Any]) -> OptunaReporter:
        """Return a copy that reports to the same trial, not to a copy of its study."""
        memo[id(self.trial)] = self.trial
        twin: OptunaReporter = deep_copy(self, self._run, memo)
        return twin


def _sign_of(trial: optuna.Trial, monitor: str) -> float:
    """Return the sign of the trial's study, and check that the study can rank the metric.

    Raises:
        ValueError: If the study has several objectives, or maximizes a sum of training losses.
    """
    sign = sign_of(
        trial.study,
        several=": Optuna cannot prune trials with several objectives. Return `stopper.estimate` "
        "as one of the objectives instead.",
    )
    if sign < 0 and parse_monitor(monitor) is not None:
        raise ValueError(
            f"Expected a study with direction='minimize' but got 'maximize': lower is better for "
            f"monitor={monitor!r}."
        )
    return sign
