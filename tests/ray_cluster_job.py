"""A sweep on two nodes, promoted from one to the other: run as a program, as its Ray leaves
clients behind that end the process when their server is gone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
import ray_jobs
from helpers import door, trainer
from ray import tune
from ray.cluster_utils import Cluster

from lightning_sotl.integrations.ray import promote

SCALES = {"bad": 2.0, "good": 1.0, "killed-later": 1.5}
COLUMNS = ["sotl_e1", "epochs_completed", "training_iteration"]


def run_config(folder: Path) -> tune.RunConfig:
    return tune.RunConfig(
        storage_path=str(folder),
        verbose=0,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        failure_config=tune.FailureConfig(max_failures=1),
    )


def found(results: tune.ResultGrid) -> dict[str, Any]:
    """Return what the trials have come to, by name."""
    trials = [results[place] for place in range(len(results))]
    return {
        result.config["name"]: {
            "error": str(result.error),
            "trial_id": result.metrics["trial_id"],
            "promoted_from": result.config.get("promoted_from"),
            "rows": result.metrics_dataframe[COLUMNS].values.tolist(),
        }
        for result in trials
    }


def never_stopped(folder: Path, scale: float) -> dict[int, float]:
    monitor = door().SoTLMonitor(record=False)
    run = trainer(folder, callbacks=monitor, max_epochs=ray_jobs.BUDGET)
    run.fit(ray_jobs.noisy_model(scale=scale), ray_jobs.noisy_loader())
    return monitor.epoch_losses


def main(folder: Path) -> None:
    head = {"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, resources={"second": 1})
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(address=cluster.address, runtime_env={"env_vars": paths}, log_to_driver=False)
    try:
        space = {"folder": str(folder), "name": tune.grid_search(list(SCALES)), "at": 3}
        space["scale"] = tune.sample_from(lambda config: SCALES[config["name"]])
        stopped = tune.Tuner(
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "first": 0.1}),
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=run_config(folder),
        ).fit()
        promoted = promote(
            stopped,
            2,
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "second": 0.1}),
            run_config=run_config(folder),
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    outcome = {
        "stopped": found(stopped),
        "promoted": found(promoted),
        "never_stopped": {name: never_stopped(folder, SCALES[name]) for name in SCALES},
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
