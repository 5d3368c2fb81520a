"""A real local Ray and the results of its sweeps, for the tests of Ray Tune."""

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
    """Run a local Ray. Its workers can import this package, the tests and the examples.

    Start it only once: Ray takes seconds to start, and each worker takes more seconds.
    """
    paths = [str(ROOT), str(EXAMPLES)]
    worker_environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    with without_resource_warnings():
        # Without "local", `init` would join a cluster that it finds or found before.
        ray.init(address="local", num_cpus=2, runtime_env=worker_environment, **QUIET)
    yield
    with without_resource_warnings():
        ray.shutdown()
        gc.collect()  # so that no other test gets the warnings


@contextlib.contextmanager
def without_resource_warnings() -> Iterator[None]:
    """Ignore warnings about files and processes that Ray leaves open at its start and end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def run_config(folder: Path, **options: Any) -> tune.RunConfig:
    # With one kept checkpoint, Ray stores its table of results at each checkpoint.
    keep = tune.CheckpointConfig(num_to_keep=1)
    return tune.RunConfig(storage_path=str(folder), verbose=0, checkpoint_config=keep, **options)


def rows(result: Any, *names: str) -> list[list[Any]]:
    """Return the reports of a trial, by default the columns `ROWS`."""
    return result.metrics_dataframe[list(names or ROWS)].values.tolist()


def contiguous(losses: dict[str, float]) -> list[list[float]]:
    """Return the rows of a trial that reported each of these epochs once."""
    return [[losses[str(e - 1)], e, e] for e in range(1, len(losses) + 1)]


class Sweep:
    """The results of a sweep by trial name, and the notes that the trials wrote."""

    def __init__(self, folder: Path, results: tune.ResultGrid) -> None:
        self.folder = folder
        self.grid = results
        self.by_name = {results[i].config["name"]: results[i] for i in range(len(results))}

    def note(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())
