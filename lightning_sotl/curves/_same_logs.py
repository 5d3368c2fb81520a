"""Finds folders without a record that belong to one run: copies, and those of a second logger."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from lightning_sotl._utils.files import open_regular
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.curves._folders import RunFolder
from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._run_source import RunSource
from lightning_sotl.curves.run_notes import RunNotes

# A key that TensorBoardLogger adds to those that the module logs.
_TENSORBOARD_KEYS = {"hp_metric"}


def without_copies(
    folders: Sequence[RunFolder], notes: RunNotes, name: Callable[[Path], str]
) -> list[RunFolder]:
    """Return the folders whose files do not have the same bytes as those of an earlier folder."""
    by_size: dict[tuple[tuple[str, int], ...], list[RunFolder]] = defaultdict(list)
    for folder in folders:
        if (sizes := _sizes(folder)) is not None:
            by_size[sizes].append(folder)
    copies: dict[Path, Path] = {}
    for same_size in by_size.values():
        first: dict[tuple[bytes, ...], Path] = {}
        for folder in same_size if len(same_size) > 1 else []:
            if (content := _digests(folder)) is not None:
                original = first.setdefault(content, folder.path)
                if original != folder.path:
                    copies[folder.path] = original
    if copies:
        notes.cautions.append(
            f"Left out exact copies of other logs in {pluralize(len(copies), 'folder')}: "
            f"{quote_few([name(path) for path in copies])}."
        )
    return [folder for folder in folders if folder.path not in copies]


def join_loggers(
    sources: Sequence[RunSource], folders: dict[str, RunFolder], notes: RunNotes
) -> list[RunSource]:
    """Return the runs, after joining each folder of event files to a CSV log with its values.

    Args:
        sources: The runs without a record.
        folders: Name of a run -> its folder.
        notes: Receives a sentence about what was joined.
    """
    tables = [run for run in sources if not folders[run.name].events]
    joined, ambiguous = [], []
    for run in sources:
        if folders[run.name].csv is not None:
            continue
        twins = [table for table in tables if _have_same_values(table.logged, run.logged)]
        if len(twins) > 1:  # the same training was run twice with one seed
            last = PurePosixPath(run.name).name
            twins = [table for table in twins if PurePosixPath(table.name).name == last] or twins
        if len(twins) == 1:
            run.logged.update(twins[0].logged)  # the CSV log has more digits
            twins[0].logged = run.logged
            joined.append(run.name)
        elif twins:
            ambiguous.append(run.name)
    if joined:
        notes.remarks.append(
            f"Joined {pluralize(len(joined), 'folder')}, probably from a second logger, to the run "
            "with the same values."
        )
    if ambiguous:
        notes.left_out.append(
            f"Left out {pluralize(len(ambiguous), 'folder')} with the same values as several "
            f"others: {quote_few(ambiguous)}."
        )
    gone = {*joined, *ambiguous}
    return [run for run in sources if run.name not in gone]


def _have_same_values(table: Logged, events: Logged) -> bool:
    """Return whether the values that both logs have are equal in TensorBoard's precision."""
    keys = table.keys - _TENSORBOARD_KEYS, events.keys - _TENSORBOARD_KEYS
    if not (keys[0] <= keys[1] or keys[1] <= keys[0]):
        return False
    compared = 0
    for key in table.by_epoch.keys() & events.by_epoch.keys():
        curves = in_float32(table.by_epoch[key]), in_float32(events.by_epoch[key])
        shared = curves[0].keys() & curves[1].keys()
        # A resumed CSVLogger deletes its first epochs, and a killed process loses its last events.
        if len(shared) < min(map(len, curves)) or any(
            curves[0][epoch] != curves[1][epoch] for epoch in shared
        ):
            return False
        compared += len(shared)
    return compared > 0


def in_float32(curve: dict[int, float]) -> dict[int, float]:
    """Return a curve in TensorBoard's precision, with `+inf` for values that are not finite."""
    with np.errstate(over="ignore"):
        return {
            epoch: float(np.float32(value)) if math.isfinite(value) else math.inf
            for epoch, value in curve.items()
        }


def _files(folder: RunFolder) -> list[Path]:
    return [*([folder.csv] if folder.csv else []), *sorted(folder.events)]


def _sizes(folder: RunFolder) -> tuple[tuple[str, int], ...] | None:
    try:
        return tuple((path.name, path.stat().st_size) for path in _files(folder))
    except OSError:  # for example a broken link, which RunReader reports
        return None


def _digests(folder: RunFolder) -> tuple[bytes, ...] | None:
    digests = []
    try:
        for path in _files(folder):
            digest = hashlib.sha256()
            with open_regular(path) as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            digests.append(digest.digest())
    except (OSError, ValueError):
        return None
    return tuple(digests)
