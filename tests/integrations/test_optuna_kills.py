"""Trials whose process was killed, and how the next process ends them.

To simulate a kill, a test stops using the reporter of a trial and continues with a new one.
`campaigns/killed_studies.py` kills real processes.
"""

import copy
import math
import re
from functools import partial

import numpy as np
import optuna
import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from lightning_sotl.integrations._optuna import restart
from lightning_sotl.integrations._optuna.storage import ask_pruner_again
from lightning_sotl.integrations.optuna import OptunaReporter, requeue_interrupted
from tests.support.helpers import door, loader, returned_epoch_losses, scripted_model, trainer
from tests.support.optuna_runs import (
    NEVER_PRUNES,
    LogsScore,
    PrunesFrom,
    PrunesOnlyAt,
    fit,
    storage,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")

LOSSES = {0: 4.28125, 1: 2.375, 2: 1.6302083730697632}  # of `scripted_loss`, in float32


def new_trial(folder, pruner, **options):
    return optuna.create_study(storage=storage("sqlite", folder), pruner=pruner, **options).ask()


def start(folder, trial, *callbacks, every="epoch", **options):
    """Fit a trial, from its newest checkpoint if there is one; return the reporter and the model.

    Args:
        folder: The folder of the checkpoint.
        trial: The trial.
        *callbacks: Further callbacks.
        every: "epoch" or "batch" to save after each epoch or 4 batches, None to save nothing.
        **options: Arguments of `fit`.
    """
    save = {"epoch": {}, "batch": {"every_n_train_steps": 4}}.get(every)
    callbacks = [*callbacks]
    if save is not None:
        callbacks.append(ModelCheckpoint(folder, "newest", enable_version_counter=False, **save))
    newest = folder / "newest.ckpt"
    options = {"max_epochs": 5, "enable_checkpointing": True, **options}
    return fit(
        folder,
        trial,
        *callbacks,
        ckpt_path=newest if newest.exists() else None,
        **options,
    )


def stopper(**options):
    return door().EarlyRankingStopper(**{"stop_epoch": 4, **options})


@pytest.mark.parametrize("stops", [True, False])
def test_a_pruned_trial_stays_pruned_after_several_kills(tmp_path, stops):
    trial = new_trial(tmp_path, PrunesFrom(1))
    for place in range(4):
        reporter, model = start(tmp_path, trial, *([stopper()] if stops else []))
        assert len(model.returned) == (0 if place else 8)
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()
    trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    (frozen,) = trial.study.trials
    assert frozen.intermediate_values == {0: LOSSES[0], 1: LOSSES[1]}
    assert frozen.value == LOSSES[1]


@pytest.mark.parametrize("stops", [True, False])
def test_a_pruned_trial_without_a_checkpoint_ends_at_the_same_step_again(tmp_path, stops):
    trial = new_trial(tmp_path, PrunesFrom(1))
    for _ in range(2):
        reporter, model = start(tmp_path, trial, *([stopper()] if stops else []), every=None)
        assert set(returned_epoch_losses(model)) == {0, 1}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


def test_a_trial_that_reached_its_limit_is_complete_even_if_the_pruner_would_end_it(tmp_path):
    trial = new_trial(tmp_path, PrunesFrom(1))
    for _ in range(4):
        reporter, _ = start(tmp_path, trial, stopper(stop_epoch=2))
    assert reporter.finish() == LOSSES[1]


def test_a_trial_that_was_stopped_by_a_policy_is_pruned_after_kills(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    policy_stopper = stopper()

    class Policy(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                policy_stopper.end_by_policy(trainer, 2)

    start(tmp_path, trial, policy_stopper, Policy())
    for _ in range(3):
        reporter, model = start(tmp_path, trial, stopper())
        assert model.returned == []
        with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
            reporter.finish()


def test_a_decision_that_min_epochs_delays_survives_a_kill(tmp_path):
    trial = new_trial(tmp_path, PrunesOnlyAt(0))
    start(tmp_path, trial, max_epochs=2, min_epochs=2)  # killed after the second epoch
    # `min_epochs` requires one more epoch.
    reporter, model = start(tmp_path, trial, min_epochs=3)
    assert set(returned_epoch_losses(model)) == {2}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 2\.$"):
        reporter.finish()


@pytest.mark.parametrize("every", ["epoch", None])
def test_a_report_that_was_not_judged_before_a_kill_is_judged_after_it(tmp_path, every):
    pruner = PrunesOnlyAt(1)
    trial = new_trial(tmp_path, pruner)
    start(tmp_path, trial, every=every, max_epochs=1)
    trial.report(LOSSES[1], 1)  # killed before the pruner was asked
    reporter, model = start(tmp_path, trial, every=every)
    assert pruner.asked == [0, 1]
    assert max(returned_epoch_losses(model)) == 1
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


def test_a_judged_report_is_not_judged_again(tmp_path):
    pruner = PrunesOnlyAt(None)
    trial = new_trial(tmp_path, pruner)
    start(tmp_path, trial, max_epochs=2)
    start(tmp_path, trial, max_epochs=4)
    assert pruner.asked == [0, 1, 2, 3]


def test_an_epoch_whose_end_lightning_does_not_repeat_is_reported_and_judged(tmp_path):
    """From a checkpoint of an epoch's last batch, Lightning resumes in the next epoch."""
    study = optuna.create_study(pruner=PrunesFrom(1))
    start(tmp_path, study.ask(), every="batch", max_epochs=2)  # saves such a checkpoint last
    trial = study.ask()
    trial.report(LOSSES[0], 0)
    reporter, model = start(tmp_path, trial, every="batch")
    assert model.returned == []
    assert study.trials[1].intermediate_values == {0: LOSSES[0], 1: LOSSES[1]}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4, reduction_factor=2),
    ],
)
def test_a_halving_pruner_repeats_its_answer(tmp_path, pruner):
    """Trials take turns, and many report a value that they have reported before."""
    answers = []
    study = optuna.create_study(storage=storage("journal", tmp_path), pruner=pruner)
    rng = np.random.default_rng(0)
    live = [(study.ask(), iter(range(5))) for _ in range(16)]
    while live:
        turn = rng.integers(len(live))
        trial, steps = live[turn]
        step = next(steps, None)
        if step is not None:
            trial.report(float(rng.integers(2)), step)
            answers.append(trial.should_prune())
            assert ask_pruner_again(trial) == answers[-1]
        if step is None or answers[-1]:
            del live[turn]
    assert set(answers) == {True, False}


