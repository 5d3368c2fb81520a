"""Ray Tune: real trials on a real local Ray, and on a cluster of two nodes."""

import gc
import json
import logging
import math
import os
import re
import warnings
from pathlib import Path

import pytest
import ray
import ray_jobs
from helpers import PACKAGES, loader, scripted_loss, scripted_model, trainer
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.schedulers import ASHAScheduler

from lightning_sotl.integrations.ray import RayReporter, find_winners, promote, starting_point

QUIET = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": False,
}
ROWS = ["sotl_e1", "epochs_completed", "training_iteration"]


@pytest.fixture(scope="module")
def local_ray():
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    ray.init(num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": path}}, **QUIET)
    yield
    ray.shutdown()
    collect_garbage()


def collect_garbage():
    """Have Ray's forgotten files closed here, and not in another test: it leaves some open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def run_config(folder, **options):
    # One kept checkpoint has Ray write its table of results to the storage at each of them.
    keep = tune.CheckpointConfig(num_to_keep=1)
    return tune.RunConfig(
        storage_path=str(folder), verbose=0, checkpoint_config=keep, **options
    )


def rows(result, *names):
    return result.metrics_dataframe[list(names or ROWS)].values.tolist()


def contiguous(losses, first=1):
    return [[losses[str(e - 1)], e, e] for e in range(first, len(losses) + 1)]


class Sweep:
    def __init__(self, folder, results):
        self.folder = folder
        self.grid = results
        self.by_name = {results[i].config["name"]: results[i] for i in range(len(results))}

    def note(self, name):
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def sweep(local_ray, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")

    def ray_stops(trial_id, result):
        return result["config"]["name"] == "endless" and result["training_iteration"] == 3

    names = ["scenarios", "killed", "stopped", "nan", "endless"]
    space = {"folder": str(folder), "name": tune.grid_search(names)}
    space["stop"] = tune.sample_from(lambda config: config["name"] != "endless")
    space["package"] = tune.sample_from(lambda config: PACKAGES[config["name"] == "stopped"])
    tuner = tune.Tuner(
        ray_jobs.trial,
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=run_config(
            folder, stop=ray_stops, failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
    return Sweep(folder, tuner.fit())


def test_a_trial_that_stops_at_t_reports_each_epoch_once_and_has_a_checkpoint_of_t(sweep):
    result, note = sweep.by_name["stopped"], sweep.note("stopped")
    assert result.error is None
    assert rows(result) == contiguous(note["epoch_losses"])
    assert len(note["epoch_losses"]) == 2
    assert (Path(result.checkpoint.path) / "checkpoint.ckpt").is_file()
    assert note["seen"] == ["on_train_end", "success"]
    assert not note["stopped_by_ray"]


def test_x(sweep):
    for r in sweep.by_name.values():
        print(r.config["name"], r.error, r.metrics_dataframe)
        if r.path: print(*[p.read_text()[-2000:] for p in Path(r.path).glob("error.txt")])
    for f in sweep.folder.glob("*.json"): print(f.name, f.read_text())
    assert 0
