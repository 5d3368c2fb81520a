"""Ray Tune on a cluster of two nodes: trials are stopped on one and promoted on the other."""

import pytest
import ray
import ray_jobs
from helpers import door, trainer
from ray import tune
from ray.cluster_utils import Cluster
from test_integrations_ray import (
    QUIET,
    Sweep,
    collect_garbage,
    contiguous,
    rows,
    run_config,
    workers_import_this,
)

from lightning_sotl.integrations.ray import promote


@pytest.fixture
def two_nodes():
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, resources={"second": 1})
    quiet = {key: value for key, value in QUIET.items() if key != "include_dashboard"}
    ray.init(address=cluster.address, runtime_env=workers_import_this(), **quiet)
    yield
    ray.shutdown()
    cluster.shutdown()
    collect_garbage()


def never_stopped(folder, scale):
    monitor = door().SoTLMonitor(record=False)
    run = trainer(folder, callbacks=monitor, max_epochs=4)
    run.fit(ray_jobs.noisy_model(scale=scale), ray_jobs.noisy_loader())
    return {str(epoch): loss for epoch, loss in monitor.epoch_losses.items()}


def test_winners_go_on_from_the_storage_on_another_node_also_after_a_killed_worker(
    two_nodes, tmp_path
):
    scales = {"bad": 2.0, "good": 1.0, "killed-later": 1.5}
    space = {"folder": str(tmp_path), "name": tune.grid_search(list(scales)), "at": 3}
    space["scale"] = tune.sample_from(lambda config: scales[config["name"]])
    tuner = tune.Tuner(
        tune.with_resources(ray_jobs.trial, {"cpu": 1, "first": 0.1}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=run_config(tmp_path),
    )
    stopped = Sweep(tmp_path, tuner.fit())
    assert {result.metrics["training_iteration"] for result in stopped.by_name.values()} == {2}

    promoted = Sweep(
        tmp_path,
        promote(
            stopped.grid,
            2,
            tune.with_resources(ray_jobs.trial, {"cpu": 1, "second": 0.1}),
            run_config=run_config(tmp_path, failure_config=tune.FailureConfig(max_failures=1)),
        ),
    )
    assert set(promoted.by_name) == {"good", "killed-later"}
    assert (tmp_path / "killed-later.marker").exists()
    for name, result in promoted.by_name.items():
        before, after = stopped.note(name), promoted.note(f"promoted-{name}")
        assert result.error is None
        assert result.config["promoted_from"] == stopped.by_name[name].metrics["trial_id"]
        assert (before["promoted"], after["promoted"]) == (False, True)
        assert before["node"] != after["node"]
        # Epochs 1 and 2 were reported by the first sweep, 3 and 4 by the second.
        assert rows(stopped.by_name[name]) == contiguous(before["epoch_losses"])
        assert rows(result) == contiguous(after["epoch_losses"], first=3)
        assert len(after["epoch_losses"]) == 4
        assert after["epoch_losses"] == never_stopped(tmp_path, scales[name])
