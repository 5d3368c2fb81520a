"""From a run's estimates to an Optuna trial: the reporter, free of either Lightning package."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import optuna

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl._utils.validation import text as check_text
from lightning_sotl.callbacks._monitored import counts_blocks, missing_monitor, producer_of
from lightning_sotl.callbacks._order import LateCallback, arrange
from lightning_sotl.callbacks._run import RunBound
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    epoch_is_whole,
    is_same_value,
    limits_allow_stop,
    trains_without_backward,
)
from lightning_sotl.callbacks.monitor import MonitorLogic
from lightning_sotl.callbacks.stopper import stoppers_of
from lightning_sotl.integrations._optuna.restart import own_identity, process_key
from lightning_sotl.integrations._optuna.storage import (
    note_validation,
    reported_values,
    retry_storage,
    should_prune,
    sign_of,
    tell,
    validations_of,
)
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.policies.stopping import StoppingReason
from lightning_sotl.stats.ranks import Mode, check_mode


class ReporterState(RunBound["ReporterState"]):
    """Reports each available estimate to an Optuna trial and ends the run if it shall be pruned.

    The value after epochs 0 to e is reported once, at step e (or at the index of the block). A
    pruned run ends through `trainer.should_stop`, so its loggers and checkpoints are complete;
    call `finish()` after `fit`, and return what it returns from the objective. A run whose first
    estimate is not finite has diverged from the start and ends there. Rank 0 reports and decides,
    and all ranks stop together.

    A storage that fails during a report is tried three times within a second; the run then goes
    on with a warning, and the report is made with the next one or in `finish()`.

    Args:
        trial: The trial of a study with one objective. With several processes only rank 0 needs
            it, and the others may give None.
        monitor: The logged metric to report; any that is logged in training or validation steps
            will do, in the epochs in which it is logged anew. SoTL-E is lower-better and refuses
            a study that maximises.
        validation: A logged validation metric that `AdaptivePruner` shall look at too. It is noted
            with each report of an epoch in which it was logged anew; other pruners do not see it.
        validation_mode: "min" if lower is better, "max" if higher is; has to be said.

    Raises:
        TypeError: If `monitor` is no string.
        ValueError: If a mode is unknown, if the study has several objectives or maximises a sum of
            training losses; in `setup`, if rank 0 has no trial.

    Example:
        >>> import optuna
        >>> from lightning_sotl.integrations.optuna import OptunaReporter
        >>> OptunaReporter(optuna.create_study().ask()).monitor
        'sotl_e1'
    """

    _reported: dict[int, float]  # step -> value
    _pending: dict[int, float]  # the same, not in the storage yet
    _value: float | None
    _checkpoint: str | None
    _pruned: bool
    _hopeless: bool  # not finite from the start
    _reached_limit: bool
    _in_blocks: bool
    _shown_before: dict[str, Any]  # at the begin of the epoch
    _validations: dict[int, float]  # step -> value for the pruner, lower is better
    _to_compare: dict[int, float]  # what the study had before this run

    def __init__(
        self,
        trial: optuna.trial.BaseTrial | None,
        monitor: str = "sotl_e1",
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
        super().__init__()
        self.trial = trial
        self.monitor = check_text("monitor", monitor)
        self.validation = validation if validation is None else check_text("validation", validation)
        if validation is not None:
            check_mode("validation_mode", validation_mode)
        self.validation_mode = validation_mode
        self._worst = math.inf
        if isinstance(trial, optuna.Trial):
            self._worst = _sign_of(trial, monitor) * math.inf
            name = partial(trial.set_user_attr, process_key(trial.number), own_identity())
            retry_storage(name, otherwise=None)
        self._reset()

    @property
    def state_key(self) -> str:
        """The state belongs to the monitored name."""
        return f"OptunaReporter{{'monitor': {self.monitor!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Return what was reported and decided, in plain types."""
        return {
            "reported": self._reported,
            "pending": self._pending,
            "value": self._value,
            "pruned": self._pruned,
            "reached_limit": self._reached_limit,
            "checkpoint": self._checkpoint,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._reported, self._pending = dict(state["reported"]), dict(state["pending"])
        self._value, self._pruned = state["value"], state["pruned"]
        self._reached_limit, self._checkpoint = state["reached_limit"], state["checkpoint"]

    def _reset(self) -> None:
        self._reported = {}
        self._pending = {}
        self._value = None
        self._pruned = self._hopeless = self._reached_limit = False
        self._checkpoint = None
        self._in_blocks = False
        self._shown_before = {}
        self._validations = {}
        self._to_compare = {}


def _sign_of(trial: optuna.Trial, monitor: str) -> float:
    """Return the sign of the trial's study, in which the monitored value has a place.

    Raises:
        ValueError: If the study has several objectives, or maximises a sum of training losses.
    """
    sign = sign_of(
        trial.study,
        several=(
            ": Optuna cannot prune trials of several. Return `stopper.estimate` as one of the "
            "objectives instead."
        ),
    )
    if sign < 0 and parse_monitor(monitor) is not None:
        raise ValueError(
            f"Expected a study with direction='minimize' for monitor={monitor!r}, of which lower "
            "is better, but got 'maximize'."
        )
    return sign


CHECKPOINT_KEY = "lightning_sotl:checkpoint_path"


class ReporterLogic(LateCallback["ReporterLogic"], ReporterState):
    __doc__ = ReporterState.__doc__

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Forget another Trainer's run, and take a place behind all that may log."""
        if not self._bind(trainer, stage):
            return
        if trainer.is_global_zero:
            self._required_trial()  # rather than at the first report
        arrange(trainer, first=MonitorLogic, late=LateCallback)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Note what the trial has been told before, and decide afresh."""
        self._pruned = self._hopeless = self._reached_limit = False
        self._in_blocks = counts_blocks(trainer, self.monitor)
        if trainer.is_global_zero:
            # If the storage is down, what the checkpoint knows has to do.
            self._reported = retry_storage(
                partial(reported_values, self.trial), otherwise=self._reported
            )
            self._to_compare = dict(self._reported)
            if self.validation is not None and isinstance(self.trial, optuna.Trial):
                self._validations = validations_of(self.trial)
        self._reported = trainer.strategy.broadcast(self._reported)
        self._pending = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Note what is shown already: it is of an earlier epoch."""
        self._shown_before = dict(trainer.callback_metrics)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a block that this batch has filled."""
        if not self._in_blocks:  # nothing else is done in a step
            return
        producer = producer_of(trainer, self.monitor)
        if producer is not None and producer.is_between_units:
            self._report(trainer, producer.units_completed - 1)
            self._stop_if_allowed(trainer, trainer.current_epoch, inside_epoch=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report an epoch that is complete."""
        if trains_without_backward(trainer):
            return
        producer = producer_of(trainer, self.monitor)
        if producer is None and epoch_is_whole(trainer):
            self._report(trainer, trainer.current_epoch)
        elif producer is not None and not self._in_blocks:
            self._report(trainer, producer.units_completed - 1)
        if epoch_is_whole(trainer):
            self._stop_if_allowed(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Note the last value, whether a stopper has ended the run, and its checkpoint."""
        if self.monitor in trainer.callback_metrics:
            self._value = float(trainer.callback_metrics[self.monitor])
        if producer_of(trainer, self.monitor) is None and not self._reported:
            logged = quote_all(list(trainer.callback_metrics))
            warn_user(
                f"`monitor={self.monitor!r}` was never reported: it is not logged in training or "
                f"validation steps; logged are: {logged}.{missing_monitor(trainer, self.monitor)}"
            )
        if self.validation is not None and trainer.is_global_zero and not self._validations:
            logged = quote_all(list(trainer.callback_metrics))
            warn_user(
                f"`validation={self.validation!r}` was never noted: it is not logged by the end of "
                f"an epoch; logged are: {logged}."
            )
        for stopper in stoppers_of(trainer):
            if stopper.stopping_reason == StoppingReason.policy:
                self._pruned = True  # also by a policy of the stopper's own
            elif stopper.stopping_reason != StoppingReason.not_stopped:
                self._reached_limit = True
            self._checkpoint = stopper.checkpoint_path or self._checkpoint

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Leave no state in what a stopper saves at T: a promoted run reports to no trial.

        Lightning would ask it for this callback. The storage has what was reported.
        """
        if any(
            stopper.stopping_reason != StoppingReason.not_stopped
            for stopper in stoppers_of(trainer)
        ):
            checkpoint["callbacks"].pop(self.state_key, None)

    # --- for the objective

    def finish(self) -> float:
        """Return the trial's value after `fit`, or raise `optuna.TrialPruned` if it was pruned.

        A run that an EarlyRankingStopper has ended at T is complete, whatever the pruner said
        there. The value of a diverged run is `inf` (`-inf` in a study that maximises), also if the
        pruner has ended it, so that the trial is COMPLETE, ranks last, and the sampler learns.

        Raises:
            optuna.TrialPruned: If the pruner has ended the run.
            RuntimeError: If the run has no value, because no unit was completed.
        """
        self._receive_from_child()
        if isinstance(self.trial, optuna.Trial):
            trial = self.trial
            stored = retry_storage(partial(reported_values, self.trial), otherwise={})
            for step, value in {**self._reported, **self._pending}.items():
                if step not in stored:
                    retry_storage(partial(trial.report, value, step), otherwise=None)
            if self._checkpoint is not None:
                path = self._checkpoint
                retry_storage(partial(trial.set_user_attr, CHECKPOINT_KEY, path), otherwise=None)
        diverged = self._value is not None and not math.isfinite(self._value)
        if self._pruned and not self._reached_limit and not diverged:
            raise optuna.TrialPruned(f"Pruned after step {max(self._reported, default=0)}.")
        if self._value is None:
            raise RuntimeError(
                f"The run has ended before `{self.monitor}` was available, so it has no value."
                + ("" if self._trainer else " This OptunaReporter was in no Trainer's callbacks.")
            )
        return self._value if math.isfinite(self._value) else self._worst

    # --- how it is done

    def _compare(self, step: int, shown: Any) -> None:
        stored = self._to_compare.pop(step)
        if shown is None or not math.isfinite(stored):
            return
        if not math.isclose(float(shown), stored, rel_tol=1e-6):
            self._to_compare = {}
            warn_user(
                f"The study has {stored:.6g} of this trial at step {step}, where the run now has "
                f"{float(shown):.6g}: it did not go on from the trial's checkpoint. The study "
                "keeps what was reported first."
            )

    def _report(self, trainer: Trainer, step: int) -> None:
        shown = trainer.callback_metrics.get(self.monitor)
        known = {**self._reported, **self._pending}
        if step in self._to_compare:
            self._compare(step, shown)
        if step < 0 or step in known:
            return
        is_ours = producer_of(trainer, self.monitor) is not None
        if is_ours and shown is None:
            return
        told = None
        # Of what is not ours Lightning keeps showing the value of an earlier epoch.
        if trainer.is_global_zero and (is_ours or self._is_new(trainer, self.monitor)):
            told = self._tell(trainer, step, float(shown), known)
        told = trainer.strategy.broadcast(told)
        if told is None:
            return
        self._value, hopeless, pruned = told
        if not trainer.is_global_zero:
            self._reported[step] = self._value
        # Once said it holds: Lightning's own minima may put the stop off to a later report.
        self._hopeless, self._pruned = self._hopeless or hopeless, self._pruned or pruned

    def _tell(
        self, trainer: Trainer, step: int, shown: float, known: dict[int, float]
    ) -> tuple[float, bool, bool]:
        """Report a value, and note its validation; on rank 0.

        Returns:
            The value as reported, whether no value of the run was ever finite, and whether the
            pruner ends the run.
        """
        trial = self._required_trial()
        value = shown if math.isfinite(shown) else self._worst
        hopeless = not any(map(math.isfinite, [*known.values(), value]))
        self._pending[step] = value
        if self.validation is not None and self._is_new(trainer, self.validation):
            sign = -1.0 if self.validation_mode == "max" else 1.0
            self._validations[step] = sign * float(trainer.callback_metrics[self.validation])
            note_validation(trial, self._validations)
        heard = tell(trial, self._pending, self._reported)
        return value, hopeless, heard and not hopeless and should_prune(trial)

    def _required_trial(self) -> optuna.trial.BaseTrial:
        if self.trial is None:
            raise ValueError("Expected `trial` to be an Optuna trial on rank 0 but got None.")
        return self.trial

    def _stop_if_allowed(
        self, trainer: Trainer, epochs: int, *, inside_epoch: bool = False
    ) -> None:
        if (self._hopeless or self._pruned) and limits_allow_stop(trainer, epochs):
            trainer.should_stop = True
            if self._pruned:
                for stopper in stoppers_of(trainer):
                    stopper.end_by_policy(trainer, epochs, inside_epoch=inside_epoch)

    def _is_new(self, trainer: Trainer, name: str) -> bool:
        """Return whether a metric was logged in this epoch."""
        shown = trainer.callback_metrics.get(name)
        return shown is not None and not is_same_value(shown, self._shown_before.get(name))
