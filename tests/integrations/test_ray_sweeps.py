"""Trials on a real local Ray."""

import dataclasses
import importlib
import json
import math
import re
import warnings
from pathlib import Path

import pytest
from ray import tune

from lightning_sotl import AdaptivePolicy
from lightning_sotl import Sweep as PausedSweep
from lightning_sotl.integrations.ray import AdaptiveScheduler, find_winners, promote
from tests.support import ray_jobs
from tests.support.helpers import PACKAGES, scripted_loss, trainer
from tests.support.ray_sweeps import ROWS, Sweep, contiguous, local_ray_running, rows, run_config

# Ray starts many processes, and each imports torch. This takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)
# Two sweeps share this list, as if they shared a RunConfig: Ray adds its own callbacks to it.
CALLBACKS = [tune.Callback()]
NETWORKS = [("mlp", ()), ("conv", (4,)), ("mlp", (8, 8)), ("conv", (16,)), ("mlp", (32,))]


@pytest.fixture(scope="module")
def local_ray():
    with local_ray_running():
        yield


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
            folder,
            stop=ray_stops,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=CALLBACKS,
        ),
    )
    return Sweep(folder, tuner.fit())


@pytest.mark.parametrize("name", ["stopped", "killed", "endless"])
def test_each_epoch_is_reported_once_in_any_callback_order_even_if_a_worker_dies(sweep, name):
    never_stopped = sweep.note("scenarios")["resumed"]["whole"]
    result, note = sweep.by_name[name], sweep.note(name)
    assert result.error is None
    assert note["epoch_losses"] == {
        e: loss for e, loss in never_stopped.items() if int(e) < (3 if name == "endless" else 2)
    }
    assert rows(result) == contiguous(note["epoch_losses"])
    assert (Path(result.checkpoint.path) / "checkpoint.ckpt").is_file()
    assert (sweep.folder / "killed.marker").exists()


def test_a_trial_that_ray_stops_runs_its_end_hooks_and_finalizes_its_logger(sweep):
    note = sweep.note("endless")
    assert note["stopped_by_ray"]
    assert note["seen"] == ["on_train_end", "success"]
    assert sweep.note("stopped") | {"node": None} == {
        "epoch_losses": sweep.note("killed")["epoch_losses"],
        "seen": ["on_train_end", "success"],
        "stopped_by_ray": False,
        "reason": "stop_epoch_reached",
        "promoted": False,
        "node": None,
    }


def test_a_trial_with_nan_losses_reports_infinity_and_ends_after_one_epoch(sweep):
    result = sweep.by_name["nan"]
    assert result.error is None
    assert rows(result) == [[math.inf, 1, 1]]
    assert sweep.note("nan")["seen"] == ["on_train_end", "success"]
    assert sweep.grid.get_best_result("sotl_e1", "min").config["name"] != "nan"


def epoch_loss(epoch):
    return sum(scripted_loss(epoch, batch) for batch in range(4)) / 4


