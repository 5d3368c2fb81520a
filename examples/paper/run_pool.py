"""Trains many runs in worker processes; each finished run is a small file that survives a kill."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from recipes import Recipe, Run
from tqdm import tqdm


class Job(NamedTuple):
    """A run to train and the file for what comes of it."""

    recipe: Recipe
    run: Run
    path: Path


def train_missing(jobs: Sequence[Job], *, workers: int) -> float:
    """Train the jobs whose files are not there yet, and show how far that is.

    The files appear whole or not at all, so after a kill only the runs in flight are trained again.

    Args:
        jobs: In the order in which they shall begin.
        workers: How many processes, each of one thread.

    Returns:
        The seconds that it took.

    Raises:
        RuntimeError: If a run fails or a worker dies; what was finished stays.
    """
    missing = [job for job in jobs if not job.path.exists()]
    since = time.perf_counter()
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="run", smoothing=0.05) as bar:
        for _ in _results(missing, min(workers, len(missing))):
            bar.update()
    return time.perf_counter() - since


def train_job(job: Job) -> str:
    """Train a run and write its file; return what went wrong, or nothing."""
    from cell_training import train_run

    try:
        write_whole(job.path, json.dumps(train_run(job.recipe, job.run)).encode())
    except Exception:
        return traceback.format_exc()
    return ""


def read_results(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Return what came of each job."""
    return [json.loads(job.path.read_text()) for job in jobs]


def _results(jobs: list[Job], workers: int) -> Iterable[None]:
    """Yield once a finished job."""
    todo = iter(jobs)
    context = get_context("spawn")
    with ExitStack() as stack:
        open_ends: dict[Connection, Job] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            # A daemon is ended with this process; one that was killed closes the pipe, which ends
            # the worker too.
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)
            _hand_out(ours, todo, open_ends)
        while open_ends:
            for end in wait(list(open_ends)):
                job = open_ends.pop(end)  # type: ignore[index]  # only connections are waited for
                check_answer(end, job)  # type: ignore[arg-type]
                yield
                _hand_out(end, todo, open_ends)  # type: ignore[arg-type]


def _hand_out(end: Connection, todo: Iterable[Job], open_ends: dict[Connection, Job]) -> None:
    for job in todo:
        end.send(job)
        open_ends[end] = job
        return


def check_answer(end: Connection, job: Job) -> None:
    """Raise a RuntimeError if a worker says that a run has failed, or says nothing any more."""
    try:
        failure = end.recv()
    except EOFError:
        failure = "The worker process has died."
    if failure:
        raise RuntimeError(f"{job.run} failed; a new start goes on from here. {failure}")


def _work(pipe: Connection) -> None:
    """Train what comes through the pipe until it is closed."""
    # Here, since the process that hands out the jobs needs neither torch nor Lightning.
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
        except BrokenPipeError:  # the builder was killed meanwhile
            sys.exit()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody, not even after a kill, sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
