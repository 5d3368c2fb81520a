"""The adaptive policy for separate processes, which read each other's records in a directory.

There is no server and no lock. Each run writes only its own record. A reader that finds a
half-written line reads the whole line the next time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.files import walk
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_all, quote_few
from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._trainer import Trainer
from lightning_sotl.callbacks.monitor import monitors_of
from lightning_sotl.losses.names import LoggedEstimate, parse_monitor
from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision, epochs_of
from lightning_sotl.policies.growing_curves import GrowingCurves
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.configurations import configuration
from lightning_sotl.record.format import file_name, header_time
from lightning_sotl.record.lineage import RecordedRun, merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.session import Session
from lightning_sotl.stats.ranks import Mode

_OWN = "own"  # the key of the deciding run's row
# (directory, topic) of the warnings given so far. One process may train many runs of a directory,
# each with its own SharedRuns.
_warnings_given: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class _Entry:
    """A run that can be compared, and the configuration that it may share with other runs."""

    run: RecordedRun
    configuration: str | None


class SharedRuns:
    """Applies a policy to the records below a directory, and rereads records that have changed.

    A run is compared with its forks. It is not compared with older records of its own
    configuration, because these come from a script that was started again. Of every other
    configuration, only the newest run counts.

    Runs with another unit (epochs or blocks) are left out. Runs with another `max_epochs` are left
    out with a warning, because their schedules differ. Another warning names settings that change
    the meaning of a training loss, such as batch size or dropout. Each warning is given once per
    process and directory.

    Args:
        directory: The folder below which the runs of one sweep write their records.
        estimate: The estimate by which runs are compared.
        policy: The policy.
        validation: A recorded metric that the policy reads in addition to the losses, or None.
        validation_mode: "max" if a higher `validation` is better, or "min".
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        estimate: LoggedEstimate,
        policy: AdaptivePolicy,
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._estimate = estimate
        self._policy = policy
        self._validation = validation
        self._sign = -1.0 if validation_mode == "max" else 1.0
        self._curves = GrowingCurves(policy.max_epochs)
        self._validations = GrowingCurves(policy.max_epochs)
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._sessions: dict[Path, list[Session]] = {}
        self._entries: dict[tuple[str, float], _Entry] = {}  # by run id and time of start or fork

    def decide(
        self,
        run_id: str,
        losses: Mapping[int, float],
        completed: int,
        *,
        session: float = -math.inf,
    ) -> Decision:
        """Decide whether a run continues, from its own losses and the records of the other runs.

        Args:
            run_id: The id of the deciding run. Its losses on disk are ignored.
            losses: The run's losses, e -> L(e).
            completed: The run's number of completed units. It continues if its estimate is not
                available after them, because a unit has no loss.
            session: The time in the header of this process, which distinguishes the run from its
                forks. If no record contains this time, forks are left out.
        """
        changed: set[str] = set()
        for path in self._changed_records():
            old, new = self._sessions.get(path, []), self._sessions_in(path)
            self._sessions[path] = new
            changed |= {session.run_id for session in [*old, *new]}
        number = len(self._entries)
        self._update(changed)
        own = self._own(run_id, session)
        rivals = self._rivals(own)
        runs = [entry.run for entry in [*own.values(), *rivals.values()]]
        if len(self._entries) > number:
            self._warn_once("unlike", " ".join(comparability_notes([run.facts for run in runs])))
        planned = self._policy.runs
        if planned is not None and len(rivals) + bool(own) > planned:
            self._warn_once(
                "runs",
                f"There are {len(rivals) + bool(own)} runs below '{self.directory}', but the "
                f"policy expects runs={planned}. Use a separate directory for each sweep.",
            )
        self._set_curve(_OWN, losses)
        own_row = self._curves.row(_OWN)
        if own_row is None or epochs_of(self._curves.values[own_row]) != completed:
            return Decision(True, completed, None, 0, 0, None)
        rows = {row: key for key in rivals if (row := self._curves.row(key)) is not None}
        if self._validation is None:
            return self._policy.decide(len(rows), self._curves.values[[*sorted(rows), own_row]])
        self._set_validations(_OWN, *(entry.run for entry in own.values()))
        keys = [rows[row] for row in sorted(rows)]
        return self._policy.decide(len(keys), *self._both_curves([*keys, _OWN]))

    def _both_curves(self, keys: Sequence[Hashable]) -> tuple[NDArray[np.float64], ...]:
        """Return the losses and validations of some runs, as two arrays of the same shape."""
        tables = self._curves, self._validations
        epochs = max(table.values.shape[1] for table in tables)
        both = np.full((2, len(keys), epochs), np.nan)
        for filled, table in zip(both, tables, strict=True):
            for values, key in zip(filled, keys, strict=True):
                row = table.row(key)
                if row is not None:
                    values[: table.values.shape[1]] = table.values[row]
        return both[0], both[1]

    def _set_validations(self, key: Hashable, *runs: RecordedRun) -> None:
        """Put the recorded validation metric of a run into its table, so that lower is better."""
        if self._validation is None:
            return
        self._validations.drop_after(key, -1)
        for run in runs:
            for epoch, metrics in run.metrics.items():
                if self._validation in metrics:
                    self._validations.put(key, epoch, self._sign * metrics[self._validation])

    def _own(self, run_id: str, session: float) -> dict[tuple[str, float], _Entry]:
        """Return the recorded entry of the deciding run, or if it is unknown, all its forks."""
        forks = {key: entry for key, entry in self._entries.items() if key[0] == run_id}
        return {
            key: entry for key, entry in forks.items() if session in entry.run.sessions
        } or forks

    def _rivals(self, own: Mapping[tuple[str, float], _Entry]) -> dict[tuple[str, float], _Entry]:
        """Return the runs to compare with the deciding run: one of each configuration."""
        mine = {entry.configuration for entry in own.values()} - {None}
        newest: dict[object, tuple[str, float]] = {}
        repeated: list[RecordedRun] = []
        for key, entry in self._entries.items():
            if key in own:
                continue
            if entry.configuration in mine:
                repeated.append(entry.run)
                continue
            group = key if entry.configuration is None else entry.configuration
            before = newest.setdefault(group, key)
            if before != key:
                older, newer = sorted((before, key), key=self._age)
                newest[group] = newer
                repeated.append(self._entries[older].run)
        # An interrupted run was started again. A run that ended may be an intended repeat.
        ended = [run.folders[0] for run in repeated if run.has_ended]
        if ended:
            names = [folder.relative_to(self.directory).as_posix() for folder in ended]
            self._warn_once(
                "repeats",
                f"Several runs below '{self.directory}' have the same parameters, and the policy "
                f"compares only the newest of them. Left out: {quote_few(names)}. To compare "
                "repeats too, put the seed into `params`.",
            )
        return {key: self._entries[key] for key in newest.values()}

    def _age(self, key: tuple[str, float]) -> float:
        return header_time(self._entries[key].run.facts)

    def _changed_records(self) -> list[Path]:
        name, grown = file_name(self._estimate.prefix), []
        for folder, files in walk(self.directory, []):
            if name in files:
                path = folder / name
                try:
                    stat = path.stat()
                except OSError:  # deleted in the meantime
                    continue
                stamp = (stat.st_size, stat.st_mtime_ns)
                if self._stamps.get(path) != stamp:
                    self._stamps[path] = stamp
                    grown.append(path)
        return grown

    def _sessions_in(self, path: Path) -> list[Session]:
        """Return the sessions of a record, or with a warning none if it cannot be read."""
        try:
            return read_record(path)[0]
        except (OSError, ValueError) as error:
            self._warn_once(str(path), f"The policy continues without the record '{path}': {error}")
            return []

    def _update(self, run_ids: set[str]) -> None:
        """Put the newest state of the runs into the table; a run may have several records."""
        if not run_ids:
            return
        for key in [key for key in self._entries if key[0] in run_ids]:
            del self._entries[key]
            self._curves.drop_after(key, -1)
            self._validations.drop_after(key, -1)
        sessions = chain.from_iterable(self._sessions.values())
        for run in merge_sessions([each for each in sessions if each.run_id in run_ids]):
            if (
                run.losses  # a run that was refused has only a header
                and run.facts.get("unit") == self._estimate.unit
                and self._has_same_budget(run.facts)
            ):
                key = run.run_id, run.begun
                self._entries[key] = _Entry(run, configuration(run.facts))
                self._set_curve(key, run.losses)
                self._set_validations(key, run)

    def _has_same_budget(self, facts: Mapping[str, object]) -> bool:
        budget = facts.get("max_epochs")
        if self._estimate.block is not None or budget in (None, -1, self._policy.max_epochs):
            return True
        self._warn_once(
            "budget",
            f"A run below '{self.directory}' has max_epochs={budget!r}, but the policy has "
            f"max_epochs={self._policy.max_epochs}, so the run is left out. Use a separate "
            "directory for each sweep.",
        )
        return False

    def _warn_once(self, topic: str, message: str) -> None:
        key = self.directory.absolute(), topic
        if message and key not in _warnings_given:
            _warnings_given.add(key)
            warn_user(message)

    def _set_curve(self, run: str | tuple[str, float], losses: Mapping[int, float]) -> None:
        if not losses:
            return
        self._curves.drop_after(run, -1)
        # A damaged line may contain epoch 9,999,999.
        kept = {unit: loss for unit, loss in losses.items() if unit < self._policy.max_epochs}
        table = np.full((1, max(kept, default=0) + 1), np.nan)
        table[0, list(kept)] = list(kept.values())
        scores = self._estimate.scores(table)[0]
        # A unit without a loss makes every estimate that contains it unavailable. `gaps` counts
        # these units in the window of each estimate.
        gaps = np.cumsum(np.isnan(table[0]))
        window = self._estimate.window or len(gaps)
        gaps[window:] -= gaps[:-window].copy()
        for unit in np.flatnonzero(~np.isnan(scores) & (gaps == 0)).tolist():
            self._curves.put(run, unit, scores[unit])


