"""RayReporter: reports a run's estimates to Ray Tune."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from lightning_sotl._utils import validation
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl.callbacks import _stop_checkpoint
from lightning_sotl.callbacks._loader_states import LoaderStates
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._order import Place, arrange, move_to_front
from lightning_sotl.callbacks._run import RunBinding, attributes_without, deep_copy
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    batches_into_epoch,
    before_epoch,
    end_epoch_loop,
    epoch_is_whole,
    has_loader_without_state,
    has_pending_gradients,
    limits_allow_stop,
    trains_without_backward,
    validation_is_due,
)
from lightning_sotl.callbacks.stopper import stoppers_of
from lightning_sotl.integrations._ray import session
from lightning_sotl.integrations._ray.starting_point import CHECKPOINT_NAME
from lightning_sotl.policies.stopping import StoppingReason

_RANDOM_STATES = "lightning_sotl_random_states"


@dataclass
class _Fit:
    """The state of one call of `fit`. A RayReporter has no other state."""

    in_blocks: bool = False
    units_reported: int = 0
    whole_epochs: int = 0
    any_finite: bool = False
    ends: bool = False
    saving: bool = False
    loaded_random_states: list[dict[str, Any]] | None = None
    random_states_to_save: list[dict[str, Any]] | None = None
    loader_states: LoaderStates = field(default_factory=LoaderStates)


class RayReporter:
    """Reports each completed epoch (or block) of a run to Ray Tune, with a checkpoint.

    Add the reporter to the Trainer's callbacks, and start the trainable from `starting_point()`.

    A report contains the monitored metric, the other `metrics`, `epochs_completed`, and
    `training_iteration`, by which Ray's schedulers count. `training_iteration` is the number of
    completed epochs, or of blocks if the estimate counts blocks. A partial epoch is not reported,
    and neither is an epoch that does not log the monitored metric.

    The report is made when the epoch is completely done: before the next epoch begins, or at the
    end of the run. If Ray retries, pauses, restores or promotes the trial, it therefore resumes
    from its checkpoint as if it had never ended, and no epoch is reported twice.

    In a run that is not a Ray Tune trial, nothing is reported, and a log line notes it.

    A trial that Ray stops ends through `trainer.should_stop`, with all of Lightning's hooks and
    complete logs. If the first value is not finite, the run has diverged from the start. It reports
    `inf` and ends.

    Args:
        monitor: The logged metric to report. Any logged metric works.
        metrics: Names of other logged metrics to report. A metric that was not logged since the
            last report is reported as NaN.
        checkpoint_every: N, at least 1: every N-th report has a checkpoint, and so does the last
            report of a run that Ray does not stop. If N is above 1, a trial that Ray retries
            reports the epochs since its checkpoint again. None means no checkpoints, so no trial
            can be resumed or promoted.

    Attributes:
        stopped_by_ray: Whether Ray stopped the trial.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `monitor` or a name in `metrics` is empty, or `checkpoint_every` is below 1.
        RuntimeError: In `setup`, if the Trainer has more than one process, because Ray receives
            reports only from the trial's own process. Also if `monitor` is the name of an estimate
            that no SoTLMonitor of this Trainer logs. After the first epoch (or block), if a
            SoTLMonitor receives no losses.

    Warns:
        UserWarning: If `monitor` is not logged, or if the trial resumes inside an epoch with
            a loader without a state, or without its accumulated gradients.

    Examples:
        >>> from lightning_sotl import SoTLMonitor
        >>> from lightning_sotl.integrations.ray import RayReporter, starting_point
        >>> def trainable(config):
        ...     with starting_point() as start:
        ...         callbacks = [SoTLMonitor(), RayReporter(metrics=["val_acc"])]
        ...         trainer = Trainer(max_epochs=30, callbacks=callbacks)
        ...         trainer.fit(Net(**config), ckpt_path=start.checkpoint_path, weights_only=True)
    """

    _sotl_place = Place.last
    _metric: MonitoredMetric  # from `setup` on
    _other_metrics: list[MonitoredMetric]

    def __init__(
        self,
        monitor: str = "sotl_e1",
        metrics: Sequence[str] = (),
        checkpoint_every: int | None = 1,
    ) -> None:
        self.monitor = validation.text("monitor", monitor)
        self.metrics = validation.names("metrics", metrics)
        if checkpoint_every is not None:
            checkpoint_every = validation.positive_int("checkpoint_every", checkpoint_every)
        self.checkpoint_every = checkpoint_every
        self._stopped_by_ray = False
        self._run = RunBinding()
        self._fit = _Fit()

    @property
    def stopped_by_ray(self) -> bool:
        """Whether Ray stopped the trial."""
        newer = self._run.newer_results()  # of a copy of this reporter
        if newer is not None:
            self._stopped_by_ray = newer["stopped_by_ray"]
        return self._stopped_by_ray

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Check the trial, and move behind the stoppers, which decide before a report."""
        if not self._run.bind(trainer, stage):
            return
        if trainer.world_size > 1:
            raise RuntimeError(
                f"Expected a trial's Trainer to have 1 process but got {trainer.world_size}: Ray "
                "receives reports only from the trial's own process. Give it one device, or train "
                "with Ray's TorchTrainer."
            )
        if not session.in_trial():
            inform_user("This run is not a Ray Tune trial, so nothing is reported.")
        self._metric = MonitoredMetric(trainer, self.monitor)
        self._metric.refuse_unknown(pl_module)
        self._fit = _Fit(in_blocks=self._metric.counts_blocks)
        self._other_metrics = [MonitoredMetric(trainer, name) for name in self.metrics]
        arrange(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Read the random state."""
        self._fit.loaded_random_states = checkpoint.get(_RANDOM_STATES)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Resume after the epochs in the checkpoint, which have been reported."""
        self._stopped_by_ray = False
        fit = self._fit
        fit.whole_epochs = trainer.current_epoch
        fit.units_reported = self._units_completed
        fit.any_finite = fit.units_reported > 0
        self._mark_metrics()
        if fit.loaded_random_states is not None:
            _stop_checkpoint.resume_as_if_never_stopped(trainer, fit.loaded_random_states)
        if fit.in_blocks:
            self._warn_of_inexact_resume(trainer)
            fit.loader_states.look_ahead(trainer, self._metric)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the block that this batch completes, unless a validation or epoch end follows.

        A stopper waits for those too.
        """
        fit = self._fit
        if not fit.in_blocks:
            return
        fit.loader_states.update(trainer, self._metric)
        if self._units_completed > fit.units_reported:
            self._metric.refuse_lossless()
            if not trainer.is_last_batch and not validation_is_due(trainer):
                self._report(trainer, last=_is_ending(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report a block that ended just before this validation."""
        if self._fit.in_blocks and not (trainer.sanity_checking or trainer.is_last_batch):
            self._report(trainer, last=_is_ending(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Count a complete epoch; it is reported after the step of a ReduceLROnPlateau."""
        if trains_without_backward(trainer):
            return
        self._metric.refuse_lossless()
        self._fit.loader_states.after_block = None  # the states at the end of the epoch count
        if epoch_is_whole(trainer):
            self._fit.whole_epochs = trainer.current_epoch + 1
        if trainer.reload_dataloaders_every_n_epochs:
            # Lightning creates the next loader, which draws random numbers, before the report.
            self._fit.random_states_to_save = _stop_checkpoint.gather_random_states(trainer)
        if trainer.should_stop or not self._fit.in_blocks:
            # Save before other callbacks begin the next epoch, or change the weights in their
            # `on_train_end`. But run after a stopper, which also moves itself to the front.
            move_to_front(trainer, self)
            for stopper in stoppers_of(trainer):
                if stopper.stopping_reason != StoppingReason.not_stopped:
                    move_to_front(trainer, stopper)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Report the previous epoch, and do not begin another if the trial ends."""
        with before_epoch(trainer):
            self._report(trainer)
        self._fit.random_states_to_save = None  # a block may continue into this epoch
        if self._fit.ends:
            trainer.should_stop = True
            end_epoch_loop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Report the last epoch, after a stopper that ended the run."""
        self._report(trainer, last=True)

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Pass the result to the original of this copy."""
        results = {"stopped_by_ray": self._stopped_by_ray}
        self._run.release(trainer, stage, type(self).__name__, results)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state to a report's checkpoint, where a stopper expects it."""
        if not self._fit.saving:
            return
        states, stoppers = self._fit.random_states_to_save, stoppers_of(trainer)
        for stopper in stoppers:
            checkpoint["callbacks"][stopper.state_key].setdefault("random_states", states)
        if not stoppers:
            checkpoint[_RANDOM_STATES] = states
        if self._fit.loader_states.after_block is not None:
            _stop_checkpoint.put_loader_states(checkpoint, self._fit.loader_states.after_block)

    # --- one report

    def _report(self, trainer: Trainer, *, last: bool = False) -> None:
        fit, unit = self._fit, self._units_completed
        if unit <= fit.units_reported or not session.in_trial() or self._stopped_by_ray:
            return
        if self._metric.value is None or not self._metric.is_new:
            if self._metric.monitor is None and self._metric.value is None:
                warn_user(self._metric.explain_missing())
            self._mark_metrics()
            return
        fit.units_reported = unit
        value = self._metric.value if math.isfinite(self._metric.value) else math.inf
        metrics: dict[str, Any] = {
            **{each.name: each.value if each.is_new else math.nan for each in self._other_metrics},
            self.monitor: value,
            "epochs_completed": fit.whole_epochs,
            "training_iteration": unit,
        }
        self._mark_metrics()
        fit.any_finite = fit.any_finite or math.isfinite(value)
        every = self.checkpoint_every
        saves = every is not None and (last or unit % every == 0)
        self._stopped_by_ray = self._send(trainer, metrics, with_checkpoint=saves)
        fit.ends = self._stopped_by_ray or not fit.any_finite
        if fit.ends and limits_allow_stop(trainer, fit.whole_epochs):
            trainer.should_stop = True
            if self._stopped_by_ray:
                for stopper in stoppers_of(trainer):
                    # The trial resumes from the checkpoint of the report.
                    stopper.end_by_policy(trainer, fit.whole_epochs, save=False)

    def _send(self, trainer: Trainer, metrics: dict[str, Any], *, with_checkpoint: bool) -> bool:
        """Report to Ray, and return whether Ray stops the trial."""
        if not with_checkpoint:
            return session.report(metrics, None)
        with tempfile.TemporaryDirectory() as folder:  # Ray copies it before `report` returns
            self._save(trainer, str(Path(folder) / CHECKPOINT_NAME))
            return session.report(metrics, tune.Checkpoint.from_directory(folder))

    def _save(self, trainer: Trainer, path: str) -> None:
        fit = self._fit
        if fit.random_states_to_save is None:
            fit.random_states_to_save = _stop_checkpoint.gather_random_states(
                trainer, fit.loader_states.after_block
            )
        fit.saving = True
        try:
            trainer.save_checkpoint(path)
        finally:
            fit.saving, fit.random_states_to_save = False, None

    def _warn_of_inexact_resume(self, trainer: Trainer) -> None:
        """Warn if the trial resumes inside an epoch and will differ from one that never stopped."""
        if batches_into_epoch(trainer) == 0:
            return
        problem = None
        if has_loader_without_state(trainer):
            problem = (
                "a training loader has no `state_dict`, so it starts from its beginning. Use a "
                "loader with a state, such as torchdata's StatefulDataLoader."
            )
        elif has_pending_gradients(trainer):
            problem = (
                "gradients were accumulated but not applied at its checkpoint, which does not "
                "contain them. Use a block size that is a multiple of `accumulate_grad_batches`."
            )
        if problem is not None:
            warn_user(
                "The trial resumes inside an epoch and will differ from one that was never "
                f"stopped: {problem}"
            )

    def _mark_metrics(self) -> None:
        for metric in (self._metric, *self._other_metrics):
            metric.mark()

    @property
    def _units_completed(self) -> int:
        units = self._metric.units_completed
        return self._fit.whole_epochs if units is None else units

    def __getstate__(self) -> dict[str, Any]:
        return {**attributes_without(self, "_metric", "_other_metrics"), "_fit": _Fit()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_run": RunBinding(), **state})

    def __deepcopy__(self, memo: dict[int, Any]) -> RayReporter:
        twin: RayReporter = deep_copy(self, self._run, memo)
        return twin


def _is_ending(trainer: Trainer) -> bool:
    """Return, inside an epoch, whether the run ends now."""
    return bool(trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step)
