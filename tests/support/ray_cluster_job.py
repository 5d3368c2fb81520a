"""A sweep on one node, promoted to another, which dies: run as a program, as its Ray leaves
clients behind that end the process when their server is gone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.cluster_utils import Cluster

from lightning_sotl.integrations.ray import promote
from tests.support import ray_jobs
from tests.support.helpers import door, trainer
from tests.support.ray_sweeps import rows, run_config

SCALES = {"bad": 2.0, "good": 1.0, "second-best": 1.5}


def retried(folder: Path) -> tune.RunConfig:
    """Return a new one for each sweep: Ray puts callbacks of its own into the list."""
    return run_config(
        folder,
        callbacks=[ray_jobs.AtNextCheckpoint()],
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
            "rows": rows(result),
        }
        for result in trials
    }


def never_stopped(folder: Path, scale: float) -> dict[int, float]:
    monitor = door().SoTLMonitor(record=False)
    run = trainer(folder, callbacks=monitor, max_epochs=ray_jobs.BUDGET)
    run.fit(ray_jobs.noisy_model(scale=scale), ray_jobs.noisy_loader())
    return monitor.epoch_losses


def start_cluster() -> tuple[Cluster, Callable[[Any], None]]:
    """Return two nodes, and what kills the second and adds one in its place."""
    # Ray's own settings wait for half a minute before they take a node for dead.
    impatient = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    head = {"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": impatient})
    second = cluster.add_node(num_cpus=1, resources={"second": 1})

    def lose_node(trial: Any) -> None:
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"second": 1})
        note = {"name": trial.config["name"], "epochs": trial.last_result["training_iteration"]}
        Path(trial.config["folder"], "lost.json").write_text(json.dumps(note))

    return cluster, lose_node


def main(folder: Path) -> None:
    cluster, lose_node = start_cluster()
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(address=cluster.address, runtime_env={"env_vars": paths}, log_to_driver=False)
    try:
        space = {"folder": str(folder), "name": tune.grid_search(list(SCALES)), "at": 3}
        space["scale"] = tune.sample_from(lambda config: SCALES[config["name"]])
        stopped = tune.Tuner(
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "first": 0.1}),
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=retried(folder),
        ).fit()
        ray_jobs.AtNextCheckpoint.act = lose_node
        promoted = promote(
            stopped,
            2,
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "second": 0.1}),
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=retried(folder),
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
