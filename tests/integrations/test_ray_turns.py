"""Ray Tune trials that take turns, with a simulated controller."""

import logging
import math
import re

import numpy as np
import pytest
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher

from lightning_sotl import AdaptivePolicy
from lightning_sotl.integrations.ray import AdaptiveScheduler
from lightning_sotl.replay.policies.adaptive import named_adaptive
from lightning_sotl.replay.simulation import simulate
from tests.support.ray_turns import SimulatedTune

RUNS, EPOCHS = 12, 10


def curves(seed):
    """Return training and validation losses whose ranks change over the epochs."""
    generator = np.random.default_rng(seed)
    losses = np.cumsum(generator.normal(size=(RUNS, EPOCHS)), axis=1)
    return losses, losses + generator.normal(size=losses.shape)


def scheduler(**options):
    policy = AdaptivePolicy(max_epochs=EPOCHS, runs=RUNS, keep=0.5)
    return AdaptiveScheduler(policy, pause=True, **options)


def replayed_epochs(name, *tables):
    return simulate(named_adaptive(name), *tables, workers=1).epochs.tolist()


@pytest.mark.parametrize("workers", [1, 3, 12])
def test_trials_pause_and_resume_as_in_a_replay_of_adaptive_pause(workers):
    losses, validation = curves(workers)
    sweep = SimulatedTune(scheduler(), {"sotl_e1": losses}, workers=workers)
    expected = replayed_epochs("adaptive-keep0.5-pause", losses, None)
    assert sweep.run() == expected
    both = scheduler(growth=1.2, validation="val_acc", validation_mode="max")
    reports = {"sotl_e1": losses, "val_acc": -validation}
    expected = replayed_epochs("adaptive-keep0.5-pause1.2-both", losses, validation)
    assert SimulatedTune(both, reports, workers=workers).run() == expected


@pytest.mark.parametrize("seed", range(12))
def test_dead_workers_and_restarts_of_the_driver_do_not_change_the_sweep(seed):
    losses, validation = curves(seed)
    name = "adaptive-keep0.5-pause-both"
    options = {"validation": "val_loss", "validation_mode": "min"}
    sweep = SimulatedTune(
        scheduler(**options),
        {"sotl_e1": losses, "val_loss": validation},
        workers=3,
        seed=seed,
        faults=0.2,
        queue=1 + seed % 3,
    )
    restarts = 0
    for number in range(4000):
        if sweep.is_finished():
            break
        sweep.step()
        if number % 7 == seed % 7:
            sweep.restart()
            restarts += 1
    assert restarts > 2
    assert sweep.run() == replayed_epochs(name, losses, validation)
    assert sweep.paused <= {3, 4, 6, 9}


@pytest.mark.parametrize("seed", range(12))
def test_trials_that_fail_end_or_diverge_do_not_block_the_others(seed):
    generator = np.random.default_rng(seed)
    losses, _ = curves(seed)
    order = generator.permutation(RUNS)
    last = generator.integers(EPOCHS, size=RUNS)
    diverged, broken, ended = order[:2], order[2:5], order[5:8]
    for run in diverged:
        losses[run, last[run] :] = math.inf
    options = {
        "breaks": {run: last[run] for run in broken},
        "ends": {run: max(last[run], 1) for run in ended},
    }
    reached = SimulatedTune(scheduler(), {"sotl_e1": losses}, workers=1, **options).run()
    for run in range(RUNS):
        own = [last[run]] if run in broken else [max(last[run], 1)] if run in ended else []
        assert reached[run] in [3, 4, 6, 9, EPOCHS, *own]
    assert all(reached[run] <= max(last[run] + 3, 3) for run in diverged)
    disturbed = SimulatedTune(
        scheduler(), {"sotl_e1": losses}, seed=seed, workers=3, faults=0.2, **options
    )
    for number in range(200):
        if disturbed.is_finished():
            break
        disturbed.step()
        if number % 4 == 0:
            disturbed.restart()
    assert disturbed.run() == reached


def test_a_diverged_trial_of_a_restored_sweep_trains_to_the_first_rung():
    policy = AdaptivePolicy(max_epochs=EPOCHS, runs=1)
    losses = np.full((1, EPOCHS), math.inf)
    sweep = SimulatedTune(AdaptiveScheduler(policy, pause=True), {"sotl_e1": losses})
    sweep.step()
    sweep.restart()
    assert sweep.run() == [3]