def test_only_complete_new_values_are_reported(sweep):
    nan = math.nan
    found = sweep.by_name["scenarios"].metrics_dataframe
    columns = ["sotl_e1", "sotl_e2", "sotl_b2_e1", "val_loss", *ROWS[1:]]
    values = found[columns].iloc[:9].values.tolist()
    block = [
        sum(scripted_loss(b // 2, 2 * (b % 2) + batch) for batch in range(2)) / 2 for b in range(3)
    ]
    expected = [
        # 10 steps: the third epoch is incomplete
        [epoch_loss(0), nan, nan, nan, 1, 1],
        [epoch_loss(1), nan, nan, nan, 2, 2],
        # a window of two epochs
        [nan, epoch_loss(0) + epoch_loss(1), nan, nan, 2, 2],
        [nan, epoch_loss(1) + epoch_loss(2), nan, nan, 3, 3],
        # blocks of two batches; the iteration counts blocks
        [nan, nan, block[0], nan, 0, 1],
        [nan, nan, block[1], nan, 1, 2],
        [nan, nan, block[2], nan, 1, 3],
        # validation every second epoch
        [epoch_loss(1), nan, nan, 0.5, 2, 2],
        [epoch_loss(3), nan, nan, 0.5, 4, 4],
    ]
    for row, row_expected in zip(values, expected, strict=True):
        # The losses of the scripted model are float32.
        assert row == pytest.approx(row_expected, rel=1e-6, nan_ok=True)
    assert found["absent"].isna().all()
    assert found["checkpoint_dir_name"].notna().tolist() == [True] * 7 + [False] * 2 + [True] * 6
    assert sweep.note("scenarios")["blocks"]["batches"] == 6


def test_a_run_resumed_from_a_report_matches_an_uninterrupted_run(sweep):
    note = sweep.note("scenarios")["resumed"]
    assert len(note["whole"]) == 4
    assert note["resumed"] == note["whole"]  # dropout, shuffling, ReduceLROnPlateau
    assert note["rates"][0] == note["rates"][1] < 0.05
    resumed = sweep.by_name["scenarios"].metrics_dataframe[ROWS].iloc[13:].values.tolist()
    assert resumed == [[note["whole"]["2"], 3, 3], [note["whole"]["3"], 4, 4]]


@pytest.fixture(scope="module")
def adaptive(local_ray, tmp_path_factory):
    """A good trial, a bad trial, and a trial that raises in its second epoch, one at a time."""
    folder = tmp_path_factory.mktemp("adaptive")
    scales = {"good": 1.0, "bad": 2.0, "raises": 0.9}
    space = {"folder": str(folder), "name": tune.grid_search(list(scales))}
    space["stop_epoch"] = 4
    space["scale"] = tune.sample_from(lambda config: scales[config["name"]])
    tuner = tune.Tuner(
        ray_jobs.trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="sotl_e1",
            mode="min",
            scheduler=AdaptiveScheduler(AdaptivePolicy(max_epochs=4, keep=0.5, first=2)),
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=run_config(folder, name="interrupted"),
    )
    first = Sweep(folder, tuner.fit())
    errors = {name: result.error is not None for name, result in first.by_name.items()}
    restored = tune.Tuner.restore(str(folder / "interrupted"), ray_jobs.trial, resume_errored=True)
    return errors, Sweep(folder, restored.fit())


@pytest.mark.slow
def test_the_scheduler_stops_a_bad_trial_and_the_stopping_reason_is_policy(
    adaptive,
):
    _, sweep = adaptive
    assert len(sweep.by_name["good"].metrics_dataframe) == 4
    note = sweep.note("bad")
    assert rows(sweep.by_name["bad"]) == contiguous(note["epoch_losses"])
    assert (len(note["epoch_losses"]), note["stopped_by_ray"]) == (2, True)
    assert (note["reason"], sweep.note("good")["reason"]) == ("policy", "stop_epoch_reached")
    assert note["seen"] == ["on_train_end", "success"]


@pytest.mark.slow
def test_a_restored_sweep_resumes_a_failed_trial_from_its_last_report(adaptive):
    errors, sweep = adaptive
    assert errors == {"good": False, "raises": True, "bad": False}
    result, note = sweep.by_name["raises"], sweep.note("raises")
    assert result.error is None
    assert rows(result) == contiguous(note["epoch_losses"])
    assert len(note["epoch_losses"]) == 4


@pytest.mark.slow
def test_winners_are_the_best_finite_trials_at_the_stop_epoch(adaptive, sweep):
    _, finished = adaptive
    bad = finished.by_name["bad"].metrics["trial_id"]
    short = f"1 trial ended before T = 4 and cannot be compared: '{bad}'."
    with (
        pytest.warns(UserWarning, match=f"^{short}$") as caught,
        pytest.warns(UserWarning, match="^Expected 3 winners but there can be only 2: "),
    ):
        winners = find_winners(finished.grid, 3)
    assert caught[0].filename == __file__
    assert [winner.params["name"] for winner in winners] == ["raises", "good"]
    assert [w.estimate for w in winners] == sorted(w.estimate for w in winners)
    for winner in winners:
        assert Path(winner.checkpoint_path).is_file()
    with (
        pytest.warns(UserWarning, match="^3 trials ended before T = 4 and cannot be compared: "),
        pytest.warns(UserWarning, match="^Expected 9 winners but there can be only "),
    ):
        assert "nan" not in {w.params["name"] for w in find_winners(sweep.grid, 9)}


@pytest.mark.slow
def test_wrong_arguments_of_promote_are_refused(adaptive, sweep):
    _, finished = adaptive
    grid = finished.grid
    for k in (0, True, 1.5):
        with pytest.raises(
            (TypeError, ValueError), match=r"^Expected `k` to be a positive integer"
        ):
            promote(grid, k, ray_jobs.trial)
    message = (
        "None of the 3 trials has a finite `val_acc`, so there is none to promote. They report "
        "'sotl_e1'; pass one as `monitor`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        promote(grid, 1, ray_jobs.trial, monitor="val_acc")
    message = "Expected `mode` to be 'min' but got 'max': lower is better for 'sotl_e1'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        promote(grid, 1, ray_jobs.trial, mode="max")
    message = "Expected `tune_config` to have neither `num_samples` nor `search_alg`."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        promote(grid, 1, ray_jobs.trial, tune_config=tune.TuneConfig(num_samples=2))
    with pytest.raises(TypeError, match=r"^Expected `trainable` to be a function but got <class"):
        promote(grid, 1, tune.Trainable)
    message = (
        "Expected neither `tune_config` nor `run_config` with `restore`, because the sweep keeps "
        "those with which it started."
    )
    for ignored in ({"tune_config": tune.TuneConfig()}, {"run_config": tune.RunConfig()}):
        with pytest.raises(ValueError, match=f"^{message}$"):
            promote(grid, 1, ray_jobs.trial, restore="second", **ignored)


@pytest.mark.slow
def test_an_interrupted_promotion_resumes_each_trial_with_its_own_config(sweep, tmp_path):
    killed = sweep.by_name["killed"]
    config = {**killed.config, "only here": 1}
    killed = dataclasses.replace(killed, metrics={**killed.metrics, "config": config})
    stopped = [killed, sweep.by_name["stopped"]]
    trainable = ray_jobs.raise_once_after_promotion
    one_at_a_time = tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True)
    second = run_config(tmp_path, name="second", callbacks=CALLBACKS)
    broken = promote(stopped, 2, trainable, tune_config=one_at_a_time, run_config=second)
    assert [broken[i].error is None for i in range(2)] == [False, False]
    whole = promote(stopped, 2, trainable, restore=str(tmp_path / "second"))
    assert [whole[i].error for i in range(2)] == [None, None]
    for i in range(2):
        assert rows(whole[i], "epochs_completed", "training_iteration") == [[3, 3], [4, 4]]
    names = {
        name: json.loads((sweep.folder / f"raises-{name}-config.json").read_text())
        for name in ("killed", "stopped")
    }
    assert names["stopped"] == sorted(sweep.by_name["stopped"].config)
    assert names["killed"] == sorted([*names["stopped"], "only here"])


@pytest.mark.slow
def test_a_winner_without_a_checkpoint_is_refused(adaptive):
    _, finished = adaptive
    bare = dataclasses.replace(finished.by_name["good"], checkpoint=None)
    message = (
        f"Trial '{bare.metrics['trial_id']}' is among the best 1 and has no checkpoint to "
        "resume from: train it with a RayReporter with an integer `checkpoint_every`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_winners([bare], 1)


TURNS = {"good": 1.0, "killed": 1.1, "bad": 2.0, "broken": 3.0, "nan": math.nan, "second": 1.2}


@pytest.fixture(scope="module")
def turns(local_ray, tmp_path_factory):
    """Trials that take turns. One is killed in its second turn, and one fails until repaired."""
    folder = tmp_path_factory.mktemp("turns")
    space = {"folder": str(folder), "name": tune.grid_search(list(TURNS)), "stop": False}
    space["at"] = tune.sample_from(lambda config: 2 if config["name"] == "killed" else 1)
    space["scale"] = tune.sample_from(lambda config: TURNS[config["name"]])
    policy = AdaptivePolicy(max_epochs=ray_jobs.BUDGET, keep=0.7, first=2, runs=len(TURNS))
    tuner = tune.Tuner(
        ray_jobs.trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            scheduler=AdaptiveScheduler(policy, pause=True), reuse_actors=True
        ),
        run_config=run_config(
            folder, name="paused", failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
    first = Sweep(folder, tuner.fit())
    (folder / "repaired").touch()
    restored = tune.Tuner.restore(str(folder / "paused"), ray_jobs.trial, resume_errored=True)
    return first, Sweep(folder, restored.fit())


@pytest.mark.slow
def test_paused_trials_report_the_same_losses_as_the_runs_of_a_sweep(turns, tmp_path):
    paused, _ = turns
    policy = AdaptivePolicy(max_epochs=ray_jobs.BUDGET, keep=0.7, first=2)
    local = PausedSweep(tmp_path, [{"name": name} for name in TURNS], policy=policy)
    losses = {}

    def train(turn):
        name = turn.params["name"]
        run = trainer(tmp_path, callbacks=turn.callbacks, max_epochs=ray_jobs.BUDGET)
        fails = ray_jobs.raise_error if name == "broken" else None
        model = ray_jobs.noisy_model(scale=TURNS[name], fails=fails)
        turn.fit(run, model, ray_jobs.noisy_loader())
        losses[name] = {str(e): value for e, value in turn.monitor.epoch_losses.items()}

    assert local.run(train).params["name"] == "good"
    assert losses.pop("nan") == pytest.approx({"0": math.nan, "1": math.nan}, nan_ok=True)
    assert {name: rows(paused.by_name[name]) for name in losses} == {
        name: contiguous(found) for name, found in losses.items()
    }
    assert {len(found) for found in losses.values()} == {2, 3, 4}
    assert (paused.folder / "killed.marker").exists()
    assert {name for name, result in paused.by_name.items() if result.error} == {"broken"}
    assert rows(paused.by_name["nan"]) == [[math.inf, 1, 1]]


@pytest.mark.slow
def test_find_winners_does_not_warn_about_paused_trials(turns):
    paused, _ = turns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (winner,) = find_winners([paused.by_name[name] for name in ("good", "second", "bad")], 1)
    assert winner.params["name"] == "good"


@pytest.mark.slow
def test_a_restored_sweep_compares_a_repaired_trial_with_all_others(turns):
    paused, restored = turns
    broken = restored.by_name["broken"]
    assert broken.error is None
    assert len(rows(broken)) == 2  # without others to compare with, it would train to the end
    for name in set(TURNS) - {"broken", "nan"}:
        assert rows(restored.by_name[name]) == rows(paused.by_name[name])


@pytest.mark.slow
def test_the_paused_digits_sweep_has_the_same_table_and_pick_as_sweep(local_ray, tmp_path):
    digits, example = importlib.import_module("digits_sweep"), importlib.import_module("ray_sweep")

    def networks():
        return [example.Run(kind, widths, seed=len(widths)) for kind, widths in NETWORKS]

    training = digits.Training(digits.load_splits(), budget=5)
    expected = digits.take_turns(training, networks(), tmp_path / "sweep")
    outcome = example.take_turns(networks(), str(tmp_path), budget=5)
    table, expected_table = (
        [(run.name, run.epoch_losses, run.accuracies) for run in each.ranking]
        for each in (outcome, expected)
    )
    assert table == expected_table
    assert outcome.pick.name == expected.pick.name
    assert outcome.rungs == expected.rungs == [3, 4, 5]
    assert {len(losses) for _, losses, _ in table} > {5}


@pytest.mark.slow
def test_the_example_trains_its_best_ranked_run_to_the_end(local_ray, tmp_path, monkeypatch):
    example = importlib.import_module("ray_sweep")
    monkeypatch.setattr(example, "PROMOTED", 1)
    runs = [example.Run("mlp", (4,), seed=1), example.Run("conv", (16,), seed=2)]
    outcome = example.run_sweep(runs, str(tmp_path), stop_epoch=1, budget=2)
    first, last = outcome.ranking
    assert first.epoch_losses[0] < last.epoch_losses[0]
    assert outcome.pick is first
    assert [sorted(run.epoch_losses) for run in outcome.ranking] == [[0, 1], [0]]
    assert 0.1 < first.test_at_end <= 1.0
    assert [sorted(run.accuracies) for run in outcome.ranking] == [[0, 1], [0]]
