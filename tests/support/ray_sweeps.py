"""A real local Ray, and what its sweeps have come to, for the tests of Ray Tune."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from tests.support.paths import EXAMPLES, ROOT

QUIET = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": False,
}
ROWS = ["sotl_e1", "epochs_completed", "training_iteration"]


@contextlib.contextmanager
def local_ray_running() -> Iterator[None]:
    """Run Ray, whose workers can import this package, the tests and the examples.

    It takes seconds to start, and each of its workers more: start it once.
    """
    paths = [str(ROOT), str(EXAMPLES)]
    workers_import_this = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    with without_resource_warnings():
        # "local": a bare `init` would join a cluster that it finds, or has found before.
        ray.init(address="local", num_cpus=2, runtime_env=workers_import_this, **QUIET)
    yield
    with without_resource_warnings():
        ray.shutdown()
        gc.collect()  # here, and not in another test


@contextlib.contextmanager
def without_resource_warnings() -> Iterator[None]:
    """Let Ray leave files open, and processes running, when it begins and when it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def run_config(folder: Path, **options: Any) -> tune.RunConfig:
    # One kept checkpoint has Ray write its table of results to the storage at each of them.
    keep = tune.CheckpointConfig(num_to_keep=1)
    return tune.RunConfig(storage_path=str(folder), verbose=0, checkpoint_config=keep, **options)


def rows(result: Any, *names: str) -> list[list[Any]]:
    """Return what a trial has reported, by default in the columns of `ROWS`."""
    return result.metrics_dataframe[list(names or ROWS)].values.tolist()


def contiguous(losses: dict[str, float]) -> list[list[float]]:
    """Return the rows of a trial that has reported each of these epochs once."""
    return [[losses[str(e - 1)], e, e] for e in range(1, len(losses) + 1)]


class Sweep:
    """The results of a sweep by the names of its trials, and what the trials have noted."""

    def __init__(self, folder: Path, results: tune.ResultGrid) -> None:
        self.folder = folder
        self.grid = results
        self.by_name = {results[i].config["name"]: results[i] for i in range(len(results))}

    def note(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())
