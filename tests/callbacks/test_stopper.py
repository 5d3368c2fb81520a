"""When a run ends, and why."""

import math
from pathlib import Path

import pytest
import torch

from lightning_sotl import (
    EarlyRankingStopper,
    SoTLMonitor,
    StoppingReason,
    SumOfTrainingLosses,
)
from tests.support.helpers import (
    PACKAGES,
    door,
    fit_with_stopper,
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pl = lightning()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("first", [True, False], ids=["stopper first", "monitor first"])
@pytest.mark.parametrize("val", [True, False], ids=["validation", "no validation"])
def test_a_run_ends_after_t_epochs_in_any_order(tmp_path, package, first, val):
    callbacks = door(package)
    stopper, monitor = callbacks.EarlyRankingStopper(stop_epoch=3), callbacks.SoTLMonitor()
    model = scripted_model(package, val=val)
    run = trainer(
        tmp_path,
        package,
        callbacks=[stopper, monitor] if first else [monitor, stopper],
        max_epochs=8,
    )
    run.fit(model, loader(4))
    losses = returned_epoch_losses(model)
    assert list(losses) == [0, 1, 2]
    assert stopper.estimate == losses[2] == monitor.estimates["sotl_e1"]
    assert stopper.epochs_completed == 3
    assert stopper.stopping_reason == StoppingReason.stop_epoch_reached
    assert stopper.checkpoint_path is None  # checkpointing is off
    assert run.max_epochs == 8


def test_before_the_stop_there_are_no_results(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=8)
    fit_with_stopper(tmp_path, stopper, max_epochs=8, limit_train_batches=0)
    assert (stopper.estimate, stopper.epochs_completed) == (None, None)
    assert stopper.stopping_reason == "not_stopped"


@pytest.mark.filterwarnings("ignore:`stop_epoch=3` is below the Trainer's `min_epochs")
@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"min_epochs": 5}, 5),
        ({"min_epochs": 2}, 3),
        ({"min_steps": 14}, 4),
        ({"min_steps": 16}, 4),
        ({"min_steps": 17, "min_epochs": 4}, 5),
        ({"min_steps": 9, "accumulate_grad_batches": 2}, 5),
    ],
)
def test_lightnings_own_minima_are_met_without_cutting_an_epoch(tmp_path, options, epochs):
    logger = pl.loggers.CSVLogger(tmp_path)
    stopper, model = EarlyRankingStopper(stop_epoch=3), scripted_model()
    step = model.training_step

    def logs_each_step(batch, batch_idx):
        model.log("step_metric", 1.0, on_step=True, on_epoch=False)
        return step(batch, batch_idx)

    model.training_step = logs_each_step
    fit_with_stopper(tmp_path, stopper, model=model, logger=logger, log_every_n_steps=0, **options)
    assert (stopper.epochs_completed, len(model.returned)) == (epochs, 4 * epochs)
    # If `should_stop` were set too early, Lightning would log each step.
    rows = Path(logger.log_dir, "metrics.csv").read_text()
    assert "step_metric" not in rows


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_schedule_up_to_t_is_that_of_the_full_run(tmp_path, interval):
    class Cosine(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.rates = []

        def training_step(self, batch, batch_idx):
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return self.layer(batch).pow(2).mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            length = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, int(length) if interval == "step" else self.trainer.max_epochs
            )
            return [optimizer], [{"scheduler": schedule, "interval": interval}]

    whole, stopped = Cosine(), Cosine()
    trainer(tmp_path, callbacks=[SoTLMonitor()], max_epochs=8).fit(whole, loader(4))
    fit_with_stopper(tmp_path, EarlyRankingStopper(stop_epoch=3), model=stopped)
    assert stopped.rates == whole.rates[:12]
    assert len(set(stopped.rates)) > 2


