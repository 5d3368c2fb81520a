"""Which folders below a directory hold runs, and in which files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lightning_sotl._utils.files import walk
from lightning_sotl._utils.text import visible
from lightning_sotl.curves import _metrics_csv, _tensorboard
from lightning_sotl.record.format import file_name


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
        if _metrics_csv.FILE in names:
            folder.csv = folder.path / _metrics_csv.FILE
        folder.events = [
            folder.path / name for name in names if name.startswith(_tensorboard.FILE_PREFIX)
        ]
        if folder.record or folder.csv or folder.events:
            found.append(folder)
    if not found:
        raise ValueError(
            f"Expected '{directory}' to hold runs, in files '{record_name}', '{_metrics_csv.FILE}' "
            f"or '{_tensorboard.FILE_PREFIX}*', but found none in its {folders} folders."
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
