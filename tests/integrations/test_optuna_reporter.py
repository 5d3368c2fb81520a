"""Real runs that report SoTL-E to an Optuna trial."""

import math
import re
from pathlib import Path

import optuna
import pytest
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from lightning_sotl.integrations import optuna as for_pytorch_lightning
from tests.support.helpers import (
    PACKAGES,
    door,
    loader,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)
from tests.support.optuna_runs import (
    NEVER_PRUNES,
    LogsScore,
    PrunesFrom,
    PrunesOnlyAt,
    fit,
    storage,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


@pytest.mark.parametrize("reporter_first", [True, False])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
@pytest.mark.parametrize("package", PACKAGES)
def test_each_epoch_is_reported_once_at_its_own_step(tmp_path, package, kind, reporter_first):
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=NEVER_PRUNES)
    trial = study.ask()
    reporter, model = fit(tmp_path, trial, package=package, reporter_first=reporter_first)
    value = reporter.finish()
    study.tell(trial, value)
    expected = returned_epoch_losses(model)
    assert study.trials[0].intermediate_values == pytest.approx(expected, rel=1e-12)
    assert study.trials[0].value == value == pytest.approx(expected[2], rel=1e-12)


def test_a_pruned_run_ends_without_an_exception_in_fit_and_finish_raises(tmp_path):
    study = optuna.create_study(pruner=PrunesFrom(1))
    reporter, model = fit(tmp_path, study.ask(), max_epochs=5)
    assert set(returned_epoch_losses(model)) == {0, 1}
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 1\.$"):
        reporter.finish()


def test_a_run_that_reached_its_limit_is_complete_and_stores_its_checkpoint(tmp_path):
    study = optuna.create_study(pruner=PrunesFrom(1))
    trial = study.ask()
    stopper = door().EarlyRankingStopper(stop_epoch=2)
    reporter, _ = fit(tmp_path, trial, stopper, max_epochs=5, enable_checkpointing=True)
    assert reporter.finish() == stopper.estimate == 2.375
    path = trial.user_attrs["lightning_sotl:checkpoint_path"]
    assert path == stopper.checkpoint_path
    assert Path(path).is_file()


def test_a_resumed_run_reports_no_epoch_twice(tmp_path):
    study = optuna.create_study(pruner=NEVER_PRUNES)
    trial = study.ask()
    stopper = door().EarlyRankingStopper(stop_epoch=2)
    fit(tmp_path, trial, stopper, enable_checkpointing=True)
    reporter, model = fit(
        tmp_path,
        trial,
        door().EarlyRankingStopper(stop_epoch=2, promoted=True),
        enable_checkpointing=True,
        ckpt_path=stopper.checkpoint_path,
    )
    reporter.finish()
    assert set(returned_epoch_losses(model)) == {2}
    assert sorted(study.trials[0].intermediate_values) == [0, 1, 2]


def test_a_stopped_trial_that_is_still_running_in_the_study_keeps_its_value_on_a_restart(tmp_path):
    study = optuna.create_study(storage=storage("sqlite", tmp_path), pruner=NEVER_PRUNES)
    trial = study.ask()
    stopper = door().EarlyRankingStopper(stop_epoch=2)
    fit(tmp_path, trial, stopper, enable_checkpointing=True)
    reporter, model = fit(
        tmp_path,
        trial,
        door().EarlyRankingStopper(stop_epoch=2),
        enable_checkpointing=True,
        ckpt_path=stopper.checkpoint_path,
    )
    assert model.returned == []
    assert reporter.finish() == stopper.estimate == 2.375
    assert trial.user_attrs["lightning_sotl:checkpoint_path"] == stopper.checkpoint_path


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_a_run_that_diverges_in_its_first_epoch_ends_there_with_the_value_infinity(tmp_path, kind):
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=NEVER_PRUNES)
    trial = study.ask()
    model = scripted_model(loss=lambda epoch, batch: math.nan)
    reporter, _ = fit(tmp_path, trial, model=model, max_epochs=5)
    study.tell(trial, reporter.finish())
    assert len(model.returned) == 4
    (frozen,) = study.trials
    assert (frozen.state.name, frozen.value) == ("COMPLETE", math.inf)
    assert frozen.intermediate_values == {0: math.inf}