def test_the_last_remaining_trial_trains_without_pauses():
    losses = np.tile(np.arange(1.0, RUNS + 1), (EPOCHS, 1)).T
    losses[:, 1:] += 0.01 * np.arange(EPOCHS - 1)
    sweep = SimulatedTune(scheduler(), {"sotl_e1": losses}, workers=1)
    assert sweep.run() == replayed_epochs("adaptive-keep0.5-pause", losses, None)
    assert sweep.resumed["trial_00000"] == [0, 3, 4]


def test_a_searcher_may_end_early():
    losses, _ = curves(3)
    sweep = SimulatedTune(scheduler(), {"sotl_e1": losses}, workers=2)
    sweep.can_add = lambda: len(sweep.trials) < 5
    sweep.search_alg.is_finished = lambda: len(sweep.trials) == 5
    sweep.runs = 5
    assert max(sweep.run()) == EPOCHS


def test_a_searcher_that_waits_for_results_is_refused():
    sweep = SimulatedTune(scheduler(), {"sotl_e1": curves(0)[0]})
    sweep.can_add = lambda: len(sweep.trials) < 5
    message = (
        "The search algorithm waits for the results of paused trials: it has added 5 of 12 trials. "
        "Use one that does not wait, or `pause=False`."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        sweep.run()


def test_a_wrong_number_of_trials_is_refused_before_any_trial_starts():
    sweep = SimulatedTune(scheduler(), {"sotl_e1": curves(0)[0]})
    sweep.search_alg.total_samples = 16
    message = "Expected `policy.runs` to be the number of trials, 16, but got 12."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sweep.step()


@pytest.mark.parametrize("limit", [4, 11, 12, 0, None])
@pytest.mark.parametrize("in_the_searcher", [True, False])
def test_a_limit_that_counts_paused_trials_is_refused(limit, in_the_searcher):
    sweep = SimulatedTune(scheduler(), {"sotl_e1": curves(0)[0]})
    if in_the_searcher:
        limiter = ConcurrencyLimiter(Searcher(), max_concurrent=limit or 1)
        limiter.max_concurrent = limit
        sweep.search_alg.searcher = limiter
    else:
        sweep.search_alg.max_concurrent = BasicVariantGenerator(max_concurrent=limit).max_concurrent
    if limit in (12, 0, None):
        sweep.step()
        return
    message = (
        f"Expected `max_concurrent_trials` to be None with `pause=True` but got {limit}: it counts "
        "paused trials, so the others would never start. Limit trials by their resources, with "
        "`tune.with_resources`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sweep.step()


def test_a_pause_without_a_checkpoint_is_refused():
    sweep = SimulatedTune(scheduler(), {"sotl_e1": curves(0)[0]}, checkpoint_every=2)
    message = (
        r"^Expected the report of trial 'trial_000\d\d' after epoch 3 to have a checkpoint, from "
        r"which it resumes after a pause. Use `RayReporter\(checkpoint_every=1\)`.$"
    )
    with pytest.raises(RuntimeError, match=message):
        sweep.run()


def test_the_messages_of_a_sweep_in_blocks_name_blocks(caplog):
    reports = {"sotl_b100_e1": curves(0)[0]}
    with caplog.at_level(logging.INFO):
        SimulatedTune(scheduler(metric="sotl_b100_e1"), reports).run()
    assert caplog.messages[0].startswith("Trials that continue to block 4: ")
    assert (
        scheduler(metric="sotl_b100_e1")
        .debug_string()
        .startswith("AdaptiveScheduler: to block 3, 0 trials stopped by ")
    )
    without = SimulatedTune(scheduler(metric="sotl_b100_e1"), reports, checkpoint_every=2)
    with pytest.raises(RuntimeError, match=r"^Expected the report .* after block 3 to have a chec"):
        without.run()


def test_an_epoch_that_reports_nan_counts_as_not_validated():
    losses, validation = curves(4)
    validation[:, ::2] = math.nan
    both = scheduler(validation="val_loss", validation_mode="min")
    sweep = SimulatedTune(both, {"sotl_e1": losses, "val_loss": validation})
    assert sweep.run() == replayed_epochs("adaptive-keep0.5-pause-both", losses, validation)


def test_a_scheduler_can_be_reused_for_another_sweep():
    losses, _ = curves(5)
    reused = scheduler()
    for _ in range(2):
        sweep = SimulatedTune(reused, {"sotl_e1": losses})
        assert sweep.run() == replayed_epochs("adaptive-keep0.5-pause", losses, None)
