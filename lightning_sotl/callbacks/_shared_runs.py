"""The adaptive rule for plain processes: each reads the others' records below one directory.

There is no server and no lock. Each run writes only its own record. If a reader finds a
line half-written, it reads the whole line next time.
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
from lightning_sotl.policies.adaptive import AdaptivePolicy, Decision
from lightning_sotl.policies.growing_curves import GrowingCurves
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.configurations import configuration
from lightning_sotl.record.format import file_name, header_time
from lightning_sotl.record.lineage import RecordedRun, merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.session import Session
from lightning_sotl.stats.ranks import Mode

_OWN = "own"  # the row of the run that asks


@dataclass(frozen=True)
class _Entry:
    """A run that can be compared, and what it shares with others of its configuration."""

    run: RecordedRun
    configuration: str | None


class SharedRuns:
    """Decides from the records below a directory, and rereads those that have changed.

    A run is compared with its forks, but not with older records of its own configuration: these
    come from a script that was started again. Of another configuration only the newest run counts.

    Runs with another unit (epochs or blocks) are left out. So are runs with another `max_epochs`,
    with a warning, since their schedules differ. Other settings that change what a training loss
    means, such as batch size or dropout, cause one warning.

    Args:
        directory: Where the runs of one sweep write, at any depth.
        estimate: What runs are compared by.
        policy: The rule.
        validation: A recorded metric that the rule reads beside the losses; None to decide by
            training losses alone.
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
        self._entries: dict[tuple[str, float], _Entry] = {}  # run id, when it began or branched off
        self._warned_about: set[str] = set()

    def decide(
        self,
        run_id: str,
        losses: Mapping[int, float],
        completed: int,
        *,
        session: float = -math.inf,
    ) -> Decision:
        """Decide for the run that asks, from its own losses and the others' records.

        Args:
            run_id: The id of the run that asks; its losses on disk are ignored.
            losses: Its L(e), e -> loss.
            completed: Its number of completed units. If the newest has no loss, the run continues.
            session: The time in the header of this process, which tells the run from its forks. If
                no record has it, the forks do not count.
        """
        changed: set[str] = set()
        for path in self._changed_records():
            old, new = self._sessions.get(path, []), _sessions_of(path)
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
                f"Below '{self.directory}' are {len(rivals) + bool(own)} runs, where the policy "
                f"has runs={planned}: give each sweep a directory of its own.",
            )
        self._set_curve(_OWN, losses)
        own_row = self._curves.row(_OWN)
        if own_row is None or completed - 1 not in losses:
            return Decision(True, completed, None, 0, 0, None)
        rows = {row: key for key in rivals if (row := self._curves.row(key)) is not None}
        if self._validation is None:
            return self._policy.decide(len(rows), self._curves.values[[*sorted(rows), own_row]])
        self._set_validations(_OWN, *(entry.run for entry in own.values()))
        keys = [rows[row] for row in sorted(rows)]
        return self._policy.decide(len(keys), *self._both_curves([*keys, _OWN]))

    def _both_curves(self, keys: Sequence[Hashable]) -> tuple[NDArray[np.float64], ...]:
        """Return losses and validations of some runs, in two arrays of one shape."""
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
        """Put the recorded metric of a run into its table, lower is better."""
        if self._validation is None:
            return
        self._validations.drop_after(key, -1)
        for run in runs:
            for epoch, metrics in run.metrics.items():
                if self._validation in metrics:
                    self._validations.put(key, epoch, self._sign * metrics[self._validation])

    def _own(self, run_id: str, session: float) -> dict[tuple[str, float], _Entry]:
        """Return the run that asks, as its record has it; if that cannot be told, all its forks."""
        forks = {key: entry for key, entry in self._entries.items() if key[0] == run_id}
        return {
            key: entry for key, entry in forks.items() if session in entry.run.sessions
        } or forks

    def _rivals(self, own: Mapping[tuple[str, float], _Entry]) -> dict[tuple[str, float], _Entry]:
        """Return the runs that the one that asks is compared with: one of each configuration."""
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
        # A run that broke off was started again; one that ended might be a repeat.
        ended = [run.folders[0] for run in repeated if run.has_ended]
        if ended:
            names = [folder.relative_to(self.directory).as_posix() for folder in ended]
            self._warn_once(
                "repeats",
                f"Of runs with the same parameters below '{self.directory}' the policy counts only "
                f"the newest. Not counted: {quote_few(names)}. To keep repeats apart, put the seed "
                "into `params`.",
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
                except OSError:  # it was deleted since
                    continue
                stamp = (stat.st_size, stat.st_mtime_ns)
                if self._stamps.get(path) != stamp:
                    self._stamps[path] = stamp
                    grown.append(path)
        return grown

    def _update(self, run_ids: set[str]) -> None:
        """Put the newest state of runs into the table; a run may be in several records."""
        if not run_ids:
            return
        for key in [key for key in self._entries if key[0] in run_ids]:
            del self._entries[key]
            self._curves.drop_after(key, -1)
            self._validations.drop_after(key, -1)
        sessions = chain.from_iterable(self._sessions.values())
        for run in merge_sessions([each for each in sessions if each.run_id in run_ids]):
            if (
                run.losses  # one that was refused has a header and nothing else
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
            f"Below '{self.directory}' is a run with max_epochs={budget!r}, with which the policy "
            f"does not compare, as its own is {self._policy.max_epochs}: give each sweep a "
            "directory of its own.",
        )
        return False

    def _warn_once(self, about: str, note: str) -> None:
        if note and about not in self._warned_about:
            self._warned_about.add(about)
            warn_user(note)

    def _set_curve(self, run: str | tuple[str, float], losses: Mapping[int, float]) -> None:
        if not losses:
            return
        self._curves.drop_after(run, -1)
        # A damaged line may tell of epoch 9,999,999.
        kept = {unit: loss for unit, loss in losses.items() if unit < self._policy.max_epochs}
        table = np.full((1, max(kept, default=0) + 1), np.nan)
        table[0, list(kept)] = list(kept.values())
        scores = self._estimate.scores(table)[0]
        for unit in np.flatnonzero(~np.isnan(scores)).tolist():
            self._curves.put(run, unit, scores[unit])


def _sessions_of(path: Path) -> list[Session]:
    """Return a record's sessions; one that cannot be read does not end somebody else's run."""
    try:
        return read_record(path)[0]
    except (OSError, ValueError) as error:
        warn_user(f"The policy continues without the record '{path}': {error}")
        return []


def share_runs(
    trainer: Trainer,
    metric: MonitoredMetric,
    policy: AdaptivePolicy,
    directory: str | Path,
    validation: str | None,
    validation_mode: Mode | None,
) -> SharedRuns | None:
    """Return on rank 0 what a policy reads, before the first batch; on the others None.

    Raises:
        ValueError: On all ranks, if the run cannot be compared with others.
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
            "Expected `monitor` to be an estimate of a SoTLMonitor of this Trainer, by which a "
            f"policy compares runs, but got {metric.name!r}; available: {quote_all(names)}."
        )
    if estimate.block is None and trainer.max_epochs not in (None, -1, policy.max_epochs):
        return (
            f"Expected `policy.max_epochs` to be the Trainer's `max_epochs`, {trainer.max_epochs}, "
            f"but got {policy.max_epochs}."
        )
    recorded = metric.monitor.record_metrics
    if validation is not None and validation not in recorded:
        return (
            "Expected `validation` to be one of the SoTLMonitor's `record_metrics`, which other "
            f"runs read, but got {validation!r}; available: {quote_all(recorded)}."
        )
    path, directory = metric.monitor.record_path, Path(directory)
    if path is None or not path.resolve().is_relative_to(directory.resolve()):
        return (
            f"Expected the run's record to lie below `directory`, '{directory}', where the others "
            f"look for it, but it lies in {'no file' if path is None else repr(str(path))}."
        )
    return None
