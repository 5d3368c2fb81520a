"""AdaptivePruner in real studies."""

import math
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from pytorch_lightning import Callback

from lightning_sotl import AdaptivePolicy
from lightning_sotl.integrations.optuna import AdaptivePruner, OptunaReporter
from tests.support.adaptive_rule import expected_epochs
from tests.support.helpers import door, loader, returned_epoch_losses, scripted_model, trainer
from tests.support.optuna_runs import storage

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # a promoted run has a new folder
]
POLICY = AdaptivePolicy(max_epochs=6)


def study_with(policy, **options):
    return optuna.create_study(
        pruner=AdaptivePruner(policy), sampler=RandomSampler(seed=0), **options
    )


def replay(study, curves):
    """Run each curve as a trial, one after another; return the number of epochs of each."""
    epochs = []
    for curve in curves:
        trial = study.ask()
        state = optuna.trial.TrialState.COMPLETE
        for step, value in enumerate(curve):
            trial.report(value, step)
            if trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        epochs.append(step + 1)
        study.tell(trial, None if state.name == "PRUNED" else curve[-1], state=state)
    return epochs


@pytest.mark.parametrize("sign", [1, -1])
def test_trials_are_pruned_by_the_policy_in_either_direction(sign):
    policy = AdaptivePolicy(max_epochs=12, keep=0.5, runs=30, first=2)
    curves = np.cumsum(np.random.default_rng(0).normal(size=(30, 12)), axis=1)
    study = study_with(policy, direction="minimize" if sign == 1 else "maximize")
    epochs = replay(study, sign * curves)
    assert epochs == expected_epochs(policy, curves)
    assert 1 < min(epochs) < max(epochs) == 12


def test_values_that_are_not_finite_rank_last():
    study = study_with(AdaptivePolicy(max_epochs=4, keep=0.5, first=2))
    good = [[1.0, 0.9, 0.8, 0.7], [1.1, 1.0, 0.9, 0.8]]
    assert replay(study, [*good, [0.5, math.nan, 0.1, 0.1], [0.5, math.inf, 0.1, 0.1]]) == [
        4,
        2,
        2,
        2,
    ]


def test_failed_and_running_trials_are_compared_at_the_steps_that_they_reported():
    policy = AdaptivePolicy(max_epochs=4, keep=0.5, first=2)
    study = study_with(policy)
    failed, running = study.ask(), study.ask()
    for trial in (failed, running):
        for step, value in enumerate([1.0 + trial.number, 1.0 + trial.number]):
            trial.report(value, step)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    assert replay(study, [[3.0, 3.0, 3.0, 3.0]]) == [2]
    running.report(0.5, 2)
    assert not running.should_prune()


def test_a_pruner_works_in_threads_in_another_study_and_after_pickling():
    policy = AdaptivePolicy(max_epochs=6, keep=0.5, first=2)
    curves = np.cumsum(np.random.default_rng(1).normal(size=(40, 6)), axis=1)
    first = study_with(policy)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda curve: replay(first, [curve]), curves))
    assert len(first.trials) == 40
    pruner = pickle.loads(pickle.dumps(first.pruner))  # noqa: S301
    for again in (first.pruner, pruner):
        other = optuna.create_study(pruner=again, sampler=RandomSampler(seed=0))
        assert replay(other, curves) == expected_epochs(policy, curves)


def test_a_study_of_the_same_name_in_another_storage_is_a_different_study():
    pruner = AdaptivePruner(AdaptivePolicy(max_epochs=6, keep=0.3, first=2))
    good_last = [[float(8 - run)] * 6 for run in range(8)]
    for curves in (good_last[::-1], good_last):
        study = optuna.create_study(study_name="same", pruner=pruner, sampler=RandomSampler(seed=0))
        assert replay(study, curves) == expected_epochs(pruner.policy, curves)


def test_threads_that_open_a_long_study_at_the_same_time_prune_their_trials():
    policy = AdaptivePolicy(max_epochs=6)
    study = study_with(policy)
    for number in range(300):
        values = dict.fromkeys(range(6), float(number))
        study.add_trial(optuna.trial.create_trial(value=float(number), intermediate_values=values))
    trials = [study.ask() for _ in range(4)]
    for trial in trials:
        for step in range(3):
            trial.report(float(trial.number), step)
    study.pruner = AdaptivePruner(policy)  # as in a new process, which has read nothing yet
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda trial: trial.should_prune(), trials)) == [True] * 4


