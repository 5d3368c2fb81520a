"""What a process that was killed leaves of a trial, and how the next process ends it.

A process that is killed at some moment is one that was not asked for more: these tests begin again
with another reporter for the same trial. `campaigns/killed_studies.py` kills real processes.
"""

import copy
import math
import re
from functools import partial

import optuna
import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from lightning_sotl.integrations._optuna import restart
from lightning_sotl.integrations._optuna.storage import ask_pruner_again
from lightning_sotl.integrations.optuna import OptunaReporter, requeue_interrupted
from tests.support.helpers import door, loader, returned_epoch_losses, scripted_model, trainer
from tests.support.optuna_runs import NEVER_PRUNES, fit, storage

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")

LOSSES = {0: 4.28125, 1: 2.375, 2: 1.6302083730697632}  # of `scripted_loss`, in float32


class AfterStep(optuna.pruners.BasePruner):
    """Prunes once a step was reported."""

    def __init__(self, step):
        self.step = step

    def prune(self, study, trial):
        return trial.last_step is not None and trial.last_step >= self.step


class LogsPerEpoch(Callback):
    """Logs 100 + e."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", 100.0 + trainer.current_epoch)


def new_trial(folder, pruner, **options):
    return optuna.create_study(storage=storage("sqlite", folder), pruner=pruner, **options).ask()


def again(folder, trial, *stoppers, every="epoch", **options):
    """Fit a trial from its newest checkpoint; return the reporter and the model."""
    save = {"epoch": {}, "batch": {"every_n_train_steps": 4}}.get(every)
    callbacks = [*stoppers]
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
def test_a_pruned_trial_is_pruned_after_any_number_of_kills(tmp_path, stops):
    trial = new_trial(tmp_path, AfterStep(1))
    for place in range(4):
        reporter, model = again(tmp_path, trial, *([stopper()] if stops else []))
        assert len(model.returned) == (0 if place else 8)
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()
    trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    (frozen,) = trial.study.trials
    assert frozen.intermediate_values == {0: LOSSES[0], 1: LOSSES[1]}
    assert frozen.value == LOSSES[1]


@pytest.mark.parametrize("stops", [True, False])
def test_a_pruned_trial_without_a_checkpoint_ends_where_the_pruner_ended_it(tmp_path, stops):
    trial = new_trial(tmp_path, AfterStep(1))
    for _ in range(2):
        reporter, model = again(tmp_path, trial, *([stopper()] if stops else []), every=None)
        assert set(returned_epoch_losses(model)) == {0, 1}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


def test_a_trial_that_reached_its_limit_is_complete_though_the_pruner_would_have_ended_it(tmp_path):
    trial = new_trial(tmp_path, AfterStep(1))
    for _ in range(4):
        reporter, _ = again(tmp_path, trial, stopper(stop_epoch=2))
    assert reporter.finish() == LOSSES[1]


def test_a_trial_of_the_stoppers_own_policy_is_pruned_after_kills(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    ends = stopper()

    class Policy(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                ends.end_by_policy(trainer, 2)

    again(tmp_path, trial, ends, Policy())
    for _ in range(3):
        reporter, model = again(tmp_path, trial, stopper())
        assert model.returned == []
        with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
            reporter.finish()


def test_a_decision_that_waits_for_lightnings_minimum_outlives_a_kill(tmp_path):
    class OnlyAtStep0(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.last_step == 0

    trial = new_trial(tmp_path, OnlyAtStep0())
    again(tmp_path, trial, max_epochs=2, min_epochs=2)  # a kill after the second epoch
    # Its second epoch is the last that it must train.
    reporter, model = again(tmp_path, trial, min_epochs=3)
    assert set(returned_epoch_losses(model)) == {2}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 2\.$"):
        reporter.finish()


@pytest.mark.parametrize("every", ["epoch", None])
def test_a_report_without_the_pruners_answer_is_decided_after_the_kill(tmp_path, every):
    asked = []

    class Asked(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            asked.append(trial.last_step)
            return trial.last_step == 1

    trial = new_trial(tmp_path, Asked())
    again(tmp_path, trial, every=every, max_epochs=1)
    trial.report(LOSSES[1], 1)  # and then the process was killed
    reporter, model = again(tmp_path, trial, every=every)
    assert asked == [0, 1]
    assert max(returned_epoch_losses(model)) == 1
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


def test_an_answered_report_is_not_asked_about_again(tmp_path):
    asked = []

    class Asked(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            asked.append(trial.last_step)
            return False

    trial = new_trial(tmp_path, Asked())
    again(tmp_path, trial, max_epochs=2)
    again(tmp_path, trial, max_epochs=4)
    assert asked == [0, 1, 2, 3]


def test_an_epoch_whose_end_lightning_does_not_repeat_is_reported_and_decided(tmp_path):
    """Lightning takes a checkpoint of an epoch's last batch for one between two epochs."""
    study = optuna.create_study(pruner=AfterStep(1))
    again(tmp_path, study.ask(), every="batch", max_epochs=2)  # ends with such a checkpoint
    trial = study.ask()
    trial.report(LOSSES[0], 0)
    reporter, model = again(tmp_path, trial, every="batch")
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
def test_a_halving_pruner_answers_again_as_it_did_at_first(tmp_path, pruner):
    answers = []
    study = optuna.create_study(storage=storage("sqlite", tmp_path), pruner=pruner)
    for level in (5, 4, 6, 3, 7, 2, 8, 1) * 3:
        trial, first = study.ask(), False
        for step in range(5):
            if not first:
                trial.report(level, step)
                first = trial.should_prune()
                assert ask_pruner_again(trial) == first
                answers.append(first)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert True in answers
    assert False in answers


