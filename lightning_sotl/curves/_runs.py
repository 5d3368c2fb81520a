"""`RunReader`: reads records and logs, and finds out which belong to the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.curves._folders import RunFolder, natural_order
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._metrics_csv import read_csv_log
from lightning_sotl.curves._run_source import RunSource
from lightning_sotl.curves._same_logs import in_float32, join_loggers, without_copies
from lightning_sotl.curves._tensorboard import event_module, read_event_files
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.record.format import header_time
from lightning_sotl.record.lineage import RecordedRun, merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.session import Session

Progress = Callable[[int, int], None]


class RunReader:
    """Reads records and logs, and finds out which belong to the same run.

    Args:
        root: The directory of runs.
        keys: What to read.
        notes: Receives what was left out or joined.
    """

    def __init__(self, root: Path, keys: LogKeys, notes: RunNotes) -> None:
        self._root, self._keys, self._notes = root, keys, notes
        # Logs that are not in the folder of their record are matched by the monitor's values.
        self._wanted = frozenset([*keys.curves, *keys.finals, *keys.losses, keys.monitor])
        self._sessions: list[Session] = []
        self._logs: dict[Path, Logged] = {}
        self._refused: dict[Path, str] = {}  # folder -> why it cannot be read

    def read(self, folders: Sequence[RunFolder], progress: Progress | None) -> list[RunSource]:
        """Return the runs of some folders, in the natural order of their names.

        Raises:
            ModuleNotFoundError: If all folders have only event files and `tensorboard` is not
                installed.
            ValueError: If no folder can be read.
        """
        if any(folder.events for folder in folders):
            try:
                event_module()
            except ModuleNotFoundError as error:
                folders = self._without_events(folders, error)
        self._read_folders(folders, progress)
        runs = _without_false_starts(merge_sessions(self._sessions))
        self._note_copies(runs)
        sources = self._match_records(runs)
        done = self._refused.keys() | {folder for run in runs for folder in run.folders}
        rest = self._match_logs([folder for folder in folders if folder.path not in done], sources)
        rest = without_copies(rest, self._notes, self._name)
        by_name = {self._name(folder.path): folder for folder in rest}
        without_record = [
            RunSource(name, None, self._logs[folder.path], self._keys)
            for name, folder in by_name.items()
        ]
        sources += join_loggers(without_record, by_name, self._notes)
        if self._keys.block is not None:
            for source in sources:
                source.logged = source.logged.without_epochs()
                if source.record is not None:
                    source.logged.update(_recorded_metrics(source.record, self._keys))
        self._notes.cautions.extend(
            f"'{source.name}' holds the logs of several trainings in a row; only the last one "
            "counts."
            for source in sources
            if source.logged.restarts
        )
        # A record shows which process resumed the run, so its values need no note.
        if replaced := sum(source.logged.replaced for source in sources if source.record is None):
            self._notes.remarks.append(
                f"Left out {pluralize(replaced, 'value')} of steps that were trained again after "
                "a resume; the newer values count."
            )
        return sorted(sources, key=lambda source: natural_order(PurePosixPath(source.name)))

    def _without_events(
        self, folders: Sequence[RunFolder], missing: ModuleNotFoundError
    ) -> list[RunFolder]:
        """Return the folders without their event files, which need a package that is missing."""
        readable = [replace(folder, events=[]) for folder in folders if folder.record or folder.csv]
        if not readable:
            raise missing
        only_events = [
            self._name(folder.path) for folder in folders if not (folder.record or folder.csv)
        ]
        if only_events:
            self._notes.left_out.append(
                f"Left out {pluralize(len(only_events), 'folder')} with event files only: "
                f"{quote_few(only_events)}. {missing}"
            )
        if others := sum(bool(folder.events) for folder in folders) - len(only_events):
            self._notes.cautions.append(
                f"Did not read the event files beside a record or CSV log in "
                f"{pluralize(others, 'folder')}. {missing}"
            )
        return readable

    def _read_folders(self, folders: Sequence[RunFolder], progress: Progress | None) -> None:
        unreadable: Counter[str] = Counter()
        for number, folder in enumerate(folders, 1):
            name = self._name(folder.path)
            self._logs[folder.path] = Logged(self._wanted)
            try:
                if folder.record is not None:
                    sessions, bad_lines = read_record(folder.record)
                    self._sessions += sessions
                    unreadable[self._name(folder.record)] += bad_lines
                self._logs[folder.path] = logged = self._read_logs(folder)
                unreadable[name] += logged.unreadable
            except (OSError, ValueError) as error:
                # A broken link, a file without read permission, a pipe, a record of a newer
                # version, a table with the same column twice.
                self._refused[folder.path] = f"'{name}': {str(error).removesuffix('.')}."
            if progress is not None:
                progress(number, len(folders))
        reasons = list(self._refused.values())
        if len(reasons) == len(folders) and not self._sessions:
            raise ValueError(
                f"No folder of '{self._root}' with a run can be read; the first is {reasons[0]}"
            )
        self._notes.left_out.extend(
            f"Left out files that cannot be read in {reason}" for reason in reasons
        )
        self._notes.left_out.extend(
            f"Left out {number:,} {'line or event' if number == 1 else 'lines or events'} of "
            f"'{name}' that could not be read."
            for name, number in unreadable.items()
            if number
        )

    def _read_logs(self, folder: RunFolder) -> Logged:
        logged = Logged(self._wanted)
        if folder.events:
            logged.update(read_event_files(folder.events, self._wanted))
        if folder.csv is not None:
            # After the events, since it keeps more digits of the same values.
            logged.update(read_csv_log(folder.csv, self._wanted))
        return logged

    def _note_copies(self, runs: list[RecordedRun]) -> None:
        """Note which runs were copied: a copy has the same header, a resumed run has a new one."""
        folders: dict[tuple[str, float], set[Path]] = {}
        for session in self._sessions:
            header = (session.run_id, header_time(session.facts))
            folders.setdefault(header, set()).add(session.folder)
        copied = {header for header, copies in folders.items() if len(copies) > 1}
        names = [
            self._name(run.folders[0])
            for run in runs
            if any((run.run_id, time) in copied for time in run.sessions)
        ]
        if names:
            self._notes.cautions.append(
                f"The records of {pluralize(len(names), 'run')} have copies in other folders, "
                f"which do not count again: {quote_few(names)}."
            )

    def _match_records(self, runs: list[RecordedRun]) -> list[RunSource]:
        """Return the runs with a record, each with the logs beside it.

        The logs of a fork include the beginning of the run from which it branched off.
        """
        runs_in = Counter(folder for run in runs for folder in run.folders)
        self._notes.cautions.extend(
            f"'{self._name(folder)}' holds {number} runs; its logs cannot be distinguished, so "
            "only the records count."
            for folder, number in runs_in.items()
            if number > 1 and self._logs[folder].keys
        )
        sources = []
        for name, run in zip(self._names_of(runs), runs, strict=True):
            logged = Logged(self._wanted)
            for folder, units in run.inherited.items():
                if runs_in[folder] == 1 and run.unit == "epoch":
                    logged.update(self._logs[folder].before(units))
            for folder in run.folders:
                if runs_in[folder] == 1:
                    logged.update(self._logs[folder])
            logged.update(_recorded_metrics(run, self._keys))
            self._notes.cautions.extend(
                f"Run '{name}' has other losses in '{self._name(folder)}' than in "
                f"'{self._name(run.folders[-1])}', which is newer and counts."
                for folder in run.outdated
            )
            sources.append(RunSource(name, run, logged, self._keys))
        return sources

    def _names_of(self, runs: list[RecordedRun]) -> list[str]:
        """Return the names of runs: the folders where they began.

        Runs that began in one folder also get their `run_id`. The oldest fork of a run keeps its
        name; the others are named after the folder where they branched off. A name does not change
        when another fork is added.
        """
        begun_in = {(run.folders[0], run.run_id) for run in runs}
        runs_in = Counter(folder for folder, _ in begun_in)
        short_ids = Counter((folder, run_id[:8]) for folder, run_id in begun_in)
        names, named = [], set()
        for run in runs:
            folder, run_id = run.folders[0], run.run_id
            name = self._name(folder)
            if runs_in[folder] > 1:
                is_unique = short_ids[folder, run_id[:8]] == 1
                name = f"{name}@{run_id[:8] if is_unique else run_id}"
            if (folder, run_id) in named:
                name = f"{name}#{run.number}"
            named.add((folder, run_id))
            names.append(name)
        return names

    def _match_logs(
        self, folders: Sequence[RunFolder], recorded: Sequence[RunSource]
    ) -> list[RunFolder]:
        """Add logs with the losses of a recorded run to that run; return the other folders."""
        rest, joined, ambiguous = [], 0, []
        curves = [(run, in_float32(run.recorded_losses)) for run in recorded]
        for folder in folders:
            logged = self._logs[folder.path]
            curve = in_float32(logged.by_epoch.get(self._keys.monitor, {}))
            same = [run for run, losses in curves if curve and self._is_part(curve, losses)]
            # In a sweep, each run logs into a folder inside that of its record.
            parents = set(folder.path.parents)
            inside = [run for run in same if run.record and parents & {*run.record.folders}]
            twins = inside if len(inside) == 1 else same
            if not same:
                rest.append(folder)
            elif len(twins) == 1:
                # The logs beside the record may have more digits.
                logged.update(twins[0].logged)
                twins[0].logged = logged
                joined += not inside
            else:
                ambiguous.append(self._name(folder.path))
        if joined:
            self._notes.remarks.append(
                f"Joined {pluralize(joined, 'folder')}, probably from a second logger, to the run "
                "with the same losses in its record."
            )
        if ambiguous:
            self._notes.left_out.append(
                f"Left out {pluralize(len(ambiguous), 'folder')} with the same losses as several "
                f"records: {quote_few(ambiguous)}."
            )
        return rest

    def _is_part(self, logged: dict[int, float], losses: dict[int, float]) -> bool:
        """Return whether losses that were logged by epoch may be those of a record."""
        if self._keys.block is None:
            return logged.items() <= losses.items()
        return {*logged.values()} <= {*losses.values()}  # the last block of each epoch

    def _name(self, path: Path) -> str:
        relative = path.relative_to(self._root)
        return relative.as_posix() if relative.parts else self._root.resolve().name


def _recorded_metrics(run: RecordedRun, keys: LogKeys) -> Logged:
    """Return the metrics in a record, which replace those in the logs beside it."""
    found = Logged(())
    if run.unit == keys.unit:
        for epoch, metrics in sorted(run.metrics.items()):
            for name, value in metrics.items():
                found.by_epoch.setdefault(name, {})[epoch] = value
                found.last[name], found.last_epochs[name] = value, epoch
    found.keys |= found.by_epoch.keys()
    return found


def _without_false_starts(runs: list[RecordedRun]) -> list[RecordedRun]:
    """Return the runs, except those without a unit in folders where another run was trained.

    A kill before the first unit leaves such a run. If it counted, its folder would hold two runs
    whose logs cannot be distinguished.
    """
    trained = {folder for run in runs if run.losses for folder in run.folders}
    return [run for run in runs if run.losses or not trained.issuperset(run.folders)]