def test_blocks_are_reported_at_their_index_and_pruned_between_blocks(tmp_path):
    study = optuna.create_study(pruner=PrunesFrom(2))
    trial = study.ask()
    reporter = for_pytorch_lightning.OptunaReporter(trial, monitor="sotl_b3_e1")
    monitor = door().SoTLMonitor(every_n_train_batches=3)
    model = scripted_model()
    trainer(tmp_path, callbacks=[reporter, monitor], max_epochs=9).fit(model, loader(4))
    losses = [value for _, _, value in model.returned]
    assert len(losses) == 9  # blocks cross the border between epochs, and none is cut
    expected = {block: sum(losses[3 * block : 3 * block + 3]) / 3 for block in range(3)}
    assert study.trials[0].intermediate_values == pytest.approx(expected, rel=1e-12)
    with pytest.raises(optuna.TrialPruned, match=r"^Pruned after step 2\.$"):
        reporter.finish()


def test_a_run_of_a_fixed_trial_ends_and_returns_its_value(tmp_path):
    reporter, model = fit(tmp_path, optuna.trial.FixedTrial({"width": 4}))
    assert reporter.finish() == pytest.approx(returned_epoch_losses(model)[2], rel=1e-12)


def test_studies_that_cannot_rank_by_the_estimate_are_refused():
    message = (
        "Expected a study with one objective but got 2: Optuna cannot prune trials with several "
        "objectives. Return `stopper.estimate` as one of the objectives instead."
    )
    two = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        for_pytorch_lightning.OptunaReporter(two.ask())
    message = (
        "Expected a study with direction='minimize' but got 'maximize': lower is better for "
        "monitor='sotl_e1'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        for_pytorch_lightning.OptunaReporter(optuna.create_study(direction="maximize").ask())


@pytest.mark.parametrize(("epochs", "last"), [(2, 2.0), (3, 1.6302083730697632)])
def test_a_trial_that_starts_again_without_a_checkpoint_keeps_its_first_reports(
    tmp_path, epochs, last
):
    study = optuna.create_study(pruner=NEVER_PRUNES)
    trial = study.ask()
    fit(tmp_path, trial, max_epochs=epochs)
    message = "The study has the value 4.28125 for this trial at step 0, but the run now has 2"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}: it did not resume from the"):
        reporter, _ = fit(tmp_path, trial, model=scripted_model(loss=lambda epoch, batch: 2.0))
    assert study.trials[0].intermediate_values == {0: 4.28125, 1: 2.375, 2: last}
    assert reporter.finish() == last


def test_a_metric_is_reported_only_in_the_epochs_in_which_it_is_logged(tmp_path):
    study = optuna.create_study(direction="maximize", pruner=NEVER_PRUNES)
    reporter = for_pytorch_lightning.OptunaReporter(study.ask(), monitor="score")
    trainer(
        tmp_path, callbacks=[LogsScore(), reporter], max_epochs=5, check_val_every_n_epoch=2
    ).fit(scripted_model(val=True), loader(4))
    assert study.trials[0].intermediate_values == {1: 101.0, 3: 103.0}
    assert reporter.finish() == 103.0