def test_a_trial_that_diverged_from_its_start_reports_no_more_after_a_kill(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    model = partial(scripted_model, loss=lambda epoch, batch: math.nan)
    again(tmp_path, trial, model=model())
    reporter, trained = again(tmp_path, trial, model=model())
    assert trained.returned == []
    assert reporter.finish() == math.inf
    assert trial.study.trials[0].intermediate_values == {0: math.inf}


@pytest.mark.parametrize("budget", [2, 5])
def test_a_metric_of_the_module_has_its_value_after_a_kill(tmp_path, budget):
    """Also where T is the whole budget, so that Lightning resumes a run that is over."""
    trial = new_trial(tmp_path, NEVER_PRUNES, direction="maximize")
    newest = tmp_path / "newest.ckpt"
    for place in range(3):
        reporter = OptunaReporter(trial, monitor="score")
        saves = ModelCheckpoint(tmp_path, "newest", enable_version_counter=False)
        callbacks = [LogsPerEpoch(), stopper(stop_epoch=2, monitor="score"), reporter, saves]
        trainer(tmp_path, callbacks=callbacks, max_epochs=budget, enable_checkpointing=True).fit(
            scripted_model(val=True), loader(4), ckpt_path=newest if place else None
        )
    assert reporter.finish() == 101.0
    assert trial.study.trials[0].intermediate_values == {0: 100.0, 1: 101.0}


def test_a_value_that_the_study_has_is_kept_by_a_run_that_is_trained_anew(tmp_path):
    trial = new_trial(tmp_path, NEVER_PRUNES)
    fit(tmp_path, trial)
    with pytest.warns(UserWarning, match="The study has the value 4.28125 for this trial at"):
        reporter, _ = fit(tmp_path, trial, model=scripted_model(loss=lambda epoch, batch: 2.0))
    assert reporter.finish() == trial.study.trials[0].intermediate_values[2] == LOSSES[2]


def test_checkpoints_of_trials_load_without_pickle(tmp_path):
    """Optuna's percentile pruners answer with a bool of NumPy's."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    first = study.ask()
    first.report(9.0, 0)
    study.tell(first, 9.0)
    again(tmp_path, study.ask(), max_epochs=1)
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
            requeue_interrupted(trial.study)  # between its claim and the queue
    assert requeue_interrupted(trial.study) == [0]
    assert trial.study.ask().number == 0  # and then the process was killed
    assert requeue_interrupted(trial.study) == [0]


# --- libraries that train with copies of the callbacks


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_a_copied_reporter_reports_to_the_trial_itself(tmp_path, kind):
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=AfterStep(1))

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
