"""The results of finished runs: one line of JSON a run, in a file that is only appended to.

A line is written at once and flushed to the disk, so a kill loses only the run in training. Several
processes may train runs of one file: each run is claimed by a file lock, which ends with its
process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import corpus
from filelock import FileLock, Timeout
from run_plan import Recipe, Run


def recipe_digest(recipe: Recipe) -> str:
    """Return what marks the results of one recipe on one text."""
    content = json.dumps([dataclasses.asdict(recipe), corpus.SHA256])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_results(path: Path, recipe: Recipe, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the finished runs of a plan, in the plan's order.

    Raises:
        ValueError: If the file has a result of another recipe or text, of a run that is not in the
            plan, or of a run with other settings than the plan's.
    """
    planned = {run.name: run for run in runs}
    found: dict[str, dict[str, Any]] = {}
    for result in _read_lines(path):
        name, expected = result["name"], {"recipe": recipe_digest(recipe)}
        if name in planned:
            expected.update(dataclasses.asdict(planned[name]))
        differing = [key for key, value in expected.items() if result.get(key) != value]
        if name not in planned or differing:
            reason = f"differs in {', '.join(differing)}" if differing else "is not in the plan"
            raise ValueError(
                f"Expected '{path}' to have results of this plan but run '{name}' {reason}."
            )
        found[name] = result
    return [found[name] for name in planned if name in found]


def train_missing(
    path: Path,
    recipe: Recipe,
    runs: Sequence[Run],
    *,
    train: Callable[[Recipe, Run], dict[str, Any]],
    locks: Path,
    most: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Train the runs that the file lacks, and yield each result after it was written.

    Args:
        path: The file of results; created if it is absent.
        recipe: Of all runs.
        runs: In the order of their training.
        train: Trains one run.
        locks: The folder for the claims of runs.
        most: Train at most this many runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    locks.mkdir(parents=True, exist_ok=True)
    trained = 0
    for run in runs:
        if most is not None and trained >= most:
            return
        try:
            with FileLock(locks / f"{run.name}.lock", timeout=0):
                # Another process may have finished it while this one trained.
                if any(line["name"] == run.name for line in _read_lines(path)):
                    continue
                result = {"recipe": recipe_digest(recipe), **train(recipe, run)}
                with FileLock(locks / "results.lock"):
                    _append(path, result)
        except Timeout:  # another process trains it
            continue
        trained += 1
        yield result


def write_whole(path: Path, content: str) -> None:
    """Write a text file completely or, after a kill, not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content.encode())
    temporary.replace(path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines; a kill or a full disk can leave a part of one at the end."""
    content = path.read_bytes() if path.exists() else b""
    complete, _, _ = content.rpartition(b"\n")
    return [json.loads(line) for line in complete.splitlines()]


def _append(path: Path, result: dict[str, Any]) -> None:
    with path.open("a+b") as file:
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)  # without a part of a line that a kill left
        file.write(json.dumps(result, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
