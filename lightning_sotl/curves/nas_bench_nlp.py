"""Reader of NAS-Bench-NLP's logs: one JSON document a run, in a zip or a folder."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.files import UnreadableFileError, open_regular, parse_json, walk
from lightning_sotl._utils.text import pluralize, quote_few, quoted, shortened, visible
from lightning_sotl.curves._archives import open_archive, read_member
from lightning_sotl.curves._log_values import check_table_size
from lightning_sotl.curves.table import LearningCurves

_CURVES = ("train_losses", "val_losses", "test_losses")
# The published ones have 10 kB; Python needs some 20 times a JSON text's size.
MOST_DOCUMENT_BYTES = 16 * 2**20
_MOST_STATES = 20


@dataclass(frozen=True)
class _Run:
    """What is kept of one document: curves of the shape `(3, epochs)`, in the order above."""

    curves: NDArray[np.float64]
    status: str
    seconds: float
    parameters: float

    @property
    def is_ok(self) -> bool:
        return self.status == "OK"


def read_nas_bench_nlp(path: str | Path) -> tuple[LearningCurves, list[str]]:
    """Return the runs of NAS-Bench-NLP, and notes on what could not be read.

    The target is the test loss after the last epoch, in nats, lower is better; `val_metric` is the
    validation loss, and the one feature is the number of parameters. A run whose status is not
    "OK", or that ended before the longest, has no target.

    Args:
        path: The zip, or a folder with the JSON documents.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be opened.
        ValueError: If it is a zip that `open_archive` refuses, if it would make too large a table,
            or if it holds no document with `train_losses`, `val_losses` and `test_losses`.

    Source:
        Klyuchnikov et al. 2020, "NAS-Bench-NLP: Neural Architecture Search Benchmark for Natural
        Language Processing".
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no '{visible(str(path))}'.")
    runs: dict[str, _Run] = {}
    unreadable: list[str] = []
    notes: list[str] = []
    epochs = 0
    for name, text in _documents(path, notes):
        run = _run(text)
        if run is None:
            unreadable.append(name)
        else:
            runs[name] = run
            epochs = max(epochs, run.curves.shape[1])
            check_table_size(path, len(runs), epochs, name)
    if not runs:
        raise ValueError(
            f"Expected '{path}' to hold JSON documents with {', '.join(map(repr, _CURVES))}, but "
            f"none of its {pluralize(len(unreadable), 'JSON document')} is one."
        )
    return _curves(runs), [*notes, *_notes(runs, unreadable)]


def _documents(path: Path, notes: list[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and text of each document; no text where it is too large or no file."""
    if path.is_dir():
        files = [folder / name for folder, names in walk(path, notes) for name in names]
        for file in sorted(one for one in files if one.suffix == ".json"):
            yield file.relative_to(path).with_suffix("").as_posix(), _text(file)
        return
    with open_regular(path) as archived:
        if not zipfile.is_zipfile(archived):
            raise ValueError(f"Expected '{path}' to be a zip or a folder, but it is neither.")
    with open_archive(path) as archive:
        for member in sorted(archive.infolist(), key=lambda one: one.filename):
            name = member.filename
            # Archives made on a Mac carry a second tree of files that are no documents.
            if name.endswith(".json") and not name.startswith("__MACOSX"):
                small = member.file_size <= MOST_DOCUMENT_BYTES
                text = _member(archive, member, path) if small else None
                yield PurePosixPath(name).with_suffix("").as_posix(), text


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    try:
        return read_member(archive, member)
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read: {error}") from None


def _text(path: Path) -> bytes | None:
    try:
        with open_regular(path, most=MOST_DOCUMENT_BYTES) as file:
            return file.read()
    except (OSError, UnreadableFileError):
        return None


def _run(text: bytes | None) -> _Run | None:
    """Return what one document says; None if it is not what the benchmark's authors write."""
    run = None if text is None else parse_json(text)
    if not isinstance(run, dict):
        return None
    curves = [_numbers(run.get(name)) for name in _CURVES]
    seconds, parameters = _numbers(run.get("wall_times") or []), run.get("num_params") or np.nan
    size = _numbers([parameters])
    if seconds is None or size is None:
        return None
    kept = [curve for curve in curves if curve is not None and curve.size]
    if len(kept) < len(_CURVES) or len({curve.size for curve in kept}) > 1:
        return None
    status = run.get("status")
    seconds_an_epoch = float(seconds.mean()) if seconds.size else np.nan
    return _Run(np.stack(kept), shortened(str(status)), seconds_an_epoch, float(size[0]))


def _numbers(values: object) -> NDArray[np.float64] | None:
    if not isinstance(values, list) or not all(map(_is_number, values)):
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # an integer of more digits than a float holds
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _curves(runs: dict[str, _Run]) -> LearningCurves:
    epochs = max(run.curves.shape[1] for run in runs.values())
    table = np.full((len(_CURVES), len(runs), epochs), np.nan)
    for row, run in enumerate(runs.values()):
        table[:, row, : run.curves.shape[1]] = run.curves
    train_loss, val_loss, _ = table
    # A loss that was recorded and is no number is one of a diverged run, not a missing one.
    recorded = np.arange(epochs) < [[run.curves.shape[1]] for run in runs.values()]
    train_loss[recorded & ~np.isfinite(train_loss)] = np.inf
    final = [
        float(run.curves[2, -1]) if run.is_ok and run.curves.shape[1] == epochs else np.nan
        for run in runs.values()
    ]
    return LearningCurves(
        train_loss,
        val_loss=val_loss,
        val_metric=val_loss,
        final_metric=np.array(final),
        final_loss=np.array(final),
        features=np.array([[run.parameters] for run in runs.values()]),
        epoch_seconds=np.array([run.seconds for run in runs.values()]),
        metric_mode="min",
        run_ids=tuple(runs),
    )


def _notes(runs: dict[str, _Run], unreadable: list[str]) -> list[str]:
    notes = []
    states = Counter(run.status for run in runs.values() if not run.is_ok)
    if states:
        described = ", ".join(
            f"{quoted(state)}: {number}" for state, number in states.most_common(_MOST_STATES)
        )
        more = ", ..." if len(states) > _MOST_STATES else ""
        notes.append(
            f"{pluralize(sum(states.values()), 'run')} of {len(runs)} with another status than "
            f"'OK' ({described}{more}), so without a target."
        )
    if unreadable:
        notes.append(
            f"Left out {pluralize(len(unreadable), 'JSON document')} without curves of one length: "
            f"{quote_few(unreadable)}."
        )
    return notes
