"""SoTLMonitor: sums the losses of Lightning's training steps and logs the estimates.

This file is long because it holds the whole class, with its hooks in the order in which a run calls
them. Separate tasks are in the modules of this folder whose names begin with an underscore.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sotl._utils import validation
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import pluralize, quote_all
from lightning_sotl.callbacks import _publishing
from lightning_sotl.callbacks._order import Place, arrange, give_way
from lightning_sotl.callbacks._record_facts import (
    batch_size_of,
    find_record,
    network_of,
    run_facts,
)
from lightning_sotl.callbacks._run import RunBinding, attributes_without, deep_copy
from lightning_sotl.callbacks._setup_checks import refuse_shared_names, warn_of_early_reads
from lightning_sotl.callbacks._trainer import (
    Module,
    Trainer,
    batches_into_epoch,
    batches_not_seen,
    correct_batch_totals,
    epoch_is_whole,
    is_at_epoch_start,
    is_same_value,
    sum_over_ranks,
    train_whole_epochs_after_resume,
    trained_batches,
    trains_without_backward,
)
from lightning_sotl.losses.history import LossHistory, RunLosses
from lightning_sotl.losses.names import logged_estimates
from lightning_sotl.losses.window import LossWindow
from lightning_sotl.record.format import check_params
from lightning_sotl.record.recorder import Recorder
from lightning_sotl.record.writer import RunRecord


@dataclass
class _State:
    """The part of a run's state that checkpoints contain."""

    losses: RunLosses
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: float = -math.inf  # start time of the run's newest process, as in its record
    logged: int = -1  # the newest epoch that the loggers have received
    lost_ranks: int = 0  # ranks whose losses are missing from the open unit


@dataclass
class _Memory:
    """The part of a run's state that only this process needs."""

    recorder: Recorder = field(default_factory=Recorder)
    loss_seen: bool = False
    warned_of_no_loss: bool = False
    handed_to_lightning: int = -1  # the newest epoch that was passed to `log`


@dataclass
class _Fit:
    """The state of one call of `fit`."""

    loss_needs_no_copy: bool = False
    needs_batch_size: bool = False  # if the loaders do not have it
    recorded: dict[str, Any] = field(default_factory=dict)  # metric -> newest recorded value
    raised: bool = False


