"""Finds the folders below a directory that hold runs, and their files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePath
from urllib.parse import unquote

from lightning_sotl._utils.files import walk
from lightning_sotl._utils.text import quote_few, visible
from lightning_sotl.curves import _metrics_csv, _tensorboard
from lightning_sotl.record.format import RECORD_SUFFIX, file_name, parsed_lines


class NoRunsError(ValueError):
    """There are no runs, or none has the requested values."""


@dataclass
class RunFolder:
    """The record, the `metrics.csv` and the event files of one folder."""

    path: Path
    record: Path | None
    csv: Path | None
    events: list[Path]


def as_paths(directory: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return one or several directories of runs as paths. Several are made absolute."""
    if isinstance(directory, (str, Path)):
        return [Path(directory)]
    if len(directory) == 1:
        return [Path(directory[0])]
    return [Path(os.path.abspath(path)) for path in directory]  # noqa: PTH100  # keeps links


def common_root(paths: Sequence[Path]) -> Path:
    """Return the folder that the names of runs are relative to."""
    folders = [path.parent if path.is_file() else path for path in paths]
    return folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))


def is_run_file(path: Path) -> bool:
    """Return whether a file has the name of a record or of a log of Lightning.

    Examples:
        >>> [is_run_file(Path(name)) for name in ("v0/metrics.csv", "sotl.jsonl", "curves.npz")]
        [True, True, False]
    """
    name = path.name
    return (
        name == _metrics_csv.FILE
        or name.startswith(_tensorboard.FILE_PREFIX)
        or path.suffix == RECORD_SUFFIX
    )


def find_run_folders(paths: Sequence[Path], notes: list[str], *, prefix: str) -> list[RunFolder]:
    """Return the folders that hold a record or logs, in natural order.

    Args:
        paths: Directories, which are searched at any depth, and files of runs. For a file, only
            its own folder is read.
        notes: Receives a sentence for each folder that cannot be listed.
        prefix: The prefix of the monitor, whose record is `<prefix>.jsonl`.

    Raises:
        NotADirectoryError: If a path does not exist, or is a file that does not belong to a run.
        NoRunsError: If there are no runs.
    """
    record_name = file_name(prefix)
    found: dict[Path, RunFolder] = {}
    walked, empty = 0, []
    for given in paths:
        holding_runs = 0
        for path, names in _folders_below(given, notes):
            walked += 1
            record = path / record_name if record_name in names else None
            csv = path / _metrics_csv.FILE if _metrics_csv.FILE in names else None
            events = [path / name for name in names if name.startswith(_tensorboard.FILE_PREFIX)]
            if record or csv or events:
                holding_runs += 1
                found[path] = RunFolder(path, record, csv, events)
        if not holding_runs:
            empty.append(str(given))
    if not found:
        raise NoRunsError(
            f"Expected {quote_few(empty)} to hold runs, in files '{record_name}', "
            f"'{_metrics_csv.FILE}' or '{_tensorboard.FILE_PREFIX}*', but found none in its "
            f"{walked} folders."
        )
    if empty:
        notes.append(f"Found no run in {quote_few(empty)}.")
    root = common_root(paths)
    return sorted(found.values(), key=lambda folder: natural_order(folder.path.relative_to(root)))


def _folders_below(path: Path, notes: list[str]) -> Iterator[tuple[Path, set[str]]]:
    """Return the folders below a path, each with the names of its files."""
    name = visible(str(path))
    if not path.exists():
        raise NotADirectoryError(f"Expected a directory of runs but there is no '{name}'.")
    if path.is_dir():
        return walk(path, notes)
    if is_run_file(path):
        return islice(walk(path.parent, notes), 1)
    raise NotADirectoryError(
        f"Expected '{name}' to be a directory, or a record or log of a run ('*{RECORD_SUFFIX}', "
        f"'{_metrics_csv.FILE}' or '{_tensorboard.FILE_PREFIX}*'), but it is another file."
    )


def other_monitors(paths: Sequence[Path], *, prefix: str) -> list[str]:
    """Return the names of L(e) in records of other monitors, if this monitor has no record."""
    names = set()
    for path, files in chain.from_iterable(_folders_below(path, []) for path in paths):
        if file_name(prefix) in files:
            return []
        for file in files:
            if file.endswith(RECORD_SUFFIX):
                names |= _monitors_of(path / file)
    return sorted(names)


def _monitors_of(record: Path) -> set[str]:
    try:
        headers = [line for line in parsed_lines(record) if line and "run_id" in line]
    except (OSError, ValueError):
        return set()
    names = set()
    for header in headers:
        prefix, unit = header.get("prefix", unquote(record.stem)), header.get("unit")
        names.add(f"{prefix}_b{unit}_e1" if isinstance(unit, int) else f"{prefix}_e1")
    return names


def natural_order(path: PurePath) -> list[tuple[str, int, str]]:
    """Return a sort key that compares numbers at the end of names as numbers.

    Examples:
        >>> [path.name for path in sorted(map(PurePath, ["v10", "v9"]), key=natural_order)]
        ['v9', 'v10']
    """
    key = []
    for part in path.parts:
        head = part.rstrip("0123456789")
        number = part[len(head) :]
        key.append((head, int(number) if number else -1, part))
    return key