def test_a_metric_that_is_logged_at_the_end_of_an_epoch_is_not_reported_at_a_wrong_step(tmp_path):
    model = scripted_model()
    model.on_train_epoch_end = lambda: model.log("score", 100.0 + model.current_epoch)
    study = optuna.create_study(direction="maximize", pruner=NEVER_PRUNES)
    reporter = for_pytorch_lightning.OptunaReporter(study.ask(), monitor="score")
    message = (
        "`monitor='score'` was never reported because training and validation steps do not log it; "
        "available: 'score'."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        trainer(tmp_path, callbacks=[reporter], max_epochs=4).fit(model, loader(4))
    assert caught.pop(UserWarning).filename == __file__  # where `fit` is called
    assert study.trials[0].intermediate_values == {}
    assert reporter.finish() == 103.0


def test_a_run_that_diverges_late_is_complete_even_if_it_was_pruned(tmp_path):
    study = optuna.create_study(pruner=PrunesFrom(2))
    model = scripted_model(loss=lambda epoch, batch: math.nan if epoch else 1.0)
    reporter, _ = fit(tmp_path, study.ask(), model=model, max_epochs=6)
    assert study.trials[0].intermediate_values == {0: 1.0, 1: math.inf, 2: math.inf}
    assert reporter.finish() == math.inf


@pytest.mark.parametrize("order", [1, -1], ids=["pruning callback first", "monitor first"])
def test_optunas_own_callback_reports_each_epoch_at_its_step(tmp_path, order):
    from optuna_integration import PyTorchLightningPruningCallback

    study = optuna.create_study(pruner=NEVER_PRUNES)
    pruning = PyTorchLightningPruningCallback(study.ask(), monitor="sotl_e1")
    callbacks = [pruning, door(PACKAGES[1]).SoTLMonitor()][::order]
    model = scripted_model(PACKAGES[1], val=True)
    trainer(tmp_path, PACKAGES[1], callbacks=callbacks).fit(model, loader(4))
    expected = returned_epoch_losses(model)
    assert study.trials[0].intermediate_values == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("options", "epochs"), [({"min_epochs": 3}, 3), ({"min_steps": 6}, 2)])
def test_a_pruned_run_trains_to_lightnings_minimum_and_to_the_end_of_its_epoch(
    tmp_path, options, epochs
):
    pruner = PrunesOnlyAt(0)
    reporter = for_pytorch_lightning.OptunaReporter(optuna.create_study(pruner=pruner).ask())
    model = scripted_model()
    trainer(tmp_path, callbacks=[door().SoTLMonitor(), reporter], max_epochs=6, **options).fit(
        model, loader(4)
    )
    assert len(model.returned) == 4 * epochs
    assert pruner.asked[0] == 0
    with pytest.raises(optuna.TrialPruned, match=rf"^Pruned after step {epochs - 1}\.$"):
        reporter.finish()