class SoTLMonitor:
    """Logs sums of a run's training losses (SoTL and SoTL-E), which estimate its rank early.

    Add it to the callbacks of a Trainer. It reads the loss that `training_step` returns, so the
    module needs no change. It computes L(e), the mean loss of epoch e over all batches and ranks.
    After T epochs, it logs these sums:

    - `sotl` = `L(0) + ... + L(T-1)`, over all epochs (SoTL)
    - `sotl_e1`, `sotl_e10` and so on = `L(T-E) + ... + L(T-1)`, over the last E epochs (SoTL-E)

    Lower is better for every estimate. Gradient accumulation does not change them: each loss counts
    as it was returned.

    After k completed epochs (epochs 0 to k - 1), the estimates are in `trainer.callback_metrics`
    from the last batch of epoch k - 1 on. Validation after that batch and every
    `on_train_epoch_end` can read them, in any order of the callbacks. A name is absent until its
    first value exists.

    An epoch that is cut short, for example by `max_steps` or `max_time`, has no L(e). If an
    exception ends an epoch and the same Trainer trains it again, L(e) comes from the second
    attempt. If you add a monitor to a run that is already under way, `sotl` is not logged, because
    it needs every epoch. A non-finite loss makes every estimate that contains it `+inf`.

    The monitor also writes the record of the run, `sotl.jsonl`, which `lightning-sotl rank`,
    `evaluate` and `promote` read. During and after `fit`, the results are in `estimates` and
    `epoch_losses`.

    Args:
        window: E, the number of last epochs to sum, at least 1, or several such numbers. Every E is
            logged as `<prefix>_e<E>`, which is available after E epochs.
        ema_decay: The decay of the discounted sum, in (0, 1]. If given, the monitor also logs this
            sum as `<prefix>_ema<decay>`.
        every_n_train_batches: N, at least 1. If given, blocks of N training batches per rank take
            the place of epochs. This suits training in one long epoch. Names then begin with
            `<prefix>_b<N>`.
        loss_key: The key of the loss in the output of `training_step`. Lightning divides only
            "loss" under gradient accumulation, so only "loss" is multiplied back.
        prefix: The first part of every logged name. Two monitors in one Trainer need different
            prefixes, which also separate their saved states.
        prog_bar: Whether to show the estimates on the progress bar.
        epoch_axis: Whether to also log `<name>/epoch`, with the index of the epoch (or block) on
            the x axis.
        record: Whether to write the run's record, `<prefix>.jsonl`, beside the logger's files.
        record_metrics: Names of logged metrics, such as "val_acc". The record stores their newest
            value of each epoch (or block) beside L(e).
        name: The run's name in `rank` and other output, for example if its logger has no versions.
        params: The parameters that distinguish this run from the other runs of its sweep, for
            example `trial.params`. `rank` shows them, and a `Winner` returns them as `params`. They
            must survive a JSON round trip unchanged. With None, the hyper-parameters that the
            module and the DataModule save are used instead.
        directory: The folder for the record, regardless of the logger. Runs that train at the same
            time need separate folders.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if `params` contains a value that JSON would
            change, such as a tuple or NaN, or if `directory` is given with `record=False`.
        ValueError: In `setup`, if two monitors of the Trainer log the same name.
        ValueError: On a resume, if the checkpoint was saved with another `every_n_train_batches` or
            `loss_key`.
        TypeError: In training, if the loss is neither a real tensor nor a number.
        ValueError: In training, if the loss has more than one element.
        RuntimeError: In training, if the first output has no `loss_key` (the message lists the
            available keys), or if the loss was changed in place after the step.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from lightning_sotl import SoTLMonitor
        >>> monitor = SoTLMonitor(window=(1, 10))
        >>> monitor.metric_names
        ('sotl', 'sotl_e1', 'sotl_e10')
        >>> trainer = pl.Trainer(max_epochs=30, callbacks=[monitor])
        >>> trainer.fit(model, loader)  # doctest: +SKIP

        With `lightning.pytorch`, import the callback from `lightning_sotl.lightning`.

    Source:
        Ru et al., arXiv 2006.04492, Eq. 1 and section 2. The NeurIPS 2021 version calls the
        estimates TSE, TSE-E and TSE-EMA.
    """

    _sotl_place = Place.first

    def __init__(
        self,
        window: int | Sequence[int] = 1,
        ema_decay: float | None = None,
        every_n_train_batches: int | None = None,
        loss_key: str = "loss",
        prefix: str = "sotl",
        prog_bar: bool = False,
        epoch_axis: bool = False,
        record: bool = True,
        record_metrics: Sequence[str] = (),
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        directory: str | Path | None = None,
    ) -> None:
        if every_n_train_batches is not None:
            every_n_train_batches = validation.positive_int(
                "every_n_train_batches", every_n_train_batches
            )
        self.window = window
        self.ema_decay = ema_decay
        self.every_n_train_batches = every_n_train_batches
        self.loss_key = validation.text("loss_key", loss_key)
        self.prefix = validation.text("prefix", prefix)
        self.prog_bar = validation.boolean("prog_bar", prog_bar)
        self.epoch_axis = validation.boolean("epoch_axis", epoch_axis)
        self.record = validation.boolean("record", record)
        self.record_metrics = validation.names("record_metrics", record_metrics)
        self.name = None if name is None else validation.text("name", name)
        if params is not None:
            check_params("params", params)
        self.params = params
        if directory is not None:
            validation.local_directory("directory", directory)
            if not record:
                raise ValueError(
                    f"Expected `record` to be True with a `directory` but got {record}."
                )
        self.directory = directory
        # Set by a Sweep, so that a first turn that was killed is repeated as the same run. The
        # Sweep then also writes the end of the run, after it has saved the final checkpoint.
        self.sweep_run_id: str | None = None
        # Set for a monitor from the environment, until `setup`: it leaves if there is another one.
        self.gives_way = False
        self._is_global_zero = True
        self._begin()

    def _begin(self, run: RunBinding | None = None) -> None:
        """Create the internal state of a new monitor or of a copy from the arguments."""
        parameters: dict[str, Sequence[float | None]] = {
            "sotl": [None],
            "sotl-e": validation.windows("window", self.window),
        }
        if self.ema_decay is not None:
            parameters["sotl-ema"] = [validation.decay("ema_decay", self.ema_decay)]
        self._estimates = logged_estimates(
            parameters, prefix=self.prefix, block=self.every_n_train_batches
        )
        # Lightning reads the key at every hook of every step, so build it once.
        self._state_key = f"{type(self).__qualname__}{{'prefix': {self.prefix!r}}}"
        self._run = run or RunBinding()
        self._fit = _Fit()
        self._reset()

    # --- results

    @property
    def epoch_losses(self) -> dict[int, float]:
        """Epoch (or block) -> L(e) over all ranks, in the unit of the loss.

        Epochs without an L(e) are absent.
        """
        return self._history().losses()

    @property
    def estimates(self) -> dict[str, float]:
        """Logged name -> newest value, for the estimates that are available. Lower is better."""
        return self._history().estimates()

    @property
    def units_completed(self) -> int:
        """T, the number of completed epochs (or blocks)."""
        return self._history().completed

    @property
    def batches_completed(self) -> int:
        """The number of training batches per rank in completed blocks, or 0 with epochs."""
        return self._state.losses.history.completed * (self.every_n_train_batches or 0)

    @property
    def is_between_units(self) -> bool:
        """Whether no step was trained since the newest completed epoch (or block)."""
        return self._state.losses.open is None

    @property
    def completes_block_next(self) -> bool:
        """Whether the next batch is the last of a block."""
        window = self._state.losses.open
        return (0 if window is None else window.steps) + 1 == self.every_n_train_batches

    @property
    def lacks_losses(self) -> bool:
        """Whether at least one epoch (or block) was completed, but none of them has a loss."""
        return self._memory.warned_of_no_loss and self._state.losses.history.is_empty

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names that this monitor logs."""
        return tuple(self._estimates)

    def units_needed(self, name: str) -> int:
        """Return after how many completed epochs (or blocks) an estimate is first available.

        Args:
            name: One of `metric_names`.
        """
        return self._estimates[name].first_unit

    # --- for the stopper and the reporters

    @property
    def run_id(self) -> str:
        """The id of the run in its record. It stays the same after a resume."""
        self._receive()
        return self._state.run_id

    @property
    def begun(self) -> float:
        """The start time of this process in the record. It distinguishes a run from its forks."""
        return self._state.begun

    @property
    def record_path(self) -> Path | None:
        """The path of the run's record, or None on other ranks and for a run without a record."""
        self._receive()
        return self._memory.recorder.path

    def write_stop(self, status: str = "stopped", **facts: Any) -> None:
        """Write to the record that the run was stopped or paused, and why."""
        self._memory.recorder.status(status, **facts)

    def write_end(self, trainer: Trainer) -> None:
        """Write to the record that the run ended without a stopper."""
        if trainer.should_stop:
            self._memory.recorder.status("stopped", reason="trainer.should_stop")
        else:
            self._memory.recorder.status("finished")

    def write_checkpoint(self, path: str) -> None:
        """Write to the record the path of a checkpoint that was saved after the newest unit."""
        history = self._state.losses.history
        self._memory.recorder.unit(history, history.completed - 1, path)

    # --- state

    @property
    def state_key(self) -> str:
        """The key of the saved state. It depends only on `prefix`, so a resume may change E."""
        return f"{self._state_key} of the environment" if self.gives_way else self._state_key

    def state_dict(self) -> dict[str, Any]:
        """Return the completed units and this rank's part of the open unit, in plain types."""
        return {
            "every_n_train_batches": self.every_n_train_batches,
            "loss_key": self.loss_key,
            "run_id": self._state.run_id,
            "begun": self._state.begun,
            "logged": self._state.logged,
            **self._state.losses.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state of `state_dict`; ignore it if it is loaded to validate or test."""
        if self._run.takes_state():
            self._restore(state_dict)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Save the sum over all ranks; Lightning itself would save only the sum of rank 0."""
        state = checkpoint["callbacks"][self.state_key]["open"]
        if trainer.world_size == 1 or state is None:
            return
        if self._fit.raised:
            # Possibly only this rank got here. A collective would hang and lose the checkpoint.
            state["lost_ranks"] = trainer.world_size - 1
            return
        total, count = sum_over_ranks(trainer, state["total"], state["count"])
        state.update(total=total, count=count)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]
    ) -> None:
        """Correct the counts of batches that Lightning has saved wrongly."""
        correct_batch_totals(checkpoint)

    # --- Lightning's hooks, in the order of a run

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Drop the run of another Trainer, and move to the front of the callbacks."""
        give_way(trainer)
        if self.gives_way:
            return
        self._is_global_zero = trainer.is_global_zero
        if not self._run.bind(trainer, stage):
            return
        self._fit = _Fit()
        if self._run.is_new:
            self._reset()
        refuse_shared_names(monitor.metric_names for monitor in monitors_of(trainer))
        arrange(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start or resume the run, and show the known estimates before the first batch."""
        train_whole_epochs_after_resume(trainer)
        if trainer.fit_loop.total_batch_idx < 0:
            self._reset()
        else:
            self._resume(trainer)
        # Under automatic optimization, Lightning has already cloned the loss.
        self._fit.loss_needs_no_copy = self.loss_key == "loss" and pl_module.automatic_optimization
        history = self._state.losses.history
        estimates, newest = history.estimates(), history.completed - 1
        batches = self.every_n_train_batches or trainer.num_training_batches
        missing = self._estimates.keys() - estimates
        warn_of_early_reads(trainer, {name: self.units_needed(name) * batches for name in missing})
        if self._state.lost_ranks:
            self._warn_of_lost_ranks()
        if self.record:
            self._start_record(trainer, pl_module)
        _publishing.show(trainer, self._estimates, estimates)
        if (
            self.every_n_train_batches is None
            and self._state.logged < newest < trainer.current_epoch
        ):
            # Resumed from an epoch's last batch: Lightning does not call that epoch's end again.
            _publishing.log_point(trainer, estimates, epoch=newest)
            self._state.logged = newest

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Record the metrics that the module logged in `on_train_epoch_end`."""
        self._record_metrics(trainer)
        self._fit.recorded = {
            name: trainer.callback_metrics.get(name) for name in self.record_metrics
        }

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Record the metrics of a validation after an epoch or a block."""
        if self._run.stage == "fit" and not trainer.sanity_checking:
            self._record_metrics(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of the step, and close an epoch at its last batch or a block when full.

        The validation after the last batch can read the estimates because the epoch is closed here,
        not in `on_train_epoch_end`.
        """
        # Function calls are most of the cost of a step, so the common case avoids properties.
        loop, losses, block = trainer.fit_loop, self._state.losses, self.every_n_train_batches
        window = losses.open
        unit = losses.history.completed if block else loop.epoch_progress.current.completed
        if block or window is None or window.unit != unit:
            if trains_without_backward(trainer):
                return
            window = losses.window(unit)
            if self._fit.needs_batch_size:
                self._note_batch_size(batch)
        window.steps += 1
        loss = outputs.get(self.loss_key) if outputs else None
        if self._fit.loss_needs_no_copy and type(loss) is Tensor and not loss.ndim:
            self._memory.loss_seen = True
            window.add(loss, trainer.accumulate_grad_batches)
        elif outputs:
            loss = self._loss_in(outputs)
            if loss is not None:
                # Lightning divided "loss", but no other entry of the outputs.
                window.add(loss, trainer.accumulate_grad_batches if self.loss_key == "loss" else 1)
        if window.steps == block if block else loop.epoch_loop.batch_progress.is_last_batch:
            if not block and unit >= losses.history.completed:
                self._note_partial_epoch(window, batches_not_seen(trainer, window.steps))
            self._close(trainer, pl_module, window)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Close an epoch whose last batch was not flagged; log one closed before a resume."""
        self._close_epoch(trainer, pl_module)
        self._record_metrics(trainer)

    def _close_epoch(self, trainer: Trainer, pl_module: Module) -> None:
        if self.every_n_train_batches is not None or trains_without_backward(trainer):
            return
        losses, epoch = self._state.losses, trainer.current_epoch
        window = losses.open
        if window is not None and window.unit == epoch and window.steps:
            # After some resumes, Lightning trains one more batch of a completed epoch.
            if epoch in losses.history or epoch_is_whole(trainer):
                self._close(trainer, pl_module, window)
        elif losses.history.completed == epoch + 1 and self._memory.handed_to_lightning < epoch:
            self._publish(trainer, pl_module, epoch)
        if losses.history.completed == epoch + 1:
            self._state.logged = epoch

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Write to the record how the run ended, unless a stopper has done so."""
        self._record_metrics(trainer)
        if self.sweep_run_id is None:
            self.write_end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Write to the record that the run was interrupted."""
        self._fit.raised = True
        self._memory.recorder.status("interrupted", error=type(exception).__name__)
        self._run.hand_to_original(self._results())  # Lightning calls no `teardown`

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Pass the results to the parent process, or to the callback that this is a copy of."""
        self._run.release(trainer, stage, type(self).__name__, self._results())

    # --- the run

    def _reset(self) -> None:
        self._state = _State(RunLosses(self._estimates, carries=self._is_global_zero))
        if self.sweep_run_id is not None:
            self._state.run_id = self.sweep_run_id
        self._memory = _Memory()

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore a state. The sum of its open unit is over all ranks, so only rank 0 takes it."""
        for argument in ("every_n_train_batches", "loss_key"):
            saved, own = state[argument], getattr(self, argument)
            if saved != own:
                raise ValueError(
                    f"Expected `{argument}` to be {saved!r}, as in the checkpoint, but got {own!r}."
                )
        losses = self._state.losses
        losses.load_state_dict(state)
        self._state = _State(
            losses,
            run_id=state["run_id"],
            begun=state.get("begun", -math.inf),  # absent in an older checkpoint
            logged=state["logged"],
            lost_ranks=(state["open"] or {}).get("lost_ranks", 0),
        )
        self._memory = _Memory(self._memory.recorder, loss_seen=losses.has_any)

    def _results(self) -> dict[str, Any]:
        """Return the results for copies, originals and parent processes, in plain types."""
        path = self._memory.recorder.path
        return {**self.state_dict(), "record_path": None if path is None else str(path)}

    def _take_results(self, results: dict[str, Any]) -> None:
        self._restore(results)
        path = results["record_path"]
        self._memory.recorder = Recorder(None if path is None else RunRecord(Path(path)))

    def _receive(self) -> None:
        """Take newer results from a spawned process or from a copy, if there are any."""
        results = self._run.newer_results()
        if results is not None:
            self._take_results(results)

    def _history(self) -> LossHistory:
        self._receive()
        return self._state.losses.history

    def _resume(self, trainer: Trainer) -> None:
        if trainer.ckpt_path is not None and not self._run.has_saved_state:
            self._reset()  # these losses were trained before that checkpoint was loaded
        if self._state.losses.is_empty:
            self._start_midway(trainer)
        elif self.every_n_train_batches is None and is_at_epoch_start(trainer):
            self._state.losses.drop_from(trainer.current_epoch)
            self._state.logged = min(self._state.logged, trainer.current_epoch - 1)

    def _start_midway(self, trainer: Trainer) -> None:
        """Start in a run that is already under way, possibly in the middle of a unit."""
        block = self.every_n_train_batches
        if block is None:
            unit, unseen_steps = trainer.current_epoch, batches_into_epoch(trainer)
        else:
            unit, unseen_steps = divmod(trained_batches(trainer), block)
        self._state.losses.start_midway(unit, unseen_steps)
        if unseen_steps:
            warn_user(
                f"The checkpoint has no state of this SoTLMonitor, so the losses of the first "
                f"{unseen_steps} batches of {self._name_of(unit)} are unknown. Estimates that need "
                f"{self._name_of(unit)} are not logged.",
            )

    def _start_record(self, trainer: Trainer, pl_module: Module) -> None:
        record = find_record(trainer, prefix=self.prefix, directory=self.directory)
        self._memory.recorder = Recorder(record)
        facts = {
            "prefix": self.prefix,
            "loss_key": self.loss_key,
            **run_facts(trainer, pl_module, block=self.every_n_train_batches),
            "name": self.name,
            "params": self.params,
            "network": None if record is None else network_of(pl_module),
        }
        self._fit.needs_batch_size = record is not None and facts["batch_size"] is None
        state = self._state
        state.begun = self._memory.recorder.start(
            state.run_id, facts, state.losses.history, after=state.begun
        )

    def _note_batch_size(self, batch: Any) -> None:
        self._fit.needs_batch_size = False
        size = batch_size_of(batch)
        if size is not None:
            self._memory.recorder.add_facts(batch_size=size)

    def _record_metrics(self, trainer: Trainer) -> None:
        """Record the metrics logged since the start of the epoch as values of the newest unit."""
        losses = self._state.losses
        if not self.record_metrics or losses.open is not None:
            return
        shown = {name: trainer.callback_metrics.get(name) for name in self.record_metrics}
        new = {
            name: float(value)
            for name, value in shown.items()
            if value is not None and not is_same_value(value, self._fit.recorded.get(name))
        }
        if new:
            self._fit.recorded |= {name: shown[name] for name in new}
            history = losses.history
            self._memory.recorder.unit(history, history.completed - 1, metrics=new)

    # --- one step, one unit

    def _loss_in(self, outputs: Mapping[str, Any]) -> Tensor | None:
        loss = outputs.get(self.loss_key)
        if loss is None:
            if not self._memory.loss_seen and self.loss_key not in outputs:
                raise RuntimeError(
                    f"`loss_key={self.loss_key!r}` is not in the output of `training_step`; "
                    f"available: {quote_all(list(outputs))}."
                )
            return None
        self._memory.loss_seen = True
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
        if not self._fit.loss_needs_no_copy:
            loss = loss.detach().clone()
        return loss.reshape(()) if loss.ndim else loss

    def _close(self, trainer: Trainer, pl_module: Module, window: LossWindow) -> None:
        total, count = window.result()
        if trainer.world_size > 1:
            total, count = sum_over_ranks(trainer, total, count)
        if not count and not window.unseen_steps and not self._memory.warned_of_no_loss:
            self._memory.warned_of_no_loss = True
            unit = self._name_of(window.unit)
            warn_user(
                f"None of the {window.steps} steps of {unit} returned a loss. Estimates that need "
                f"{unit} are not logged. Return the loss from `training_step`, also under manual "
                "optimization.",
            )
        self._state.losses.close(total, count)
        self._memory.recorder.unit(self._state.losses.history, window.unit)
        self._publish(trainer, pl_module, window.unit)

    def _publish(self, trainer: Trainer, pl_module: Module, unit: int) -> None:
        estimates = self._state.losses.history.estimates()
        _publishing.show(trainer, self._estimates, estimates)
        if self.every_n_train_batches is None:
            _publishing.log_with_epoch(trainer, pl_module, estimates, prog_bar=self.prog_bar)
            self._memory.handed_to_lightning = unit
        else:
            _publishing.log_point(trainer, estimates, epoch=trainer.current_epoch)
            if self.prog_bar:
                trainer.progress_bar_metrics.update(estimates)
        if self.epoch_axis:
            _publishing.log_on_unit_axis(trainer, estimates, unit)

    # --- warnings

    def _note_partial_epoch(self, window: LossWindow, not_seen: int) -> None:
        if not_seen:
            window.unseen_steps += not_seen
            warn_user(
                f"Lightning trained only {window.steps} of the {window.steps + not_seen} batches "
                f"that it counts in epoch {window.unit}, which happens after some resumes. "
                f"Estimates that need epoch {window.unit} are not logged.",
            )

    def _warn_of_lost_ranks(self) -> None:
        window = self._state.losses.open
        unit = "the open unit" if window is None else self._name_of(window.unit)
        warn_user(
            f"The checkpoint was saved while an exception was raised, so the losses of "
            f"{pluralize(self._state.lost_ranks, 'other rank')} in the first "
            f"{window.steps if window else 0} batches of {unit} are lost. Its loss is the mean of "
            "the other losses.",
        )

    def _name_of(self, unit: int) -> str:
        """Return, for example, "epoch 3" or "block 3"."""
        return f"{'epoch' if self.every_n_train_batches is None else 'block'} {unit}"

    # --- copies

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments and the results, in types that restricted unpicklers accept."""
        self._receive()
        kept = attributes_without(self, "_estimates", "_fit", "_state", "_memory")
        return {**kept, "_results": self._results()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        results = self.__dict__.pop("_results")  # it would hide the method of this name
        self._begin(state.get("_run"))
        self._take_results(results)

    def __deepcopy__(self, memo: dict[int, Any]) -> SoTLMonitor:
        twin: SoTLMonitor = deep_copy(self, self._run, memo)
        return twin


def monitors_of(trainer: Trainer) -> list[SoTLMonitor]:
    """Return the monitors among a Trainer's callbacks, from either Lightning package."""
    return [callback for callback in trainer.callbacks if isinstance(callback, SoTLMonitor)]
