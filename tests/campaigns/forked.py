"""Runs in forked processes. Importing torch and Lightning takes seconds, a fork milliseconds.

The parent imports everything and computes nothing, because a fork would lose its threads.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PHASES = (
    "before the first step",
    "in a training step",
    "in a validation",
    "in a checkpoint's save",
    "in a write to the record",
    "between epochs",
    "at the run's end",
)


class Phase:
    """The current phase of a child, in memory that its parent can still read after a kill."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self, name: str) -> None:
        self._memory[0] = PHASES.index(name)

    def get(self) -> str:
        return PHASES[self._memory[0]]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        before = self._memory[0]
        self.set(name)
        yield
        self._memory[0] = before


def fork(function: Callable[[], Any], log: Path, **variables: str) -> int:
    """Start `function` in a child with these environment variables, with its output in `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.environ.update(variables)
        warnings.simplefilter("ignore")
        for name in ("pytorch_lightning", "lightning_sotl"):
            logging.getLogger(name).setLevel(logging.ERROR)
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """Wait for a child up to `seconds`; return its exit code (or -signal), or None if it runs."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(left, 0.005))


def kill(pid: int) -> int:
    """Kill a child and return its exit code. It may have ended before the kill."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