def test_a_diverged_trial_reports_nothing_more_after_a_kill(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    model = partial(scripted_model, loss=lambda epoch, batch: math.nan)
    start(tmp_path, trial, model=model())
    reporter, trained = start(tmp_path, trial, model=model())
    assert trained.returned == []
    assert reporter.finish() == math.inf
    assert trial.study.trials[0].intermediate_values == {0: math.inf}


@pytest.mark.parametrize("budget", [2, 5])
def test_a_trial_keeps_the_value_of_its_own_metric_after_a_kill(tmp_path, budget):
    """With a budget of 2, Lightning resumes a run that has already ended."""
    trial = new_trial(tmp_path, NEVER_PRUNES, direction="maximize")
    newest = tmp_path / "newest.ckpt"
    for place in range(3):
        reporter = OptunaReporter(trial, monitor="score")
        saves = ModelCheckpoint(tmp_path, "newest", enable_version_counter=False)
        callbacks = [LogsScore(), stopper(stop_epoch=2, monitor="score"), reporter, saves]
        trainer(tmp_path, callbacks=callbacks, max_epochs=budget, enable_checkpointing=True).fit(
            scripted_model(val=True), loader(4), ckpt_path=newest if place else None
        )
    assert reporter.finish() == 101.0
    assert trial.study.trials[0].intermediate_values == {0: 100.0, 1: 101.0}


def test_checkpoints_of_trials_load_without_pickle(tmp_path):
    """Optuna's percentile pruners return a NumPy bool, which the state must not contain."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    first = study.ask()
    first.report(9.0, 0)
    study.tell(first, 9.0)
    start(tmp_path, study.ask(), max_epochs=1)
    saved = torch.load(tmp_path / "newest.ckpt", weights_only=True)
    (state,) = (saved["callbacks"][key] for key in saved["callbacks"] if "OptunaReporter" in key)
    assert state["pruned"] is False


def test_a_requeued_trial_is_found_again_if_its_process_dies_before_it_has_a_reporter(
    tmp_path, monkeypatch
):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    dead = "|".join([restart.own_identity().split("|")[0], "999999999", ""])
    trial.set_user_attr(restart.process_key(0), dead)
    monkeypatch.setattr(restart, "own_identity", lambda: f"{dead[:-1]}|also gone")
    monkeypatch.setattr(restart, "_CLAIM_SECONDS", 0.0)
    with monkeypatch.context() as killed:
        killed.setattr(restart, "requeue_trial", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            requeue_interrupted(trial.study)  # killed between its claim and the queue
    assert requeue_interrupted(trial.study) == [0]
    assert trial.study.ask().number == 0  # and the process was killed again
    assert requeue_interrupted(trial.study) == [0]


# --- libraries that train with copies of the callbacks


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_a_copied_reporter_reports_to_the_trial_itself(tmp_path, kind):
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=PrunesFrom(1))

    def objective(trial):
        callbacks = [door().SoTLMonitor(), OptunaReporter(trial)]
        copies = copy.deepcopy(callbacks)
        assert copies[1].trial is trial
        epochs = 5 if trial.number else 1
        trainer(tmp_path, callbacks=copies, max_epochs=epochs).fit(scripted_model(), loader(4))
        return callbacks[1].finish()

    study.optimize(objective, n_trials=2)
    complete, pruned = study.trials
    assert (complete.state.name, complete.value) == ("COMPLETE", LOSSES[0])
    assert (pruned.state.name, pruned.value) == ("PRUNED", LOSSES[1])
    assert pruned.intermediate_values == {0: LOSSES[0], 1: LOSSES[1]}


def test_a_reporter_has_the_results_of_the_copy_that_trained_last(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    reporter = OptunaReporter(trial)
    message = "The run ended before `sotl_e1` was available, so it has no value. This "
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}OptunaReporter was not in the"):
        copy.deepcopy(reporter).finish()
    for epochs in (1, 3):
        callbacks = [door().SoTLMonitor(), copy.deepcopy(copy.deepcopy(reporter))]
        trainer(tmp_path, callbacks=callbacks, max_epochs=epochs).fit(scripted_model(), loader(4))
        assert reporter.finish() == LOSSES[epochs - 1]
    assert reporter.finish() == LOSSES[2]
