"""Which record and which logs belong to which run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lightning_sotl._wording import counted, some
from lightning_sotl.curves.csv_logs import read_csv_log
from lightning_sotl.curves.folders import RunFolder, natural_order
from lightning_sotl.curves.logged import Logged
from lightning_sotl.curves.recorded_runs import RecordedRun, Session, merge_sessions, read_record
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.run_source import RunSource
from lightning_sotl.curves.tensorboard_logs import read_event_files
from lightning_sotl.record import header_time


@dataclass(frozen=True)
class Wanted:
    """What to look for: logged keys, the monitor's prefix, and the unit of its records."""

    keys: frozenset[str]
    prefix: str
    unit: str | int


def read_sources(
    root: Path,
    folders: list[RunFolder],
    wanted: Wanted,
    notes: RunNotes,
    progress: Callable[[int, int], None] | None,
) -> list[RunSource]:
    """Return the runs that `folders` hold; `notes` takes what could not be read or was joined.

    Raises:
        ValueError: If no folder can be read.
    """
    sessions, logs = _read_folders(root, folders, wanted, notes, progress)
    runs = _without_false_starts(merge_sessions(sessions))
    _note_copies(runs, sessions, root, notes)
    sources = _recorded(root, runs, logs, wanted, notes)
    claimed = {folder for run in runs for folder in run.folders}
    rest = [folder.path for folder in folders if folder.path not in claimed]
    sources += _logged_only(root, rest, logs, sources, wanted, notes)
    if replaced := sum(source.logged.replaced for source in sources):
        notes.cautions.append(
            f"{counted(replaced, 'value')} that the logs hold twice, as of steps that were trained "
            "again after a resume, counted once: the newer."
        )
    return sorted(sources, key=lambda source: natural_order(PurePosixPath(source.name)))


def _read_folders(
    root: Path,
    folders: list[RunFolder],
    wanted: Wanted,
    notes: RunNotes,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Session], dict[Path, Logged]]:
    """Return the sessions of all records, and the logs of each folder."""
    sessions: list[Session] = []
    logs: dict[Path, Logged] = {}
    unreadable: Counter[str] = Counter()
    refused: list[str] = []
    for done, folder in enumerate(folders):
        logs[folder.path] = Logged(wanted.keys)
        try:
            if folder.record is not None:
                found, bad = read_record(folder.record)
                sessions += found
                unreadable[_relative(folder.record, root)] += bad
            logs[folder.path] = _read_logs(folder, wanted, unreadable, root, notes)
        except (OSError, ValueError) as error:
            # A link that leads nowhere, a file that is not ours to read, a pipe, a newer record,
            # a table with a column twice.
            refused.append(f"'{_relative(folder.path, root)}': {str(error).removesuffix('.')}.")
        if progress is not None:
            progress(done + 1, len(folders))
    if len(refused) == len(folders) and not sessions:
        raise ValueError(f"No folder of '{root}' with a run can be read; the first is {refused[0]}")
    notes.left_out.extend(f"Left out what cannot be read of {one}" for one in refused)
    notes.left_out.extend(
        f"Left out {counted(bad, 'line or event')} of '{name}' that could not be read."
        for name, bad in unreadable.items()
        if bad
    )
    return sessions, logs


def _note_copies(
    runs: list[RecordedRun], sessions: list[Session], root: Path, notes: RunNotes
) -> None:
    """Say which runs lie there twice.

    One that goes on in another folder, as after a resume, has a header with its own time there.
    """
    homes: dict[tuple[str, float], set[Path]] = {}
    for session in sessions:
        homes.setdefault((session.run_id, header_time(session.facts)), set()).add(session.folder)
    copied = {run_id for (run_id, _), folders in homes.items() if len(folders) > 1}
    names = [_relative(run.folders[0], root) for run in runs if run.run_id in copied]
    if names:
        notes.cautions.append(
            f"{counted(len(names), 'run')} with records in several folders that are copies of each "
            f"other, counted once: {some(names)}."
        )