def share_runs(
    trainer: Trainer,
    metric: MonitoredMetric,
    policy: AdaptivePolicy,
    directory: str | Path,
    validation: str | None,
    validation_mode: Mode | None,
) -> SharedRuns | None:
    """Return the SharedRuns of a policy before the first batch, or None on ranks other than 0.

    Raises:
        ValueError: On all ranks, if the run cannot be compared with other runs.
    """
    # Only rank 0 knows where the record is.
    problem = None
    if trainer.is_global_zero:
        problem = _problem(trainer, metric, policy, directory, validation)
    problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        raise ValueError(problem)
    estimate = parse_monitor(metric.name)
    if not trainer.is_global_zero or estimate is None:
        return None
    return SharedRuns(
        directory,
        estimate=estimate,
        policy=policy,
        validation=validation,
        validation_mode=validation_mode,
    )


def _problem(
    trainer: Trainer,
    metric: MonitoredMetric,
    policy: AdaptivePolicy,
    directory: str | Path,
    validation: str | None,
) -> str | None:
    estimate = parse_monitor(metric.name)
    if estimate is None or metric.monitor is None:
        names = [name for monitor in monitors_of(trainer) for name in monitor.metric_names]
        return (
            "Expected `monitor` to be an estimate of this Trainer's SoTLMonitor, because a policy "
            f"compares runs by it, but got {metric.name!r}; available: {quote_all(names)}."
        )
    if estimate.block is None and trainer.max_epochs not in (None, -1, policy.max_epochs):
        return (
            "Expected `policy.max_epochs` to equal the Trainer's `max_epochs` "
            f"{trainer.max_epochs} but got {policy.max_epochs}."
        )
    recorded = metric.monitor.record_metrics
    if validation is not None and validation not in recorded:
        return (
            "Expected `validation` to be one of the SoTLMonitor's `record_metrics`, because other "
            f"runs read it from the record, but got {validation!r}; available: "
            f"{quote_all(recorded)}."
        )
    path, directory = metric.monitor.record_path, Path(directory)
    if path is None or not path.resolve().is_relative_to(directory.resolve()):
        found = "the run has no record" if path is None else f"got {str(path)!r}"
        return (
            f"Expected the run's record to be below `directory` '{directory}', where the other "
            f"runs look for it, but {found}."
        )
    return None
