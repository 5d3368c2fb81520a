"""Unusual ways to train. Cut or extra epochs, tuning and validation never become an L(e)."""

from datetime import timedelta

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import SoTLMonitor
from tests.support.helpers import (
    PACKAGES,
    Batches,
    door,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pl = lightning()


class At(pl.Callback):
    """Calls a function with the trainer in one hook."""

    def __init__(self, hook, function):
        setattr(self, hook, lambda trainer, *args: function(trainer, *args))


def fit(tmp_path, *callbacks, model=None, batches=5, **options):
    monitor, model = SoTLMonitor(), model or scripted_model()
    run = trainer(tmp_path, callbacks=[*callbacks, monitor], **options)
    run.fit(model, loader(batches))
    return monitor, model, run


def stop_in_batch_7(trainer, pl_module, outputs, batch, batch_idx):
    if trainer.global_step == 7:
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("callbacks", "options", "complete"),
    [
        ([], {"max_steps": 7, "max_epochs": -1}, [0]),
        ([], {"max_steps": 10, "max_epochs": -1}, [0, 1]),
        ([("on_train_batch_end", stop_in_batch_7)], {}, [0]),
        ([("on_train_start", lambda t, *_: setattr(t, "should_stop", True))], {}, []),
        ([("on_train_epoch_start", lambda t, *_: setattr(t, "should_stop", True))], {}, []),
        ([], {"limit_train_batches": 3}, [0, 1, 2]),
        ([], {"limit_train_batches": 0.4}, [0, 1, 2]),
        ([], {"overfit_batches": 2}, [0, 1, 2]),
        ([], {"fast_dev_run": 2, "max_epochs": 9}, [0]),
        ([], {"max_epochs": 0}, []),
        ([], {"limit_train_batches": 0}, []),
    ],
    ids=[
        "max_steps inside",
        "max_steps at a border",
        "stop inside",
        "stop before the first batch",
        "stop at an epoch's start",
        "limit 3",
        "limit 40 %",
        "overfit",
        "fast_dev_run",
        "no epochs",
        "no batches",
    ],
)
def test_only_whole_epochs_count(tmp_path, callbacks, options, complete):
    monitor, model, run = fit(tmp_path, *(At(*callback) for callback in callbacks), **options)
    means = returned_epoch_losses(model)
    assert monitor.epoch_losses == {epoch: means[epoch] for epoch in complete}
    assert ("sotl_e1" in run.callback_metrics) == bool(complete)
    if complete:
        assert float(run.callback_metrics["sotl_e1"]) == means[complete[-1]]


def test_max_time_cuts_an_epoch(tmp_path):
    # The timer checks after each batch, so a budget of 1 microsecond ends the first epoch early.
    monitor, model, run = fit(tmp_path, max_time=timedelta(microseconds=1), max_epochs=100)
    assert len(model.returned) in range(1, 5)
    assert monitor.epoch_losses == {}
    assert "sotl_e1" not in run.callback_metrics


def test_an_epoch_that_the_user_ends_counts_as_whole(tmp_path):
    model = scripted_model()
    model.on_train_batch_start = lambda batch, batch_idx: (
        -1 if (model.trainer.current_epoch, batch_idx) == (1, 2) else None
    )
    monitor, _, _ = fit(tmp_path, model=model)
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert len(model.returned) == 5 + 2 + 5


def test_validation_and_its_sanity_check_do_not_count(tmp_path):
    monitor, model, run = fit(tmp_path, model=scripted_model(val=True), num_sanity_val_steps=2)
    before = monitor.epoch_losses
    assert before == returned_epoch_losses(model)
    run.validate(model, verbose=False)
    assert monitor.epoch_losses == before


def test_an_epoch_of_any_length_has_its_mean_loss(tmp_path):
    model = scripted_model()
    model.train_dataloader = lambda: loader(2 + 2 * model.trainer.current_epoch)
    monitor = SoTLMonitor()
    trainer(tmp_path, callbacks=[monitor], reload_dataloaders_every_n_epochs=1).fit(model)
    assert [epoch for epoch, _, _ in model.returned] == [0] * 2 + [1] * 4 + [2] * 6
    assert monitor.epoch_losses == returned_epoch_losses(model)


