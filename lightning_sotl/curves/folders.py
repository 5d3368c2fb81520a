"""Which folders below a directory hold runs, and in which files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lightning_sotl._wording import quoted, visible
from lightning_sotl.curves import csv_logs, tensorboard_logs
from lightning_sotl.record import file_name


@dataclass
class RunFolder:
    """The files of one folder that say something about a run.

    Attributes:
        path: The folder.
        record: Its record, or None.
        csv: Its `metrics.csv`, or None.
        events: Its event files.
    """

    path: Path
    record: Path | None = None
    csv: Path | None = None
    events: list[Path] = field(default_factory=list)


def walk(directory: Path, notes: list[str]) -> Iterator[tuple[Path, set[str]]]:
    """Yield each folder at any depth with the names of what lies in it and is no folder.

    Links to folders are not followed: a "latest" beside its run would count that run twice, and a
    link to what is above would never end. Python's own walk gives up at some 1,000 levels.

    Args:
        directory: Where to begin.
        notes: Takes a sentence for each folder that cannot be listed.
    """
    waiting = [str(directory)]  # to join paths of many parts takes long
    while waiting:
        folder = waiting.pop()
        names = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif not _is_link_to_folder(entry):
                        names.add(entry.name)
        except OSError as error:
            notes.append(f"Left out what is in {quoted(folder)}: {error.strerror}.")
            continue
        yield Path(folder), names


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_run_folders(directory: Path, notes: list[str], *, prefix: str) -> list[RunFolder]:
    """Return the folders at any depth that hold a record or logs, sorted as numbers count.

    Args:
        directory: Where to look.
        notes: Takes a sentence for each folder that cannot be listed.
        prefix: The monitor's; its record is `<prefix>.jsonl`.

    Raises:
        NotADirectoryError: If `directory` is none.
        ValueError: If there is no run in it.
    """
    name = visible(str(directory))
    if not directory.exists():
        raise NotADirectoryError(f"Expected a directory of runs but there is no '{name}'.")
    if not directory.is_dir():
        raise NotADirectoryError(f"Expected '{name}' to be a directory but it is a file.")
    record_name = file_name(prefix)
    found, folders = [], 0
    for path, names in walk(directory, notes):
        folders += 1
        folder = RunFolder(path)
        if record_name in names:
            folder.record = folder.path / record_name
        if csv_logs.FILE in names:
            folder.csv = folder.path / csv_logs.FILE
        folder.events = [
            folder.path / name for name in names if name.startswith(tensorboard_logs.FILE_PREFIX)
        ]
        if folder.record or folder.csv or folder.events:
            found.append(folder)
    if not found:
        raise ValueError(
            f"Expected '{directory}' to hold runs, in files '{record_name}', '{csv_logs.FILE}' or "
            f"'{tensorboard_logs.FILE_PREFIX}*', but found none in its {folders} folders."
        )
    return sorted(found, key=lambda folder: natural_order(folder.path.relative_to(directory)))


def natural_order(path: PurePath) -> list[tuple[str, int, str]]:
    """Return a key that sorts the numbers at the end of names as numbers.

    Example:
        >>> [path.name for path in sorted(map(PurePath, ["v10", "v9"]), key=natural_order)]
        ['v9', 'v10']
    """
    key = []
    for part in path.parts:
        head = part.rstrip("0123456789")
        number = part[len(head) :]
        key.append((head, int(number) if number else -1, part))
    return key
