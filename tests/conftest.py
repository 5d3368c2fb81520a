"""Settings of all tests, and of the processes that they start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES, PAPER

# Before torch is imported. The tests' networks are so small that more threads only wait for each
# other, for minutes where other programs want the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An example imports the modules beside it, as a script can.
sys.path += [str(EXAMPLES), str(PAPER)]

# The files that take longest. They come first, so that no process waits for one of them at the end.
LONGEST = [
    "test_ray_sweeps.py",
    "test_pages.py",
    "test_distributed.py",
    "test_optuna_restart.py",
    "test_doors.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` starts: one a core, but none for a single file.

    For one file the processes would take longer to start than the tests take. More than four
    would wait for the tests that start processes themselves.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(files.pop()).is_file():
        return 0
    return min(4, os.cpu_count() or 1)