def test_a_trainer_without_a_monitor_is_refused(tmp_path):
    reporter = for_pytorch_lightning.OptunaReporter(optuna.create_study().ask())
    message = (
        "Expected `monitor` to be a metric that this Trainer logs but got 'sotl_e1'. A SoTLMonitor "
        "logs it, but this Trainer has no SoTLMonitor."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        trainer(tmp_path, callbacks=[reporter], max_epochs=1).fit(scripted_model(), loader(4))


def test_finish_raises_if_the_run_has_no_value_or_the_reporter_had_no_trainer(tmp_path):
    study = optuna.create_study(pruner=NEVER_PRUNES)
    message = "The run ended before `sotl_e1` was available, so it has no value."
    monitor, reporter = door().SoTLMonitor(), for_pytorch_lightning.OptunaReporter(study.ask())
    trainer(tmp_path, callbacks=[reporter, monitor], max_steps=2).fit(scripted_model(), loader(4))
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        reporter.finish()
    unused = for_pytorch_lightning.OptunaReporter(study.ask())
    message += " This OptunaReporter was not in the callbacks of a Trainer."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        unused.finish()


@pytest.mark.parametrize("already_reported", [False, True])
def test_a_validation_inside_an_epoch_is_stored_once_with_the_block_before_it(
    tmp_path, already_reported
):
    class Validates(Callback):
        def __init__(self):
            self.logged = []

        def on_validation_epoch_end(self, run, module):
            self.logged.append(0.5 + len(self.logged))
            self.log("val_acc", self.logged[-1])

    trial = optuna.create_study(pruner=NEVER_PRUNES).ask()
    losses = {b: (scripted_loss(0, 2 * b) + scripted_loss(0, 2 * b + 1)) / 2 for b in range(5)}
    for block, loss in losses.items() if already_reported else ():
        trial.report(loss, block)
    reporter = for_pytorch_lightning.OptunaReporter(trial, "sotl_b2_e1", "val_acc", "max")
    validates = Validates()
    callbacks = [reporter, validates, door().SoTLMonitor(every_n_train_batches=2)]
    options = {"max_epochs": 1, "val_check_interval": 4, "limit_train_batches": 10}
    trainer(tmp_path, callbacks=callbacks, **options).fit(scripted_model(val=True), loader(10))
    assert validates.logged == [0.5, 1.5]  # after 4 and 8 batches
    assert trial.user_attrs["lightning_sotl:validation"] == {"1": -0.5, "3": -1.5}
    assert trial.study.trials[0].intermediate_values == pytest.approx(losses)
    assert reporter.finish() == pytest.approx(losses[4])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_run_without_losses_is_refused_after_its_first_block(tmp_path):
    steps = []
    model = scripted_model(loss=lambda epoch, batch: steps.append(batch))
    monitor = door().SoTLMonitor(every_n_train_batches=2)
    reporter = for_pytorch_lightning.OptunaReporter(optuna.create_study().ask(), "sotl_b2_e1")
    message = "`monitor='sotl_b2_e1'` cannot have a value because no training step returned a loss."
    with (
        pytest.warns(UserWarning, match="^None of the 2 steps of block 0 returned a loss"),
        pytest.raises(RuntimeError, match=f"^{re.escape(message)}"),
    ):
        trainer(tmp_path, callbacks=[monitor, reporter], max_epochs=1).fit(model, loader(9))
    assert steps == [0, 1]


def test_a_metric_of_a_run_without_a_complete_epoch_is_not_reported(tmp_path):
    reporter = for_pytorch_lightning.OptunaReporter(optuna.create_study().ask(), "val_loss")
    options = {"max_epochs": 1, "max_steps": 6, "val_check_interval": 2}
    message = (
        "`monitor='val_loss'` was never reported because no epoch was completed; available: "
        "'val_loss'."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        trainer(tmp_path, callbacks=[reporter], **options).fit(scripted_model(val=True), loader(8))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_killed_run_in_blocks_whose_loader_starts_again_causes_a_warning(tmp_path):
    trial = optuna.create_study(pruner=NEVER_PRUNES).ask()
    saves = ModelCheckpoint(tmp_path, "newest", every_n_train_steps=3)
    # Blocks of 2 batches, killed after 4, resumed after 3. Batches 0 and 1 come instead of 3 and 4.
    stored, value = ((4.0 + (3 * b) % 11 / 16 for b in pair) for pair in ((2, 3), (2, 0)))
    message = (
        f"The study has the value {sum(stored) / 2:.6g} for this trial at step 1, but the run now "
        f"has {sum(value) / 2:.6g}: it did not resume from the trial's checkpoint, or its training "
        "loader has no `state_dict`. The study keeps the first value."
    )
    options = {"max_epochs": 1, "enable_checkpointing": True}
    for steps, path in ((4, None), (5, tmp_path / "newest.ckpt")):
        reporter = for_pytorch_lightning.OptunaReporter(trial, "sotl_b2_e1")
        callbacks = [door().SoTLMonitor(every_n_train_batches=2), reporter, saves]
        run = trainer(tmp_path, callbacks=callbacks, max_steps=steps, **options)
        if path is None:
            run.fit(scripted_model(by_batch=True), loader(8))
            continue
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            run.fit(scripted_model(by_batch=True), loader(8), ckpt_path=path)
