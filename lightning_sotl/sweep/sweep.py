"""`Sweep`: trains many runs in turns on one device, and only the best of them to the end."""

from __future__ import annotations

import errno
import json
import logging
import math
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import Timeout
from tqdm.auto import tqdm

from lightning_sotl._utils import validation as checks
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.callbacks.monitor import SoTLMonitor
from lightning_sotl.callbacks.stopper import REPEATS_TURN, EarlyRankingStopper
from lightning_sotl.curves.logs import LogKeys, read_logs
from lightning_sotl.losses.names import parse_monitor, unit_of
from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.policies.rungs import final_score, rungs
from lightning_sotl.policies.stopping import StoppingReason
from lightning_sotl.policies.turns import Progress, Step, steps
from lightning_sotl.ranking.order import RankedRun, rank_runs
from lightning_sotl.record.format import check_params
from lightning_sotl.stats.ranks import Mode
from lightning_sotl.sweep._folder import RunFolder, SweepFolder
from lightning_sotl.sweep.promotion import Winner
from lightning_sotl.sweep.turn import Turn

log = logging.getLogger(__name__)

_POLL = 0.2  # seconds between checks while other processes train the remaining runs
_MANAGED = ("name", "params", "directory", "record")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class Sweep:
    """Trains many candidates in turns on one device, and only the best of them to the end.

    All runs train to the first rung and pause. The policy then decides which of them continue to
    the next rung, and so on. A paused run resumes bit for bit, as if it had never stopped.

    The first rung is `policy.first`. Each further rung is `growth` times the one before, up to
    `policy.max_epochs`. With `monitor_args={"every_n_train_batches": N}`, the policy, the turns and
    the budget count blocks of N batches instead of epochs.

    The directory holds the whole state of the sweep. To resume a sweep, also after a kill, run the
    same script again. Several processes on one machine may run the same script at the same time.
    Only one of them trains a given run. If that process dies, another takes over the run.

    Call `run(train)` to train the whole sweep. To write the loop yourself, use `for turn in sweep:`
    and train each turn before you take the next.

    Args:
        directory: The directory of this sweep. Each sweep needs its own.
        candidates: The configurations to train, each a dictionary that survives a round trip
            through JSON unchanged. On a later start, new candidates are added to the sweep, and
            candidates that are no longer in the list stay in it.
        policy: Decides which runs continue. If `policy.runs` is None, the sweep uses the number of
            candidates.
        growth: The factor between two rungs, above 1. If turns start quickly, 1.2 costs 6% to
            9% less than 1.5.
        max_total_epochs: The budget of all runs together, at least `policy.max_epochs`. None means
            no limit. The best runs continue while the budget lasts. Enough is always reserved to
            train one run to the end.
        validation: The name of a logged validation metric, such as "val_acc". If given, the policy
            reads the metric as well as the training losses, and the metric decides which run is
            the best.
        validation_mode: "max" if higher values of `validation` are better, "min" if lower values
            are better. Required with `validation`.
        monitor_args: Further arguments of the SoTLMonitor, such as `every_n_train_batches`. The
            sweep itself sets `name`, `params`, `directory` and `record`.

    Attributes:
        rungs (list[int]): The rungs, in completed epochs (or blocks). The last is
            `policy.max_epochs`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if there is no candidate, if JSON would change a
            candidate (the message names the entry), if `max_total_epochs` is below
            `policy.max_epochs`, or if the directory holds a sweep with another policy, growth,
            validation or `monitor_args`.
        OSError: If the directory cannot be written.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from lightning_sotl import AdaptivePolicy, Sweep
        >>> candidates = [{"width": width} for width in (4, 16, 64, 256)]
        >>> policy = AdaptivePolicy(max_epochs=30, finalists=3)
        >>> sweep = Sweep("sweep", candidates, policy=policy)  # doctest: +SKIP
        >>> def train(turn):
        ...     trainer = pl.Trainer(
        ...         max_epochs=30, callbacks=turn.callbacks, enable_checkpointing=False
        ...     )
        ...     turn.fit(trainer, Net(**turn.params), loader)
        >>> sweep.run(train).params  # doctest: +SKIP
        {'width': 256}

        With `lightning.pytorch`, import the sweep from `lightning_sotl.lightning`.
    """

    # The classes for `lightning` and `pytorch_lightning` set their own callbacks.
    _monitor_class: type[Any] = SoTLMonitor
    _stopper_class: type[Any] = EarlyRankingStopper

    def __init__(
        self,
        directory: str | Path,
        candidates: Sequence[Mapping[str, Any]] = (),
        *,
        policy: AdaptivePolicy,
        growth: float = 1.5,
        max_total_epochs: int | None = None,
        validation: str | None = None,
        validation_mode: Mode | None = None,
        monitor_args: Mapping[str, Any] | None = None,
    ) -> None:
        checks.local_directory("directory", directory)
        if not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        self.rungs = rungs(policy.first, policy.max_epochs, growth=growth)
        if max_total_epochs is not None:
            checks.positive_int("max_total_epochs", max_total_epochs)
            if max_total_epochs < policy.max_epochs:
                raise ValueError(
                    "Expected `max_total_epochs` to be at least the policy's `max_epochs`, "
                    f"{policy.max_epochs}, but got {max_total_epochs}."
                )
        checks.validation_pair(validation, validation_mode)
        self.directory = Path(directory)
        self.policy = policy
        self.growth = float(growth)
        self.max_total_epochs = max_total_epochs
        self.validation = validation
        self.validation_mode = validation_mode
        if not isinstance(monitor_args, Mapping | None):
            raise TypeError(f"Expected `monitor_args` to be a mapping but got {monitor_args!r}.")
        self.monitor_args = dict(monitor_args or {})
        self._check_monitor_args()
        self._monitor_name = next(
            name for name in self._new_monitor().metric_names if name.endswith("_e1")
        )
        self._unit = unit_of(self._monitor_name)
        self._folder = SweepFolder(
            self.directory.absolute(),  # `train` may change the working directory
            {
                "policy": asdict(policy),
                "growth": self.growth,
                "validation": validation,
                "validation_mode": validation_mode,
                "monitor_args": json.loads(json.dumps(self.monitor_args)),
            },
            prefix=str(self.monitor_args.get("prefix", "sotl")),
            validation=validation,
        )
        listed = list(candidates)
        for number, candidate in enumerate(listed):
            check_params(f"candidates[{number}]", candidate)
        self._folder.start([dict(candidate) for candidate in listed])
        if not self._folder.runs():
            raise ValueError(
                f"Expected `candidates` to have at least one entry but got {candidates!r}, and "
                f"'{self.directory}' holds none."
            )

    # --- results

    @property
    def best(self) -> Winner | None:
        """The best run that was trained to the end, or None before the sweep is complete.

        With `validation`, this is the run with the best mean of the last three validation values.
        Without it, this is the run with the lowest `sotl_e1`. Diverged runs do not count, so `best`
        is also None if no run was trained to the end without diverging.
        """
        _, _, found = self._state()
        if found[-1].pending:
            return None
        finished = self._finished()
        return finished[0] if finished else None

    def ranking(self) -> list[RankedRun]:
        """Return all runs: those that trained longest first, then by estimate.

        Lower estimates are better. Diverged runs come last. The list is empty before the first
        epoch. `lightning-sotl rank` on the directory prints the same order. If `monitor_args` sets
        a prefix or blocks, `rank` needs the estimate's name, for example `--monitor my_e1`.

        Raises:
            ValueError: If no run has a finite estimate.
        """
        estimate = parse_monitor(self._monitor_name)
        if estimate is None or not any(self._folder.recorded(run) for run in self._folder.runs()):
            return []
        found = read_logs(
            self._folder.directory, LogKeys(prefix=estimate.prefix, block=estimate.block)
        )
        return list(rank_runs(found, self._monitor_name, estimate=estimate).runs)

    # --- training

    def __iter__(self) -> Iterator[Turn]:
        """Yield one turn at a time. Train it before you take the next."""
        for turn, _, _ in self._turns():
            yield turn

    def run(self, train: Callable[[Turn], Any]) -> Winner:
        """Train the sweep to its end, and return its best run.

        If `train` raises for a candidate, the sweep stores the traceback and sets the candidate
        aside. It tries the candidate again when the script is next started.

        Args:
            train: Called with each turn. It makes a Trainer and a model, and calls `turn.fit`. Its
                return value is ignored.

        Returns:
            The best run, the same as `best`. Its `checkpoint_path` is the checkpoint at the end of
            its training.

        Raises:
            RuntimeError: If no candidate was trained to the end without diverging, if `train` did
                not train its turn, or if `validation` is not logged.
            OSError: If the disk is full or read-only. Free disk space and run the script again.
        """
        cause: Exception | None = None
        for turn, run in self._with_progress_bar(self._turns()):
            try:
                train(turn)
            except Exception as error:
                if _is_disk_error(error):
                    raise
                cause, turn.set_aside = error, True
                run.set_aside(traceback.format_exc())
                log.exception("Set aside candidate %s: %s", run.run_id, turn.params)
            except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
                inform_user("The sweep is interrupted. To continue it, start the script again.")
                raise
        best = self.best
        if best is None:
            raise RuntimeError(
                f"No candidate of '{self.directory}' was trained to the end: "
                f"{self._why_none_is_left()}."
            ) from cause
        self._report_end(best)
        return best

    def _with_progress_bar(
        self, turns: Iterator[tuple[Turn, RunFolder, Step]]
    ) -> Iterator[tuple[Turn, RunFolder]]:
        """Return the turns, and show on a bar how many runs have reached the rung."""
        with tqdm(leave=False, unit="run", disable=None) as bar:
            for turn, run, step in turns:
                bar.set_description(f"to {self._unit} {step.stop_epoch}", refresh=False)
                bar.total = len(step.admitted)
                bar.n = len(step.admitted) - len(step.pending)
                bar.refresh()
                yield turn, run

    def _turns(self) -> Iterator[tuple[Turn, RunFolder, Step]]:
        reported, waits = 0, False
        while True:
            runs, progress, found = self._state()
            for number in range(reported, len(found)):
                self._report_rung(found, number)
            reported = len(found)
            self._free_disk(runs, progress, found)
            step = found[-1]
            if not step.pending:
                return
            taken = False
            for row in step.pending:
                run = runs[row]
                lock = run.lock()
                if not try_lock(lock):
                    continue
                try:
                    now = self._folder.progress(run)
                    if now.epochs >= step.stop_epoch or now.ended or now.set_aside:
                        taken = True  # another process has trained it meanwhile
                        break
                    turn = self._turn(run, step.stop_epoch)
                    yield turn, run, step
                    if not turn.set_aside:
                        self._check_trained(turn, run)
                finally:
                    lock.release()
                taken, waits = True, False
                break
            if not taken:
                if not waits:
                    waiting = quote_few([runs[row].run_id for row in step.pending])
                    inform_user(f"Waiting for another process, which is training {waiting}.")
                waits = True
                time.sleep(_POLL)

    def _state(self) -> tuple[list[RunFolder], list[Progress], list[Step]]:
        runs = self._folder.runs()
        progress = [self._folder.progress(run) for run in runs]
        policy = self.policy if self.policy.runs else replace(self.policy, runs=len(runs))
        lower = None if self.validation is None else self.validation_mode == "min"
        found = steps(
            progress,
            policy=policy,
            rungs=self.rungs,
            lower_is_better=lower,
            max_total_epochs=self.max_total_epochs,
        )
        return runs, progress, found

    def _turn(self, run: RunFolder, stop_epoch: int) -> Turn:
        start, checkpoint = self._folder.checkpoint(run)
        monitor = self._new_monitor(
            name=run.run_id, params=run.params, directory=run.path.absolute()
        )
        recorded = self._folder.recorded(run)
        monitor.sweep_run_id = uuid.uuid4().hex if recorded is None else recorded.run_id
        block = monitor.every_n_train_batches
        limit = (
            {"stop_epoch": stop_epoch} if block is None else {"stop_batches": stop_epoch * block}
        )
        stopper = self._stopper_class(
            **limit, monitor=self._monitor_name, checkpoint_dir=run.path.absolute()
        )
        stopper.reason_at_limit = StoppingReason.paused
        stopper.turn_checkpoint = checkpoint
        if stop_epoch == self.policy.max_epochs:
            stopper.reason_at_limit = (
                StoppingReason.stop_epoch_reached
                if block is None
                else StoppingReason.stop_batches_reached
            )
        return Turn(
            run.params,
            run.run_id,
            run.path,
            start,
            stop_epoch,
            checkpoint,
            monitor,
            stopper,
            self.policy.max_epochs if block is None else None,
        )

    def _new_monitor(self, **own: Any) -> Any:
        recorded = list(self._monitor_class(**self.monitor_args).record_metrics)
        if self.validation is not None and self.validation not in recorded:
            recorded.append(self.validation)
        return self._monitor_class(**{**self.monitor_args, "record_metrics": recorded, **own})

    def _check_monitor_args(self) -> None:
        managed = [name for name in _MANAGED if name in self.monitor_args]
        if managed:
            raise ValueError(
                f"Expected `monitor_args` to leave {quote_few(_MANAGED)} to the sweep but got "
                f"{quote_few(managed)}."
            )
        check_params("monitor_args", {key: _plain(v) for key, v in self.monitor_args.items()})
        windows = checks.windows("window", self.monitor_args.get("window", 1))
        if 1 not in windows:
            raise ValueError(
                "Expected `monitor_args['window']` to contain 1, because the runs are ranked by "
                f"E = 1, but got {self.monitor_args['window']!r}."
            )

    def _check_trained(self, turn: Turn, run: RunFolder) -> None:
        now = self._folder.progress(run)
        if not (now.epochs >= turn.stop_epoch or now.ended):
            if turn.monitor.units_completed >= turn.stop_epoch:
                raise OSError(
                    f"The record of {turn.run_id!r} in '{run.path}' cannot be written. "
                    f"{REPEATS_TURN}"
                )
            raise RuntimeError(
                f"The turn of {turn.run_id!r} to {self._unit} {turn.stop_epoch} was not trained: "
                f"its record has {pluralize(now.epochs, self._unit)}. Call "
                "`turn.fit(trainer, model, ...)` with a Trainer that has `turn.callbacks`."
            )
        if turn.unlogged is not None:
            raise RuntimeError(f"The sweep needs a metric that is missing: {turn.unlogged}.")

    # --- the end

    def _finished(self) -> list[Winner]:
        """Return the runs that were trained to the end and did not diverge, best first."""
        found = []
        for number, run in enumerate(self._folder.runs()):
            now = self._folder.progress(run)
            estimate = now.losses.get(now.epochs - 1, math.nan)
            if not now.ended or not math.isfinite(estimate):
                continue
            score = self._score(now, estimate)
            if not math.isfinite(score):
                continue
            winner = Winner(
                run.run_id,
                estimate,
                run.params,
                self._folder.checkpoint(run)[1] or "",
                final_epochs=now.epochs,
                final_estimate=estimate,
            )
            found.append((score, number, winner))
        return [winner for _, _, winner in sorted(found, key=lambda entry: entry[:2])]

    def _score(self, now: Progress, estimate: float) -> float:
        if self.validation is None:
            return estimate
        sign = 1.0 if self.validation_mode == "min" else -1.0
        return final_score([sign * now.validations[epoch] for epoch in sorted(now.validations)])

    def _why_none_is_left(self) -> str:
        runs = self._folder.runs()
        failed = [run.run_id for run in runs if run.failure.exists()]
        diverged = [
            run.run_id
            for run in runs
            if (losses := self._folder.progress(run).losses)
            and not math.isfinite(losses[max(losses)])
        ]
        others = {run.run_id for run in runs if self._folder.progress(run).ended} - {*diverged}
        reasons = [
            f"`train` raised for {quote_few(failed)}" if failed else "",
            f"{quote_few(diverged)} diverged" if diverged else "",
            f"{quote_few(sorted(others))} ended without a finite {self.validation!r}"
            if others
            else "",
        ]
        return "; ".join(filter(None, reasons)) or "no run has a checkpoint to resume from"

    # --- disk

    def _free_disk(
        self, runs: list[RunFolder], progress: list[Progress], found: list[Step]
    ) -> None:
        """Delete checkpoints that are no longer needed.

        Each run keeps its newest checkpoint. A run that the budget can no longer continue keeps
        none. This happens before each turn, not after it, because the script may be killed between
        two turns.
        """
        rest = math.inf
        if self.max_total_epochs is not None:
            rest = self.max_total_epochs - sum(now.epochs for now in progress)
        for row, (run, now) in enumerate(zip(runs, progress, strict=True)):
            if not now.can_resume:
                continue
            kept = self._folder.checkpoint(run)[1]
            if not now.ended and row not in found[-1].admitted:
                further = next(rung for rung in self.rungs if rung > now.epochs)
                kept = kept if further - now.epochs <= rest else None
            if not run.checkpoints_except(kept) or not try_lock(lock := run.lock()):
                continue
            try:
                if self._folder.progress(run).epochs == now.epochs:
                    for path in run.checkpoints_except(kept):
                        path.unlink(missing_ok=True)
            finally:
                lock.release()

    # --- messages

    def _report_rung(self, found: list[Step], number: int) -> None:
        step = found[number]
        if number == 0:
            if step.not_affordable:
                warn_user(
                    f"A budget of {self.max_total_epochs} {self._unit}s is too small to start the "
                    f"last {pluralize(step.not_affordable, 'candidate')} in the list."
                )
            return
        before = found[number - 1].stop_epoch
        line = (
            f"After {pluralize(before, self._unit)}: {len(step.admitted)} of "
            f"{pluralize(step.compared, 'run')} continue to {self._unit} {step.stop_epoch}"
        )
        if step.not_affordable:
            line += f"; {step.not_affordable} more would continue with a larger budget"
        inform_user(f"{line}.")
        if step.lost:
            warn_user(
                f"{pluralize(step.lost, 'run')} would also continue to {self._unit} "
                f"{step.stop_epoch}, but an earlier start with a smaller budget deleted their "
                "checkpoints."
            )

    def _report_end(self, best: Winner) -> None:
        finished = self._finished()
        inform_user(
            f"The sweep is complete: {pluralize(len(finished), 'run')} trained to the end. The "
            f"best is {best.run_id} ({best.params})."
        )
        if self.validation is None and len(finished) > 1:
            listed = ", ".join(f"{run.run_id}: {run.estimate:.6g}" for run in finished)
            inform_user(
                f"Runs trained to the end, by final training loss: {listed}. A training loss does "
                "not show which of them generalizes best. Validate them, or pass `validation` to "
                "the sweep."
            )


def try_lock(lock: Any) -> bool:
    """Acquire a lock if it is free, and return whether it was free."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _is_disk_error(error: BaseException | None) -> bool:
    """Return whether a full or read-only disk caused the exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return True
        error = error.__cause__
    return False


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
