"""Reader of NAS-Bench-NLP's logs: a JSON document for each run, in a zip or a folder."""

from __future__ import annotations

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
# The published documents have about 10 kB. Parsed JSON needs about 20 times the size of its text.
MOST_DOCUMENT_BYTES = 16 * 2**20
_MOST_STATES = 20


@dataclass(frozen=True)
class _Run:
    """One document: its curves of shape `(3, epochs)` in the order of `_CURVES`, and facts."""

    curves: NDArray[np.float64]
    status: str
    seconds: float
    parameters: float


def read_nas_bench_nlp(path: str | Path) -> tuple[LearningCurves, list[str]]:
    """Read the learning curves of NAS-Bench-NLP.

    `final_metric` is the test loss after the last epoch, in nats; lower is better. It is NaN for a
    run that did not end with the status "OK", or that ended before the longest run. `val_metric`
    is the validation loss. The only feature is the number of parameters.

    Args:
        path: A zip of the JSON documents, or a folder that holds them.

    Returns:
        The curves, and notes on the documents that could not be read and the runs without a target.

    Raises:
        FileNotFoundError: If `path` does not exist.
        OSError: If `path` cannot be opened.
        ValueError: If `path` is neither a zip nor a folder, if the zip is damaged or too large, if
            the table would be too large, or if no document holds `train_losses`, `val_losses` and
            `test_losses`.

    Examples:
        ```python
        curves, notes = read_nas_bench_nlp("nas_bench_nlp.zip")
        ```

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
        try:
            runs[name] = _parse(text)
        except (ValueError, OverflowError):  # an integer may be too large for a float
            unreadable.append(name)
        else:
            epochs = max(epochs, runs[name].curves.shape[1])
            check_table_size(path, len(runs), epochs)
    if not runs:
        raise ValueError(
            f"Expected '{path}' to hold JSON documents with {', '.join(map(repr, _CURVES))}, but "
            f"none of its {pluralize(len(unreadable), 'JSON document')} is one."
        )
    return _to_curves(runs, epochs), [*notes, *_notes(runs, unreadable)]


def _documents(path: Path, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and text of each document. The text is empty if it cannot be read."""
    if path.is_dir():
        files = [folder / name for folder, names in walk(path, notes) for name in names]
        for file in sorted(file for file in files if file.suffix == ".json"):
            try:
                with open_regular(file, most=MOST_DOCUMENT_BYTES) as opened:
                    text = opened.read()
            except (OSError, UnreadableFileError):
                text = b""
            yield file.relative_to(path).with_suffix("").as_posix(), text
        return
    with open_archive(path, kind="a zip or a folder") as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            name = member.filename
            # Archives made on macOS also contain a tree of metadata files.
            if not name.endswith(".json") or name.startswith("__MACOSX"):
                continue
            try:
                is_small = member.file_size <= MOST_DOCUMENT_BYTES
                text = read_member(archive, member) if is_small else b""
            except ValueError as error:
                raise ValueError(f"'{path}' cannot be read: {error}") from None
            yield PurePosixPath(name).with_suffix("").as_posix(), text


def _parse(text: bytes) -> _Run:
    """Return the run of a document.

    Raises:
        OverflowError: If a number is too large.
        ValueError: If the document does not have the published form.
    """
    document = parse_json(text)
    if not isinstance(document, dict):
        raise ValueError("Expected a JSON object.")
    curves = np.stack([_numbers(document.get(name)) for name in _CURVES])
    if not curves.size:
        raise ValueError("Expected at least one epoch.")
    seconds = _numbers(document.get("wall_times") or [])
    (parameters,) = _numbers([document.get("num_params") or np.nan])
    return _Run(
        curves,
        shortened(str(document.get("status"))),
        float(seconds.mean()) if seconds.size else np.nan,
        float(parameters),
    )


def _numbers(values: object) -> NDArray[np.float64]:
    # JSON's true and false are bool, which is an int for `isinstance`.
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError("Expected a list of numbers.")
    return np.array(values, dtype=np.float64)


def _to_curves(runs: dict[str, _Run], epochs: int) -> LearningCurves:
    table = np.full((len(_CURVES), len(runs), epochs), np.nan)
    for row, run in enumerate(runs.values()):
        table[:, row, : run.curves.shape[1]] = run.curves
        # A non-finite loss means that the run diverged; NaN would mean a missing value.
        diverged = np.flatnonzero(~np.isfinite(run.curves[0]))
        table[0, row, diverged] = np.inf
    train_loss, val_loss, test_loss = table
    is_ok = [run.status == "OK" for run in runs.values()]
    final = np.where(is_ok, test_loss[:, -1], np.nan)  # NaN also for shorter runs
    return LearningCurves(
        train_loss,
        val_loss=val_loss,
        val_metric=val_loss,
        final_metric=final,
        final_loss=final,
        features=[[run.parameters] for run in runs.values()],
        epoch_seconds=[run.seconds for run in runs.values()],
        metric_mode="min",
        run_ids=tuple(runs),
    )


def _notes(runs: dict[str, _Run], unreadable: list[str]) -> list[str]:
    notes = []
    states = Counter(run.status for run in runs.values() if run.status != "OK")
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
