"""Logged metrics that the record stores beside L(e), and the policy that reads both curves."""

import json

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, LearningCurves, SoTLMonitor
from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.helpers import (
    StatefulLoader,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def model_with_accuracy(accuracy, **options):
    """Return a module whose validation logs `accuracy(epoch)` as "val_acc"."""
    model = scripted_model(val=True, **options)
    model.validation_step = lambda batch, batch_idx: model.log(
        "val_acc", accuracy(model.current_epoch), batch_size=1
    )
    return model


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def units(path):
    return [line for line in lines(path) if "e" in line]


def test_a_second_line_of_the_epoch_follows_its_validation(tmp_path):
    monitor = SoTLMonitor(directory=tmp_path, record_metrics=("val_acc",))
    model = model_with_accuracy(lambda epoch: 0.5 + epoch / 8)
    trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4), loader(1))
    losses = returned_epoch_losses(model)
    assert units(tmp_path / "sotl.jsonl") == [
        line
        for e in range(3)
        for line in (
            {"e": e, "loss": losses[e], "steps": 4, "checkpoint": None},
            {
                "e": e,
                "loss": losses[e],
                "steps": 4,
                "checkpoint": None,
                "metrics": {"val_acc": 0.5 + e / 8},
            },
        )
    ]


def test_a_later_line_of_the_epoch_repeats_metrics_and_checkpoint(tmp_path):
    monitor = SoTLMonitor(directory=tmp_path, record_metrics=["val_acc", "late"])
    stopper = EarlyRankingStopper(stop_epoch=2, checkpoint_dir=tmp_path)
    model = model_with_accuracy(lambda epoch: 0.25)
    model.on_train_epoch_end = lambda: model.log("late", float(model.current_epoch))
    trainer(tmp_path, callbacks=[monitor, stopper]).fit(model, loader(4), loader(1))
    last = units(tmp_path / "sotl.jsonl")[-1]
    assert last["metrics"] == {"val_acc": 0.25, "late": 1.0}
    assert last["checkpoint"] == stopper.checkpoint_path


def test_an_epoch_without_validation_has_no_metrics(tmp_path):
    monitor = SoTLMonitor(directory=tmp_path, record_metrics=("val_acc",))
    model = model_with_accuracy(lambda epoch: epoch / 8)
    trainer(tmp_path, callbacks=[monitor], check_val_every_n_epoch=2, max_epochs=4).fit(
        model, loader(4), loader(1)
    )
    with_metrics = {
        line["e"]: line["metrics"] for line in units(tmp_path / "sotl.jsonl") if "metrics" in line
    }
    assert with_metrics == {1: {"val_acc": 0.125}, 3: {"val_acc": 0.375}}


def test_blocks_get_the_metrics_of_the_validation_after_them(tmp_path):
    monitor = SoTLMonitor(every_n_train_batches=2, directory=tmp_path, record_metrics=("val_acc",))
    model = model_with_accuracy(lambda epoch: model.global_step / 16)
    trainer(tmp_path, callbacks=[monitor], val_check_interval=4, max_epochs=1).fit(
        model, StatefulLoader(8), loader(1)
    )
    found = {line["e"]: line.get("metrics") for line in units(tmp_path / "sotl.jsonl")}
    assert found == {0: None, 1: {"val_acc": 0.25}, 2: None, 3: {"val_acc": 0.5}}


def test_readers_read_validations_from_the_record(tmp_path):
    for number in range(3):
        monitor = SoTLMonitor(directory=tmp_path / str(number), record_metrics=("val_acc",))
        model = model_with_accuracy(lambda epoch, number=number: number / 4 + epoch / 64)
        trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4), loader(1))
    curves = LearningCurves.from_logs(tmp_path, val_metric="val_acc", final_metric="val_acc")
    expected = np.array([[n / 4 + e / 64 for e in range(3)] for n in range(3)])
    assert curves.val_metric.tolist() == expected.tolist()
    assert curves.final_metric.tolist() == expected[:, -1].tolist()
    found = read_logs(tmp_path, LogKeys(others=("val_acc",)), needs_losses=False)
    assert found.others["val_acc"].tolist() == expected.tolist()


