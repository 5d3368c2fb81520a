"""Trains many runs in worker processes, and writes a file for each finished run."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from recipes import Recipe, Run
from tqdm import tqdm


class Job(NamedTuple):
    """A run to train, and the file for its result."""

    recipe: Recipe
    run: Run
    path: Path


def train_missing(jobs: Sequence[Job], *, workers: int) -> float:
    """Train the jobs without a file, with a progress bar.

    Files are written atomically, so after a kill only the unfinished runs are trained again.

    Args:
        jobs: Jobs, in the order in which they start.
        workers: Number of processes, each with one thread.

    Returns:
        The time in seconds.

    Raises:
        RuntimeError: If a run fails or a worker dies. The files of finished runs are kept.
    """
    missing = [job for job in jobs if not job.path.exists()]
    since = time.perf_counter()
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="run", smoothing=0.05) as bar:
        for _ in _results(missing, min(workers, len(missing))):
            bar.update()
    return time.perf_counter() - since


def train_job(job: Job) -> str:
    """Train a run and write its file; return the traceback of a failure, or an empty string."""
    from cell_training import train_run

    try:
        write_whole(job.path, json.dumps(train_run(job.recipe, job.run)).encode())
    except Exception:
        return traceback.format_exc()
    return ""


def read_results(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Return the result of each job."""
    return [json.loads(job.path.read_text()) for job in jobs]


def _results(jobs: list[Job], workers: int) -> Iterator[None]:
    """Train jobs in worker processes; yield once per finished job."""
    remaining = iter(jobs)
    context = get_context("spawn")
    with ExitStack() as stack:
        busy: dict[Connection, Job] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            # A daemon ends with this process. If this process is killed, the pipe closes, which
            # also ends the worker.
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)
            _send_next(ours, remaining, busy)
        while busy:
            for end in wait(list(busy)):
                job = busy.pop(end)  # type: ignore[index]  # all of them are connections
                check_answer(end, job)  # type: ignore[arg-type]
                yield
                _send_next(end, remaining, busy)  # type: ignore[arg-type]


def _send_next(end: Connection, remaining: Iterator[Job], busy: dict[Connection, Job]) -> None:
    job = next(remaining, None)
    if job is not None:
        end.send(job)
        busy[end] = job


def check_answer(end: Connection, job: Job) -> None:
    """Raise a RuntimeError if a worker reports a failure or has died."""
    try:
        failure = end.recv()
    except EOFError:
        failure = "The worker process died."
    if failure:
        raise RuntimeError(f"{job.run} failed; start again to resume from here. {failure}")


def _work(pipe: Connection) -> None:
    """Train the jobs that arrive on the pipe until it is closed."""
    # Imported here, because the main process needs neither torch nor Lightning.
    import torch
    from cell_training import quieten

    torch.set_num_threads(1)
    quieten()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            sys.exit()
        try:
            pipe.send(train_job(job))
        except BrokenPipeError:  # the main process was killed
            sys.exit()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, so that it is never incomplete, even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
