"""The monitor's arguments, its results, and what of it goes into a checkpoint."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

from lightning_sotl import _validation
from lightning_sotl.callbacks.recorder import Recorder
from lightning_sotl.callbacks.run_bound import RunBound
from lightning_sotl.history import metric_names
from lightning_sotl.run_losses import RunLosses


class MonitorState(RunBound["MonitorState"]):
    r"""Gives the sum of training losses (SoTL-E) of a run as a metric, from what training yields.

    It adds up the losses that `training_step` returns, undivided, over all ranks, and at the last
    batch of each epoch makes the estimates visible under their names: `sotl` (the sum over all
    epochs), `sotl_e1` (the last epoch) and so on. Lower is better for all of them.

    .. math:: L(e) = \frac{1}{B_e} \sum_i \ell(e, i), \qquad
        \mathrm{SoTL\mbox{-}E}(T) = \sum_{e=T-E}^{T-1} L(e)

    After k completed epochs (0 to k - 1) the values are in `trainer.callback_metrics` from the last
    batch of epoch k - 1 on, so at its validation and at every `on_train_epoch_end`, wherever the
    callback stands in the list. Before a value exists its name is absent. An epoch that was cut
    short gives no L(e); one that an exception broke off, and that the same Trainer trains again,
    gives that of the second time. A non-finite loss makes every estimate that contains it `+inf`.

    Args:
        window: E, or several, each at least 1: over how many of the last epochs to sum. Each
            logs `<prefix>_e<E>`; available after E epochs.
        ema_decay: In (0, 1]: also log the discounted sum, `<prefix>_ema<decay>`.
        every_n_train_batches: N, at least 1: a unit is a block of N training batches per rank in
            place of an epoch, for training that is one long epoch. Names begin `<prefix>_b<N>`.
        loss_key: Which entry of the step's output is the loss. Only "loss" is divided by Lightning
            under gradient accumulation, and only that is multiplied back.
        prefix: Begins each name, and tells the state of two monitors in one Trainer apart.
        prog_bar: Whether to show the estimates on the progress bar.
        epoch_axis: Whether to log `<name>/epoch` too, with the epoch on the x axis.
        record: Whether to keep the run's record, `sotl.jsonl`, beside the logger's files.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or if a checkpoint is of another
            `every_n_train_batches` or `loss_key`.
        RuntimeError: In training, if the first output has no `loss_key` (the message lists what it
            has), or if another callback changed the loss in place.

    Example:
        >>> from lightning_sotl import SoTLMonitor
        >>> SoTLMonitor(window=(1, 10)).metric_names
        ('sotl', 'sotl_e1', 'sotl_e10')

    Source:
        Ru et al., arXiv 2006.04492, Eq. 1 and section 2; TSE, TSE-E and TSE-EMA in the NeurIPS
        2021 version.
    """

    _losses: RunLosses
    _recorder: Recorder
    _run_id: str
    _begun: float  # when the newest process of the run began, as its record says
    _logged: int  # the newest epoch that has a point in the loggers
    _handed_to_lightning: int  # the newest epoch that this process gave to `log`
    _loss_seen: bool
    _takes_loss_as_it_is: bool
    _raised: bool
    _lost_ranks: int

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
    ) -> None:
        super().__init__()
        windows = _validation.windows("window", window)
        decay = None if ema_decay is None else _validation.decay("ema_decay", ema_decay)
        if every_n_train_batches is not None:
            every_n_train_batches = _validation.positive_int(
                "every_n_train_batches", every_n_train_batches
            )
        self.window = window
        self.ema_decay = ema_decay
        self.every_n_train_batches = every_n_train_batches
        self.loss_key = _validation.text("loss_key", loss_key)
        self.prefix = _validation.text("prefix", prefix)
        self.prog_bar = _validation.boolean("prog_bar", prog_bar)
        self.epoch_axis = _validation.boolean("epoch_axis", epoch_axis)
        self.record = _validation.boolean("record", record)
        # Lightning asks for it at every hook of every step, so it is made once.
        self._state_key = f"{type(self).__qualname__}{{'prefix': {prefix!r}}}"
        self._kinds = metric_names(prefix, windows, decay, every_n_train_batches)
        self._is_global_zero = True
        self._forget()

    # --- results

    @property
    def epoch_losses(self) -> dict[int, float]:
        """Epoch (or block) -> its L(e), for those completed with a loss, over all ranks."""
        self._receive_from_child()
        return self._losses.history.losses()

    @property
    def estimates(self) -> dict[str, float]:
        """Name -> newest value of each estimate that is available. Lower is better."""
        self._receive_from_child()
        return self._losses.history.estimates()

    @property
    def units_completed(self) -> int:
        """T, the number of completed epochs (or blocks)."""
        self._receive_from_child()
        return self._losses.history.completed

    @property
    def batches_completed(self) -> int:
        """Training batches per rank in completed blocks; 0 if units are epochs."""
        return self._losses.history.completed * (self.every_n_train_batches or 0)

    @property
    def is_between_units(self) -> bool:
        """Whether no loss has come since the newest completed unit."""
        return self._losses.open is None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names that this monitor logs."""
        return tuple(self._kinds)

    @property
    def state_key(self) -> str:
        """The state belongs to `prefix`, so that the windows may change on a resume."""
        return self._state_key

    def units_needed(self, name: str) -> int:
        """Return after how many completed units the estimate `name` is first available."""
        kind = self._kinds[name]
        return kind if isinstance(kind, int) else 1

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return the closed units and this rank's share of the open one, in plain types."""
        return {
            "every_n_train_batches": self.every_n_train_batches,
            "loss_key": self.loss_key,
            "run_id": self._run_id,
            "begun": self._begun,
            "logged": self._logged,
            **self._losses.state_dict(),
        }

    def _take_back(self, state: dict[str, Any]) -> None:
        """Take back a state; the sum of the open unit is of all ranks, so rank 0 carries it."""
        for argument in ("every_n_train_batches", "loss_key"):
            saved, own = state[argument], getattr(self, argument)
            if saved != own:
                raise ValueError(
                    f"Expected `{argument}` to be {saved!r}, as in the checkpoint, but got {own!r}."
                )
        self._run_id = state["run_id"]
        self._begun = state.get("begun", -math.inf)  # absent in an older checkpoint
        self._logged = state["logged"]
        self._handed_to_lightning = -1
        self._losses.load_state_dict(state)
        self._loss_seen = self._losses.has_any
        self._lost_ranks = (state["open"] or {}).get("lost_ranks", 0)

    def _forget(self) -> None:
        self._recorder = Recorder()
        self._raised = False
        self._forget_run()

    def _forget_run(self) -> None:
        self._losses = RunLosses(self._kinds, carries=self._is_global_zero)
        self._run_id = uuid.uuid4().hex
        self._begun = -math.inf
        self._logged = -1
        self._handed_to_lightning = -1
        self._loss_seen = False
        self._takes_loss_as_it_is = False
        self._lost_ranks = 0


# What a TypeError calls the callback whose argument is unknown.
MonitorState.__init__.__qualname__ = "SoTLMonitor.__init__"
