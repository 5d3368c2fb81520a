"""Promotion: the best trials of an Optuna study are trained to the end."""

import math
import re
from pathlib import Path

import optuna
import pytest
import torch

from lightning_sotl.integrations.optuna import find_winners, promote
from tests.support.helpers import (
    door,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)
from tests.support.optuna_runs import NEVER_PRUNES, fit

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def test_the_best_finite_trials_are_promoted_from_their_checkpoints():
    study = optuna.create_study()
    for number, value in enumerate([3.0, math.inf, 1.0, 2.0, 1.0]):
        trial = study.ask()
        trial.set_user_attr("lightning_sotl:checkpoint_path", f"{number}.ckpt")
        study.tell(trial, value)
    best = find_winners(study, 3)
    assert [(b.run_id, b.estimate, b.checkpoint_path) for b in best] == [
        ("2", 1.0, "2.ckpt"),
        ("4", 1.0, "4.ckpt"),
        ("3", 2.0, "3.ckpt"),
    ]
    with pytest.warns(UserWarning, match="^Expected 9 winners but there can be only 4: ") as caught:
        assert len(find_winners(study, 9)) == 4
    assert caught[0].filename == __file__


def test_trials_that_ended_before_t_do_not_compete():
    study = optuna.create_study()
    for epochs, value in [(2, 1.0), (4, 2.0), (4, 3.0)]:
        trial = study.ask()
        trial.set_user_attr("lightning_sotl:checkpoint_path", "x.ckpt")
        for epoch in range(epochs):
            trial.report(value, epoch)
        study.tell(trial, value)
    message = "1 trial ended before T = 4 and cannot be compared: 0."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        best = find_winners(study, 2)
    assert [winner.run_id for winner in best] == ["1", "2"]
    with (
        pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as again,
        pytest.raises(FileNotFoundError, match=r"^The checkpoint of run '1' does not exist"),
    ):
        promote(study, 2, pytest.fail)
    assert {warning.filename for warning in [*caught, *again]} == {__file__}


def test_a_winner_whose_checkpoint_is_gone_is_named_before_any_training(tmp_path):
    study = optuna.create_study()
    for number in range(2):
        trial = study.ask()
        path = tmp_path / f"{number}.ckpt"
        trial.set_user_attr("lightning_sotl:checkpoint_path", str(path))
        study.tell(trial, float(number))
    (tmp_path / "0.ckpt").touch()
    message = f"The checkpoint of run '1' does not exist: '{tmp_path / '1.ckpt'}'."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        promote(study, 2, pytest.fail)


# ModelCheckpoint warns about a run that saves into another folder.
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_run_killed_before_its_stop_was_saved_is_promoted_from_the_checkpoint_it_resumed(
    tmp_path,
):
    saves = lightning().callbacks.ModelCheckpoint(tmp_path, filename="newest")
    stopper = door().EarlyRankingStopper(stop_epoch=2)
    study = optuna.create_study(pruner=NEVER_PRUNES)
    trial = study.ask()
    fit(tmp_path, trial, stopper, saves, enable_checkpointing=True)
    Path(stopper.checkpoint_path).unlink()  # it was never written
    again = door().EarlyRankingStopper(stop_epoch=2)
    newest = str(tmp_path / "newest.ckpt")  # saved at T, before the stopper's hook
    assert not torch.load(newest, weights_only=False)["callbacks"][again.state_key][
        "checkpoint_path"
    ]
    reporter, _ = fit(tmp_path, trial, again, enable_checkpointing=True, ckpt_path=newest)
    assert again.checkpoint_path == newest
    assert reporter.finish() == 2.375
    study.tell(trial, 2.375)
    assert find_winners(study, 1)[0].checkpoint_path == newest


def test_one_call_trains_the_best_trials_to_the_end(tmp_path):
    study, models = optuna.create_study(pruner=NEVER_PRUNES), {}
    for number in range(3):
        trial = study.ask()
        level = trial.suggest_float("level", number, number)
        stopper = door().EarlyRankingStopper(stop_epoch=2)
        model = models[number] = scripted_model(loss=lambda e, b, level=level: 1 + level + b / 4)
        reporter, _ = fit(tmp_path, trial, stopper, model=model, enable_checkpointing=True)
        study.tell(trial, reporter.finish())

    def train(winner):
        model = scripted_model(loss=lambda e, b: winner.params["level"])
        stopper = door().EarlyRankingStopper(stop_epoch=2, promoted=True)
        callbacks = [door().SoTLMonitor(), stopper]
        winner.fit(
            trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True), model, loader(4)
        )
        return sorted(returned_epoch_losses(model))

    results = promote(study, 2, train)
    assert [(winner.run_id, epochs) for winner, epochs in results] == [("0", [2]), ("1", [2])]
    # A second run of the script trains nothing again.
    again = promote(study, 2, pytest.fail)
    assert [(winner.run_id, epochs) for winner, epochs in again] == [("0", [2]), ("1", [2])]
    assert (
        [(winner.final_epochs, winner.final_estimate) for winner, _ in again]
        == [(winner.final_epochs, winner.final_estimate) for winner, _ in results]
        == [(3, 0.0), (3, 1.0)]
    )
    third = promote(study, 3, train)
    assert [(winner.run_id, epochs) for winner, epochs in third][2] == ("2", [2])
    assert promote(study, 1, lambda winner: "again", retrain=True)[0][1] == "again"
