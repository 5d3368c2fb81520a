"""Settings for all tests and for the processes that they start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES, LANGUAGE, PAPER

# This must be set before torch is imported. The networks of the tests are so small that more
# threads only wait for each other, which takes minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Examples import modules from their own folder, as scripts do.
sys.path += [str(EXAMPLES), str(PAPER), str(LANGUAGE)]

# The files that take longest. They run first, so that no process waits for one of them at the end.
LONGEST = [
    "test_ray_sweeps.py",
    "test_pages.py",
    "test_distributed.py",
    "test_optuna_restart.py",
    "test_doors.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first."""
    positions = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: positions.get(item.path.name, len(positions)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` starts: one per core up to 4, or none for a single file.

    The tests of a single file often take less time than starting the processes. With more than four
    processes, the tests that start processes themselves would be slowed down.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(files.pop()).is_file():
        return 0
    return min(4, os.cpu_count() or 1)
