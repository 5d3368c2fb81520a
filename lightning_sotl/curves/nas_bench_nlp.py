"""Reader of NAS-Bench-NLP's logs: one JSON document a run, in a zip or a folder."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_sotl._wording import counted, some
from lightning_sotl.curves.table import LearningCurves

_CURVES = ("train_losses", "val_losses", "test_losses")


def read_nas_bench_nlp(path: str | Path) -> tuple[LearningCurves, list[str]]:
    """Return the runs of NAS-Bench-NLP, and notes on what could not be read.

    The target is the test loss after the last epoch, in nats, lower is better; `val_metric` is the
    validation loss, and the one feature is the number of parameters. A run whose status is not
    "OK", or that ended before the longest, has no target.

    Args:
        path: The zip, or a folder with the JSON documents.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no document with `train_losses`, `val_losses` and `test_losses`.

    Source:
        Klyuchnikov et al. 2020, "NAS-Bench-NLP: Neural Architecture Search Benchmark for Natural
        Language Processing".
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no '{path}'.")
    runs: dict[str, dict[str, Any]] = {}
    unreadable: list[str] = []
    for name, text in _documents(path):
        run = _run(text)
        if run is None:
            unreadable.append(name)
        else:
            runs[name] = run
    if not runs:
        raise ValueError(
            f"Expected '{path}' to hold JSON documents with {', '.join(map(repr, _CURVES))}, but "
            f"none of its {counted(len(unreadable), 'JSON document')} is one."
        )
    return _curves(runs), _notes(runs, unreadable)


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield file.relative_to(path).with_suffix("").as_posix(), file.read_bytes()
        return
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected '{path}' to be a zip or a folder, but it is neither.")
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            # Archives made on a Mac carry a second tree of files that are no documents.
            if name.endswith(".json") and not name.startswith("__MACOSX"):
                yield PurePosixPath(name).with_suffix("").as_posix(), archive.read(name)


def _run(text: bytes) -> dict[str, Any] | None:
    try:
        run = json.loads(text)
    except ValueError:
        return None
    if not isinstance(run, dict):
        return None
    lengths = set()
    for name in _CURVES:
        values = run.get(name)
        if not isinstance(values, list) or not values or not all(map(_is_number, values)):
            return None
        lengths.add(len(values))
    return run if len(lengths) == 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finished(run: dict[str, Any], epochs: int) -> bool:
    return run.get("status") == "OK" and len(run["train_losses"]) == epochs


def _curves(runs: dict[str, dict[str, Any]]) -> LearningCurves:
    epochs = max(len(run["train_losses"]) for run in runs.values())
    tables = {name: np.full((len(runs), epochs), np.nan) for name in _CURVES}
    for row, run in enumerate(runs.values()):
        for name, table in tables.items():
            table[row, : len(run[name])] = run[name]
    # A loss that was recorded and is no number is one of a diverged run, not a missing one.
    recorded = np.arange(epochs) < [[len(run["train_losses"])] for run in runs.values()]
    train_loss = tables["train_losses"]
    train_loss[recorded & ~np.isfinite(train_loss)] = np.inf
    final = np.array(
        [run["test_losses"][-1] if _is_finished(run, epochs) else np.nan for run in runs.values()],
        dtype=np.float64,
    )
    seconds = [np.mean(run.get("wall_times") or [np.nan]) for run in runs.values()]
    parameters = [[float(run.get("num_params") or np.nan)] for run in runs.values()]
    return LearningCurves(
        train_loss,
        val_loss=tables["val_losses"],
        val_metric=tables["val_losses"],
        final_metric=final,
        final_loss=final,
        features=np.array(parameters),
        epoch_seconds=np.array(seconds, dtype=np.float64),
        metric_mode="min",
        run_ids=tuple(runs),
    )


def _notes(runs: dict[str, dict[str, Any]], unreadable: list[str]) -> list[str]:
    notes = []
    states = Counter(str(run.get("status")) for run in runs.values() if run.get("status") != "OK")
    if states:
        described = ", ".join(f"{state!r}: {number}" for state, number in states.most_common())
        notes.append(
            f"{counted(sum(states.values()), 'run')} of {len(runs)} with another status than 'OK' "
            f"({described}), so without a target."
        )
    if unreadable:
        notes.append(
            f"Left out {counted(len(unreadable), 'JSON document')} without curves of one length: "
            f"{some(unreadable)}."
        )
    return notes
