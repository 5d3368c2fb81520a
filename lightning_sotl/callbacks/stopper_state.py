"""The stopper's arguments, its results, and what of it goes into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_sotl import _validation
from lightning_sotl.callbacks.run_bound import RunBound
from lightning_sotl.callbacks.shared_runs import SharedRuns
from lightning_sotl.policies import AdaptivePolicy, Decision, StoppingReason, stop_at_limit


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
            stop_epoch = _validation.positive_int("stop_epoch", stop_epoch)
        if stop_batches is not None:
            stop_batches = _validation.positive_int("stop_batches", stop_batches)
        self.stop_epoch = stop_epoch
        self.stop_batches = stop_batches
        self.monitor = _validation.text("monitor", monitor)
        self.promoted = _validation.boolean("promoted", promoted)
        self.hp_metric = _validation.boolean("hp_metric", hp_metric)
        self.policy = policy
        self.directory = directory
        self._state_key = f"{type(self).__qualname__}{{'monitor': {monitor!r}}}"
        self._forget()

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

    def _take_back(self, state: dict[str, Any]) -> None:
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

    def _forget(self) -> None:
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