class Tunable(pl.LightningModule):
    """A module with BatchNorm, and with a learning rate and a batch size to tune."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.01, 2
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
        self.returned = []

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).pow(2).mean() + self.layer[0].weight.pow(2).sum()
        self.returned.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
        return loss

    def train_dataloader(self):
        return DataLoader(Batches(32), batch_size=self.batch_size)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
def test_tuning_before_fit_does_not_count(tmp_path, what):
    monitor, model = SoTLMonitor(), Tunable()
    run = trainer(tmp_path, callbacks=[monitor], enable_checkpointing=True)
    tuner = pl.tuner.Tuner(run)
    if what == "lr_find":
        tuner.lr_find(model, num_training=8)
    else:
        tuner.scale_batch_size(model, max_trials=2, steps_per_trial=2)
    assert monitor.epoch_losses == {}
    model.returned.clear()
    run.fit(model)
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert len(monitor.epoch_losses) == 3


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")  # 2.5.0
@pytest.mark.parametrize("block", [None, 5])
def test_finding_a_learning_rate_between_epochs_does_not_count(tmp_path, block):
    class FindAgain(pl.callbacks.LearningRateFinder):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                before = list(pl_module.returned)
                self.lr_find(trainer, pl_module)
                assert len(pl_module.returned) > len(before)
                pl_module.returned[:] = before

    monitor, model = SoTLMonitor(every_n_train_batches=block), Tunable()
    trainer(
        tmp_path,
        callbacks=[FindAgain(num_training_steps=4), monitor],
        enable_checkpointing=True,
        limit_train_batches=8,
    ).fit(model)
    epochs = returned_epoch_losses(model)
    values = [value for _, _, value in model.returned[4:]]  # the finder's own first search
    if block is None:
        assert {e: monitor.epoch_losses[e] for e in (1, 2)} == {e: epochs[e] for e in (1, 2)}
    else:
        blocks = {e: sum(values[5 * e : 5 * e + 5]) / 5 for e in range(len(values) // 5)}
        assert monitor.epoch_losses == blocks


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_finding_a_batch_size_inside_fit_does_not_count(tmp_path):
    finder = pl.callbacks.BatchSizeFinder(max_trials=2, steps_per_trial=2)
    monitor, model = SoTLMonitor(), Tunable()
    trained = []
    count = At("on_train_start", lambda trainer, module: trained.append(len(module.returned)))
    trainer(tmp_path, callbacks=[count, finder, monitor], enable_checkpointing=True).fit(model)
    model.returned = model.returned[trained[-1] :]
    assert len(monitor.epoch_losses) == 3
    assert monitor.epoch_losses == returned_epoch_losses(model)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_extra_epoch_of_swa_does_not_count(tmp_path, package):
    pl_ = lightning(package)

    class WithBatchNorm(pl_.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
            self.returned = []

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).pow(2).mean()
            self.returned.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor, model = door(package).SoTLMonitor(), WithBatchNorm()
    swa = pl_.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1)
    stopper = door(package).EarlyRankingStopper(stop_epoch=3)
    # `min_steps` is first reached in the extra epoch, so no stop is allowed before.
    run = trainer(tmp_path, package, callbacks=[swa, monitor, stopper], min_steps=10)
    run.fit(model, loader(6, batch_size=2))
    epochs = returned_epoch_losses(model)
    assert sorted(epochs) == [0, 1, 2, 3]
    assert monitor.epoch_losses == {e: epochs[e] for e in (0, 1, 2)}
    assert float(run.callback_metrics["sotl_e1"]) == epochs[2]
    assert stopper.epochs_completed is None


def test_a_barebones_trainer_still_shows_the_estimate(tmp_path):
    monitor, model = SoTLMonitor(), scripted_model()
    run = pl.Trainer(barebones=True, accelerator="cpu", max_epochs=2, callbacks=[monitor])
    run.fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert float(run.callback_metrics["sotl_e1"]) == monitor.estimates["sotl_e1"]


def test_a_step_that_takes_the_iterator_gives_the_returned_losses(tmp_path):
    class Iterates(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.returned = []

        def training_step(self, dataloader_iter):
            _, batch_idx, _ = next(dataloader_iter)
            epoch = self.trainer.current_epoch
            loss = self.weight * 0 + scripted_loss(epoch, batch_idx)
            self.returned.append((epoch, batch_idx, float(loss.detach())))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model, monitor = Iterates(), SoTLMonitor()
    with pytest.warns(UserWarning, match="dataloader_iter"):
        trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert len(monitor.epoch_losses) == 3


def test_an_exception_leaves_the_complete_epochs(tmp_path):
    def fail(trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            raise ZeroDivisionError("mine")

    monitor, model = SoTLMonitor(), scripted_model()
    run = trainer(tmp_path, callbacks=[At("on_train_batch_end", fail), monitor])
    with pytest.raises(ZeroDivisionError, match="mine"):
        run.fit(model, loader(5))
    assert monitor.epoch_losses == {0: returned_epoch_losses(model)[0]}