def test_names_of_metrics_are_checked():
    with pytest.raises(TypeError, match=r"^Expected `record_metrics` to be a sequence of names"):
        SoTLMonitor(record_metrics="val_acc")


# --- the policy

POLICY = AdaptivePolicy(max_epochs=6, keep=0.5, first=2)


def sweep(folder, accuracies, **options):
    """Train runs one after another. Run 0 has the lowest losses, and the last run the highest."""
    trained = []
    for number, accuracy in enumerate(accuracies):
        stopper = EarlyRankingStopper(policy=POLICY, directory=folder, **options)
        monitor = SoTLMonitor(
            directory=folder / str(number), params={"n": number}, record_metrics=("val_acc",)
        )
        model = model_with_accuracy(
            lambda epoch, accuracy=accuracy: accuracy,
            loss=lambda epoch, batch, number=number: number + 1 / (epoch + 1),
        )
        trainer(folder, callbacks=[monitor, stopper], max_epochs=6).fit(model, loader(4), loader(1))
        trained.append((len(returned_epoch_losses(model)), stopper.decision))
    return trained


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_a_policy_reads_both_curves(tmp_path, mode, sign):
    # The last run has the best validations, and the first run the lowest losses.
    accuracies = [sign * (0.5 + number / 32) for number in range(6)]
    found = sweep(tmp_path, accuracies, validation="val_acc", validation_mode=mode)
    losses = np.full((6, 6), np.nan)
    validations = np.full((6, 6), np.nan)  # lower is better
    expected = []
    for number in range(6):
        for epoch in range(6):
            losses[number, epoch] = number + 1 / (epoch + 1)
            validations[number, epoch] = -sign * accuracies[number]
            begun = slice(0, number + 1)
            decision = POLICY.decide(number, losses[begun], validations[begun])
            if not decision.goes_on:
                break
        expected.append(epoch + 1)
    assert [epochs for epochs, _ in found] == expected
    alone = sweep(tmp_path / "alone", accuracies)
    assert [decision for _, decision in alone] != [decision for _, decision in found]


def test_a_validation_metric_that_is_not_recorded_is_refused_before_training(tmp_path):
    model = scripted_model(val=True)
    stopper = EarlyRankingStopper(
        policy=POLICY, directory=tmp_path, validation="val_acc", validation_mode="max"
    )
    monitor = SoTLMonitor(directory=tmp_path, record_metrics=("val_loss",))
    with pytest.raises(ValueError, match="record_metrics") as caught:
        trainer(tmp_path, callbacks=[monitor, stopper], max_epochs=6).fit(
            model, loader(4), loader(1)
        )
    assert str(caught.value) == (
        "Expected `validation` to be one of the SoTLMonitor's `record_metrics`, because other runs "
        "read it from the record, but got 'val_acc'; available: 'val_loss'."
    )
    assert not model.returned


def test_a_validation_metric_needs_a_policy_and_a_mode():
    with pytest.raises(ValueError, match=r"^Expected a `policy` with `validation` but got "):
        EarlyRankingStopper(3, validation="val_acc", validation_mode="max")
    with pytest.raises(ValueError, match=r"^Expected `validation` and `validation_mode` to be "):
        EarlyRankingStopper(policy=POLICY, directory="runs", validation="val_acc")


def test_a_run_whose_last_value_is_not_finite_has_no_finite_target(tmp_path):
    # Its value of epoch 1 must not count as its final value.
    values = [0.5, 0.75, float("nan")]
    monitor = SoTLMonitor(directory=tmp_path, record_metrics=("val_acc",))
    run = trainer(tmp_path, callbacks=[monitor])
    run.fit(model_with_accuracy(lambda epoch: values[epoch]), loader(2))
    curves = LearningCurves.from_logs(tmp_path, val_metric="val_acc", final_metric="val_acc")
    np.testing.assert_array_equal(curves.val_metric, [values])
    np.testing.assert_array_equal(curves.final_metric, [float("nan")])
