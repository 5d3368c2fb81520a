"""Which record and which logs belong to which run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_sotl._utils.files import exists
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.curves._folders import RunFolder, natural_order
from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._metrics_csv import read_csv_log
from lightning_sotl.curves._tensorboard import read_event_files
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.record.format import header_time
from lightning_sotl.record.reader import RecordedRun, Session, merge_sessions, read_record


@dataclass
class RunSource:
    """All that is known of one run.

    Attributes:
        name: What it is called: its folder, relative to the directory of runs.
        record: What its record says, or None.
        logged: What its logs say.
        unit: Of the losses that are wanted: "epoch", or a block size.
    """

    name: str
    record: RecordedRun | None
    logged: Logged
    unit: str | int

    def losses(self, keys: Sequence[str]) -> dict[int, float]:
        """Return e -> L(e), from the record or from the first of `keys` that is logged."""
        recorded = self._recorded()
        if recorded:
            return recorded
        for key in keys:
            if key in self.logged.by_epoch:
                values = self.logged.by_epoch[key]
                # A loss that was logged and is no number is one of a diverged run.
                return {e: value if np.isfinite(value) else np.inf for e, value in values.items()}
        return {}

    def values(self, key: str, recovered: Sequence[str]) -> dict[int, float]:
        """Return e -> the value of a logged key after epoch e.

        Of a key that was logged in completed epochs only those values count: one that was logged
        later is of a validation behind the training, or inside an epoch that is not complete.

        Args:
            key: The logged key.
            recovered: As `losses` takes it.
        """
        values = self.logged.by_epoch.get(key, {})
        last = max(self.losses(recovered), default=None)
        kept = {e: value for e, value in values.items() if last is None or e <= last}
        return kept or values

    def why_not_final(self, key: str) -> str | None:
        """Return why the last value of a key is not what the run came to, or None if it is."""
        if key not in self.logged.last:
            return None
        if self.is_unfinished:
            return "the training was stopped early or is not finished"
        epoch = self.logged.last_epochs[key]
        if (
            self.record is None
            or epoch is None
            or self.record.facts.get("unit", "epoch") != "epoch"
        ):
            return None
        # A test behind a training of T epochs is logged with epoch T.
        if epoch in self.record.ends and epoch < max(self.record.losses, default=0):
            return "it was logged at an end after which the training went on"
        return None

    def borrows(self, keys: Sequence[str]) -> bool:
        """Return whether `losses` come from another key than the monitor's own."""
        if not keys or self._recorded() or keys[0] in self.logged.by_epoch:
            return False
        return bool(self.losses(keys))

    def _recorded(self) -> dict[int, float]:
        if self.record is None or self.record.facts.get("unit", "epoch") != self.unit:
            return {}
        return self.record.losses

    @property
    def facts(self) -> dict[str, Any]:
        """What the run's losses depend on, and why it was stopped; empty without a record."""
        if self.record is None:
            return {}
        reason = self.record.status.get("reason")
        return {**self.record.facts, **({} if reason is None else {"stopping_reason": reason})}

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint after the newest epoch that has one; where it lies after a move."""
        if self.record is None or not self.record.checkpoints:
            return None
        path = self.record.checkpoints[max(self.record.checkpoints)]
        name = Path(path).name
        if exists(path) or name in ("", ".."):
            return path
        moved = [folder / "checkpoints" / name for folder in self.record.folders]
        return next((str(other.absolute()) for other in moved if exists(other)), path)

    @property
    def stopped_at(self) -> int | None:
        """T at which a stopper has ended the run first, in the unit that is wanted, or None."""
        if self.record is None or self.record.facts.get("unit", "epoch") != self.unit:
            return None
        return self.record.stopped_at

    @property
    def is_unfinished(self) -> bool:
        """Whether the record says that the run was not trained to its end."""
        if self.record is None:
            return False
        status, reason = self.record.status.get("status"), self.record.status.get("reason")
        # Ended by another callback, as EarlyStopping, is an end.
        return status != "finished" and reason != "trainer.should_stop"


@dataclass(frozen=True)
class ReadRequest:
    """What to look for: logged keys, the monitor's prefix, and the unit of its records."""

    keys: frozenset[str]
    prefix: str
    unit: str | int


def read_sources(
    root: Path,
    folders: list[RunFolder],
    wanted: ReadRequest,
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
            f"{pluralize(replaced, 'value')} that the logs hold twice, as of steps that were "
            "trained again after a resume, counted once: the newer."
        )
    return sorted(sources, key=lambda source: natural_order(PurePosixPath(source.name)))


def _read_folders(
    root: Path,
    folders: list[RunFolder],
    wanted: ReadRequest,
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
        f"Left out {pluralize(bad, 'line or event')} of '{name}' that could not be read."
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
            f"{pluralize(len(names), 'run')} with records in several folders that are copies of "
            f"each other, counted once: {quote_few(names)}."
        )


def _read_logs(
    folder: RunFolder,
    wanted: ReadRequest,
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
    wanted: ReadRequest,
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
    wanted: ReadRequest,
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
            f"{pluralize(joined, 'folder')} with the same losses as a record elsewhere, as of a "
            "second logger, joined with that run."
        )
    if ambiguous:
        notes.left_out.append(
            f"Left out {pluralize(len(ambiguous), 'folder')} with the same losses as several "
            f"records elsewhere: {quote_few(ambiguous)}."
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