def test_only_a_policy_is_accepted():
    with pytest.raises(
        TypeError, match=re.escape("Expected `policy` to be an AdaptivePolicy but got 10.")
    ):
        AdaptivePruner(10)


def test_a_pruned_run_is_recorded_with_its_checkpoint_and_can_be_promoted(tmp_path):
    policy = AdaptivePolicy(max_epochs=6, keep=0.5, first=2)
    study = study_with(policy)
    replay(study, [[0.1] * 6, [0.2] * 6])
    sotl = door()
    options = {"max_epochs": 6, "logger": True, "enable_checkpointing": True}

    def fit(callbacks, **kwargs):
        model = scripted_model()
        callbacks = [sotl.SoTLMonitor(), *callbacks]
        trainer(tmp_path, callbacks=callbacks, **options).fit(model, loader(4), **kwargs)
        return returned_epoch_losses(model)

    stopper = sotl.EarlyRankingStopper(stop_epoch=5)
    reporter = OptunaReporter(study.ask())
    losses = fit([reporter, stopper])
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()
    assert sorted(losses) == [0, 1]
    assert stopper.stopping_reason == "policy"
    assert (stopper.epochs_completed, stopper.estimate) == (2, pytest.approx(losses[1]))
    (record,) = tmp_path.rglob("sotl.jsonl")
    assert '"reason": "policy"' in record.read_text()
    assert stopper.checkpoint_path in record.read_text()
    promoted = sotl.EarlyRankingStopper(stop_epoch=5, promoted=True)
    rest = fit([promoted], ckpt_path=stopper.checkpoint_path)
    assert {**losses, **rest} == pytest.approx(fit([]))


def test_a_pruner_uses_the_validation_metric_that_a_reporter_stores(tmp_path):
    """The training losses alone would prune other trials, since they rank them the other way."""
    policy = AdaptivePolicy(max_epochs=4, keep=0.3, first=2)
    study = study_with(policy, storage=storage("journal", tmp_path))
    reached = []
    losses = [[6.0 - number] * 4 for number in range(6)]
    accuracies = [[0.9 - 0.1 * number] * 4 for number in range(5)] + [[0.1, math.nan, 0.1, 0.1]]
    for number in range(6):
        level = losses[number][0]
        model = scripted_model(loss=lambda epoch, batch, level=level: level, val=True)

        class Validates(Callback):
            def on_validation_epoch_end(self, run, module, values=accuracies[number]):
                self.log("val_acc", values[run.current_epoch])

        trial = study.ask()
        reporter = OptunaReporter(trial, validation="val_acc", validation_mode="max")
        callbacks = [door().SoTLMonitor(), reporter, Validates()]
        trainer(tmp_path, callbacks=callbacks, max_epochs=4).fit(model, loader(4))
        reached.append(len(returned_epoch_losses(model)))
        try:
            study.tell(trial, reporter.finish())
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    costs = np.nan_to_num(-np.array(accuracies, dtype=np.float32), nan=math.inf)
    assert reached == expected_epochs(policy, losses, costs.tolist())
    assert reached != expected_epochs(policy, losses)
    stored = study.trials[5].user_attrs["lightning_sotl:validation"]
    assert stored == {"0": pytest.approx(-0.1), "1": None, "2": pytest.approx(-0.1)}


@pytest.mark.parametrize("mode", ["up", None])
def test_a_validation_metric_needs_a_mode(mode):
    message = re.escape(f"Expected `validation_mode` to be 'min' or 'max' but got {mode!r}.")
    with pytest.raises(ValueError, match=f"^{message}$"):
        OptunaReporter(study_with(POLICY).ask(), validation="val_acc", validation_mode=mode)


def test_a_validation_metric_that_is_never_logged_causes_a_warning(tmp_path):
    reporter = OptunaReporter(study_with(POLICY).ask(), validation="val_ac", validation_mode="max")
    message = re.escape(
        "`validation='val_ac'` was never reported because no epoch logged it before its end; "
        "available: 'sotl', 'sotl_e1'."
    )
    run = trainer(tmp_path, callbacks=[door().SoTLMonitor(), reporter], max_epochs=2)
    with pytest.warns(UserWarning, match=f"^{message}$"):
        run.fit(scripted_model(), loader(4))
