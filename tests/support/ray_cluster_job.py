"""Run sweeps on a cluster while its second node dies.

This is a separate program because Ray leaves clients behind that end their process when the server
is gone. The first sweep trains on the first node, and its winners are promoted on the second. The
trials of the other sweep take turns on the second node.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.cluster_utils import Cluster

from lightning_sotl import AdaptivePolicy
from lightning_sotl.integrations.ray import AdaptiveScheduler, promote
from tests.support import ray_jobs
from tests.support.helpers import door, trainer
from tests.support.ray_sweeps import rows, run_config

SCALES = {"bad": 2.0, "good": 1.0, "second-best": 1.5}


def retrying_run_config(folder: Path) -> tune.RunConfig:
    """Return a new RunConfig, because Ray adds its own callbacks to the list."""
    return run_config(
        folder,
        callbacks=[ray_jobs.AtNextCheckpoint()],
        failure_config=tune.FailureConfig(max_failures=1),
    )


def results_by_name(results: tune.ResultGrid) -> dict[str, Any]:
    """Return the results of the trials by name."""
    trials = [results[i] for i in range(len(results))]
    return {
        result.config["name"]: {
            "error": str(result.error),
            "trial_id": result.metrics["trial_id"],
            "promoted_from": result.config.get("promoted_from"),
            "rows": rows(result),
        }
        for result in trials
    }


def uninterrupted_losses(folder: Path, scale: float) -> dict[int, float]:
    """Train to the end without Ray, and return the loss of each epoch."""
    monitor = door().SoTLMonitor(record=False)
    run = trainer(folder, callbacks=monitor, max_epochs=ray_jobs.BUDGET)
    run.fit(ray_jobs.noisy_model(scale=scale), ray_jobs.noisy_loader())
    return monitor.epoch_losses


class SecondNode:
    """A cluster with two nodes. The second node can be killed and replaced."""

    def __init__(self) -> None:
        # By default, Ray waits for half a minute before it declares a node dead.
        fast_health_checks = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        head = {"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": fast_health_checks}
        )
        self.node = self.add()

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, resources={"second": 1})

    def replace(self, trial: Any) -> None:
        """Kill the second node, add another, and store the trial that was training on it."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.add()
        note = {"name": trial.config["name"], "epochs": trial.last_result["training_iteration"]}
        Path(trial.config["folder"], "lost.json").write_text(json.dumps(note))


def take_turns(folder: Path, second: SecondNode) -> tune.ResultGrid:
    """Let trials take turns on the second node, which dies in the second turn of a trial."""
    folder.mkdir()

    def at_epoch_three(trial: Any) -> None:
        if trial.last_result["training_iteration"] == 3:
            second.replace(trial)
        else:
            ray_jobs.AtNextCheckpoint.act = at_epoch_three

    ray_jobs.AtNextCheckpoint.act = at_epoch_three
    policy = AdaptivePolicy(max_epochs=ray_jobs.BUDGET, first=2, runs=len(SCALES))
    return tune.Tuner(
        tune.with_resources(ray_jobs.trial, {"cpu": 1, "second": 0.1}),
        param_space={**space(folder), "stop": False},
        tune_config=tune.TuneConfig(
            scheduler=AdaptiveScheduler(policy, pause=True), reuse_actors=True
        ),
        run_config=retrying_run_config(folder),
    ).fit()


def space(folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "name": tune.grid_search(list(SCALES)),
        "at": 3,
        "scale": tune.sample_from(lambda config: SCALES[config["name"]]),
    }


def main(folder: Path) -> None:
    second = SecondNode()
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(address=second.cluster.address, runtime_env={"env_vars": paths}, log_to_driver=False)
    try:
        stopped = tune.Tuner(
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "first": 0.1}),
            param_space=space(folder),
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=retrying_run_config(folder),
        ).fit()
        ray_jobs.AtNextCheckpoint.act = second.replace
        promoted = promote(
            stopped,
            2,
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "second": 0.1}),
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=retrying_run_config(folder),
        )
        in_turns = take_turns(folder / "turns", second)
    finally:
        ray.shutdown()
        second.cluster.shutdown()
    outcome = {
        "stopped": results_by_name(stopped),
        "promoted": results_by_name(promoted),
        "in_turns": results_by_name(in_turns),
        "never_stopped": {name: uninterrupted_losses(folder, SCALES[name]) for name in SCALES},
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
