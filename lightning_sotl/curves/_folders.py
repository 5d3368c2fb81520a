"""Which folders below a directory hold runs, and in which files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from lightning_sotl._utils.files import walk
from lightning_sotl._utils.text import visible
from lightning_sotl.curves import _metrics_csv, _tensorboard
from lightning_sotl.record.format import file_name


@dataclass
class RunFolder:
    """The record, the `metrics.csv` and the event files of one folder."""

    path: Path
    record: Path | None
    csv: Path | None
    events: list[Path]


def find_run_folders(directory: Path, notes: list[str], *, prefix: str) -> list[RunFolder]:
    """Return the folders at any depth that hold a record or logs, in natural order.

    Args:
        directory: Where to look.
        notes: Receives a sentence for each folder that cannot be listed.
        prefix: The monitor's; its record is `<prefix>.jsonl`.

    Raises:
        NotADirectoryError: If `directory` is no directory.
        ValueError: If it holds no run.
    """
    name = visible(str(directory))
    if not directory.exists():
        raise NotADirectoryError(f"Expected a directory of runs but there is no '{name}'.")
    if not directory.is_dir():
        raise NotADirectoryError(f"Expected '{name}' to be a directory but it is a file.")
    record_name = file_name(prefix)
    found, walked = [], 0
    for path, names in walk(directory, notes):
        walked += 1
        record = path / record_name if record_name in names else None
        csv = path / _metrics_csv.FILE if _metrics_csv.FILE in names else None
        events = [path / name for name in names if name.startswith(_tensorboard.FILE_PREFIX)]
        if record or csv or events:
            found.append(RunFolder(path, record, csv, events))
    if not found:
        raise ValueError(
            f"Expected '{directory}' to hold runs, in files '{record_name}', '{_metrics_csv.FILE}' "
            f"or '{_tensorboard.FILE_PREFIX}*', but found none in its {walked} folders."
        )
    return sorted(found, key=lambda folder: natural_order(folder.path.relative_to(directory)))


def natural_order(path: PurePath) -> list[tuple[str, int, str]]:
    """Return a sort key that compares numbers at the end of names as numbers.

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