def _read_logs(
    folder: RunFolder,
    wanted: Wanted,
    unreadable: Counter[str],
    root: Path,
    notes: RunNotes,
) -> Logged:
    logged = Logged(wanted.keys)
    if folder.events:
        try:
            logged.join(read_event_files(folder.events, wanted.keys))
        except ModuleNotFoundError as error:
            if folder.record is None and folder.csv is None:
                raise
            notes.cautions.append(f"Did not read event files beside other files. {error}")
    if folder.csv is not None:
        # After the events, since it keeps more digits of the same values.
        logged.join(read_csv_log(folder.csv, wanted.keys))
    unreadable[_relative(folder.path, root)] += logged.unreadable
    return logged


def _without_false_starts(runs: list[RecordedRun]) -> list[RecordedRun]:
    """Leave out what a kill before the first unit has left where another run was trained then.

    With it the folder would hold two runs, whose logs cannot be told apart.
    """
    trained = {folder for run in runs if run.losses for folder in run.folders}
    return [run for run in runs if run.losses or not trained.issuperset(run.folders)]


def _recorded(
    root: Path,
    runs: list[RecordedRun],
    logs: dict[Path, Logged],
    wanted: Wanted,
    notes: RunNotes,
) -> list[RunSource]:
    tenants = Counter(folder for run in runs for folder in run.folders)
    firsts = Counter(run.folders[0] for run in runs)
    short_ids = Counter((run.folders[0], run.run_id[:8]) for run in runs)
    sources = []
    for run in runs:
        logged = Logged(())
        for folder in run.folders:
            if tenants[folder] == 1:
                logged.go_on(logs[folder])
            else:
                notes.cautions.append(
                    f"'{_relative(folder, root)}' holds {tenants[folder]} runs; its logs cannot be "
                    "told apart and only the records count."
                )
        name = _relative(run.folders[0], root)
        if firsts[run.folders[0]] > 1:
            is_alone = short_ids[run.folders[0], run.run_id[:8]] == 1
            name = f"{name}@{run.run_id[:8] if is_alone else run.run_id}"
        for folder in run.contradicted:
            notes.cautions.append(
                f"Run '{name}' has other losses in '{_relative(folder, root)}' than in "
                f"'{_relative(run.folders[-1], root)}', which is newer and counts."
            )
        sources.append(RunSource(name, run, logged, wanted.unit))
    return sources


def _logged_only(
    root: Path,
    folders: list[Path],
    logs: dict[Path, Logged],
    recorded: list[RunSource],
    wanted: Wanted,
    notes: RunNotes,
) -> list[RunSource]:
    """Return the runs without a record; the other loggers of a recorded run join that one."""
    key = f"{wanted.prefix}_e1"
    sources, joined, ambiguous = [], 0, []
    records = [(source, _in_float32(source.losses(()))) for source in recorded]
    for folder in folders:
        curve = _in_float32(logs[folder].by_epoch.get(key, {}))
        twins = [source for source, losses in records if curve and curve.items() <= losses.items()]
        if len(twins) == 1:
            # What stands beside the record wins: it may hold more digits.
            logs[folder].join(twins[0].logged)
            twins[0].logged = logs[folder]
            joined += 1
        elif twins:
            ambiguous.append(_relative(folder, root))
        else:
            sources.append(RunSource(_relative(folder, root), None, logs[folder], wanted.unit))
    if joined:
        notes.remarks.append(
            f"{counted(joined, 'folder')} with the same losses as a record elsewhere, as of a "
            "second logger, joined with that run."
        )
    if ambiguous:
        notes.left_out.append(
            f"Left out {counted(len(ambiguous), 'folder')} with the same losses as several records "
            f"elsewhere: {some(ambiguous)}."
        )
    return sources


def _in_float32(losses: dict[int, float]) -> dict[int, float]:
    """Return a curve in the precision of TensorBoard, a loss that is no number as `+inf`."""
    return {
        epoch: float(np.float32(loss)) if np.isfinite(loss) else np.inf
        for epoch, loss in losses.items()
    }


def _relative(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    return relative.as_posix() if relative.parts else root.resolve().name