@pytest.mark.parametrize("name", ["val_loss", "train_loss", "other", "module"])
@pytest.mark.parametrize("first", [True, False])
def test_any_logged_metric_can_be_monitored(tmp_path, name, first):
    class Other(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.log("other", float(trainer.current_epoch))

    model = scripted_model(val=True)
    step = model.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        model.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    model.training_step = training_step
    model.on_train_epoch_end = lambda: model.log("module", float(model.trainer.current_epoch))
    stopper = EarlyRankingStopper(stop_epoch=3, monitor=name)
    callbacks = [stopper, Other()] if first else [Other(), stopper]
    trainer(tmp_path, callbacks=callbacks, max_epochs=8).fit(model, loader(4))
    expected = {
        "val_loss": 0.5,
        "train_loss": pytest.approx(returned_epoch_losses(model)[2], rel=1e-6),
        "other": 2.0,
        "module": 2.0,
    }
    assert (stopper.epochs_completed, stopper.estimate) == (3, expected[name])


def test_a_value_of_an_earlier_epoch_causes_a_warning(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=3, monitor="val_loss")
    model = scripted_model(val=True)
    stopping = trainer(tmp_path, callbacks=[stopper], max_epochs=8, check_val_every_n_epoch=2)
    with pytest.warns(UserWarning, match="earlier epoch") as caught:
        stopping.fit(model, loader(4))
    assert message_with(caught, "earlier epoch") == (
        "The value of `val_loss` at the stop is from an earlier epoch because the last epoch did "
        "not log it. Compare it only with runs that log it in the same epochs."
    )
    (warning,) = [entry for entry in caught if "earlier epoch" in str(entry.message)]
    assert warning.filename == __file__  # where `fit` is called
    assert (stopper.epochs_completed, stopper.estimate) == (3, 0.5)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_run_ends_at_t_with_its_own_reason(tmp_path, loss):
    stopper = EarlyRankingStopper(stop_epoch=3)
    model, _ = fit_with_stopper(tmp_path, stopper, model=scripted_model(loss=lambda e, b: loss))
    assert stopper.stopping_reason == StoppingReason.non_finite_estimate
    assert (stopper.estimate, stopper.epochs_completed) == (math.inf, 3)
    assert len(model.returned) == 12


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:None of the 4 steps")
def test_a_run_without_the_estimate_continues_until_it_exists_and_warns_once(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    model = scripted_model(loss=lambda e, b: None if e in (1, 2) else scripted_loss(e, b))
    with pytest.warns(UserWarning, match="not available yet") as caught:
        fit_with_stopper(tmp_path, stopper, model=model)
    assert message_with(caught, "not available") == (
        "The limit is reached but `sotl_e1` is not available yet; the run continues until it is."
    )
    assert sum("not available" in str(entry.message) for entry in caught) == 1
    assert (stopper.epochs_completed, stopper.stopping_reason) == (4, "stop_epoch_reached")


@pytest.mark.parametrize(
    ("name", "monitors", "advice"),
    [
        ("sotl_e1", 0, "A SoTLMonitor logs it, but this Trainer has no SoTLMonitor."),
        ("solt_e1", 0, "A SoTLMonitor logs 'sotl_e1', but this Trainer has no SoTLMonitor."),
        ("sotl_e10", 1, "The SoTLMonitor of this Trainer logs 'sotl', 'sotl_e1'."),
        ("solt_e1", 1, "The SoTLMonitor of this Trainer logs 'sotl', 'sotl_e1'."),
    ],
)
def test_an_estimate_that_is_not_logged_is_refused_before_training(
    tmp_path, name, monitors, advice
):
    stopper, model = EarlyRankingStopper(stop_epoch=3, monitor=name), scripted_model(val=True)
    callbacks = [stopper, *(SoTLMonitor() for _ in range(monitors))]
    with pytest.raises(RuntimeError, match="metric that this Trainer logs") as caught:
        trainer(tmp_path, callbacks=callbacks).fit(model, loader(4), loader(4))
    assert str(caught.value) == (
        f"Expected `monitor` to be a metric that this Trainer logs but got {name!r}. {advice}"
    )
    assert not model.returned


def test_a_module_that_holds_the_metric_may_log_the_estimate_itself(tmp_path):
    model, stopper = scripted_model(), EarlyRankingStopper(stop_epoch=2)
    model.losses = SumOfTrainingLosses()
    model.on_train_batch_end = lambda outputs, *_: model.losses.update(outputs["loss"])

    def log():
        model.losses.close_epoch()
        model.log("sotl_e1", model.losses.compute())

    model.on_train_epoch_end = log
    trainer(tmp_path, callbacks=[stopper]).fit(model, loader(4))
    assert (stopper.estimate, stopper.epochs_completed) == (returned_epoch_losses(model)[1], 2)


def test_a_metric_that_is_not_logged_causes_a_warning_long_before_the_limit(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=4, monitor="val_los")
    with (
        pytest.warns(UserWarning, match="val_los") as caught,
        pytest.raises(RuntimeError, match=r"^`monitor='val_los'` is not logged; available: "),
    ):
        fit_with_stopper(tmp_path, stopper, model=scripted_model(val=True))
    assert message_with(caught, "val_los") == (
        "`monitor='val_los'` was not logged in the first 2 epochs; available: 'val_loss', 'sotl', "
        "'sotl_e1'. If it is never logged, the run will fail at its limit."
    )


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:None of the 4 steps of epoch 0 returned a loss")
def test_a_module_that_returns_no_loss_ends_after_its_first_epoch(tmp_path):
    model = scripted_model(automatic=False, output=lambda value: None)
    stopper = EarlyRankingStopper(stop_epoch=4)
    with pytest.raises(RuntimeError, match="cannot have a value") as caught:
        fit_with_stopper(tmp_path, stopper, model=model)
    assert str(caught.value) == (
        "`monitor='sotl_e1'` cannot have a value because no training step returned a loss. Return "
        "the loss from `training_step`, alone or in a dictionary under the key 'loss', also under "
        "manual optimization. Or set `monitor` to a metric that the module logs."
    )
    assert len(model.returned) == 4


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_module_without_losses_can_be_stopped_by_its_own_metric(tmp_path):
    model = scripted_model(automatic=False, output=lambda value: None, val=True)
    stopper = EarlyRankingStopper(stop_epoch=3, monitor="val_loss")
    with pytest.warns(UserWarning, match="returned a loss") as caught:
        fit_with_stopper(tmp_path, stopper, model=model)
    assert sum("returned a loss" in str(entry.message) for entry in caught) == 1  # in 3 epochs
    assert stopper.epochs_completed == 3


def test_min_epochs_above_the_limit_warn_before_training(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    with pytest.warns(UserWarning, match="min_epochs") as caught:
        fit_with_stopper(tmp_path, stopper, min_epochs=3)
    assert message_with(caught, "min_epochs") == (
        "`stop_epoch=2` is below the Trainer's `min_epochs=3`, so the run ends after 3 epochs."
    )
    assert stopper.epochs_completed == 3


def test_fast_dev_run_is_not_stopped(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=1, monitor="never logged")
    fit_with_stopper(tmp_path, stopper, fast_dev_run=2)
    assert stopper.stopping_reason == "not_stopped"


def test_a_cut_epoch_is_not_completed(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    fit_with_stopper(tmp_path, stopper, max_steps=7, max_epochs=-1)
    assert stopper.stopping_reason == "not_stopped"


def test_an_epoch_that_the_user_ends_at_its_first_batch_is_not_completed(tmp_path):
    stopper, model = EarlyRankingStopper(stop_epoch=2), scripted_model()
    model.on_train_batch_start = lambda *_: -1 if model.trainer.current_epoch == 1 else None
    trainer(tmp_path, callbacks=[SoTLMonitor(), stopper]).fit(model, loader(4))
    assert stopper.estimate == returned_epoch_losses(model)[2]
    assert stopper.epochs_completed == 3


def test_a_stop_by_another_callback_is_kept(tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    stopper = EarlyRankingStopper(stop_epoch=5)
    model, _ = fit_with_stopper(tmp_path, stopper, Stop())
    assert (len(model.returned), stopper.stopping_reason) == (8, "not_stopped")


@pytest.mark.parametrize(
    ("stop_batches", "options", "batches", "stopped_at"),
    [
        (6, {}, 10, 6),
        (12, {}, 10, 12),
        (9, {}, 9, 9),
        (6, {"min_epochs": 1}, 10, 12),
        (3, {"min_steps": 7, "min_epochs": 0}, 10, 9),
    ],
    ids=["inside", "second epoch", "at a border", "min_epochs", "min_steps"],
)
def test_a_run_in_blocks_ends_at_the_end_of_a_block(
    tmp_path, stop_batches, options, batches, stopped_at
):
    stopper = EarlyRankingStopper(stop_batches=stop_batches, monitor="sotl_b3_e1")
    monitor = SoTLMonitor(every_n_train_batches=3)
    model, _ = fit_with_stopper(tmp_path, stopper, monitor=monitor, batches=batches, **options)
    assert len(model.returned) == stopped_at
    assert stopper.stopping_reason == "stop_batches_reached"
    last = [value for *_, value in model.returned[-3:]]
    assert stopper.estimate == pytest.approx(sum(last) / 3, rel=1e-15)
    assert stopper.epochs_completed == stopped_at // batches
