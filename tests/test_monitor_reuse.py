"""One monitor in several fits, Trainers and copies: whose results it holds."""

import copy
import pickle

import pytest
from helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

from lightning_sotl import EarlyRankingStopper, SoTLMonitor

pl = lightning()


def test_one_callback_in_two_runs_holds_the_newer(tmp_path):
    monitor = SoTLMonitor()
    for factor in (1.0, 0.5):
        model = scripted_model(loss=lambda e, b, f=factor: f * (e + b))
        trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4))
        assert monitor.epoch_losses == returned_epoch_losses(model)


def test_a_second_fit_with_more_epochs_goes_on(tmp_path):
    monitor, model = SoTLMonitor(window=3), scripted_model()
    run = trainer(tmp_path, callbacks=[monitor], max_epochs=2)
    run.fit(model, loader(4))
    run.fit_loop.max_epochs = 4
    run.fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert sorted(monitor.epoch_losses) == [0, 1, 2, 3]
    run.fit(model, loader(4))  # nothing is left to train
    assert sorted(monitor.epoch_losses) == [0, 1, 2, 3]


def test_copies_after_fit_hold_the_results_and_not_the_module(tmp_path):
    monitor, model = SoTLMonitor(), scripted_model()
    trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4))
    assert monitor.log.__self__ is model  # what Lightning attaches
    for twin in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):  # noqa: S301
        assert twin.epoch_losses == monitor.epoch_losses
        assert not hasattr(twin, "log")
        again = scripted_model()
        trainer(tmp_path, callbacks=[twin]).fit(again, loader(3))
        assert twin.epoch_losses == returned_epoch_losses(again)
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_a_copy_in_the_middle_of_an_epoch_holds_its_open_losses(tmp_path):
    copies = []

    class CopyInside(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                copies.append(copy.deepcopy(monitor))

    monitor = SoTLMonitor()
    trainer(tmp_path, callbacks=[CopyInside(), monitor], max_epochs=1).fit(
        scripted_model(), loader(4)
    )
    assert copies[0].state_dict()["open"]["count"] == 3
    assert monitor.epoch_losses == {0: 4.28125}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("function", ["test", "validate"])
def test_a_checkpoint_loaded_to_evaluate_leaves_the_results_alone(tmp_path, function):
    own = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    monitor, model = SoTLMonitor(), scripted_model(val=True)
    stopper = EarlyRankingStopper(stop_epoch=2)
    run = trainer(
        tmp_path, callbacks=[monitor, stopper, own], enable_checkpointing=True, max_epochs=4
    )
    model.test_step = model.validation_step
    run.fit(model, loader(4))
    before = (monitor.state_dict(), stopper.state_dict())
    getattr(run, function)(model, loader(2), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert (monitor.state_dict(), stopper.state_dict()) == before
    other = trainer(tmp_path, callbacks=[SoTLMonitor(every_n_train_batches=5)])
    getattr(other, function)(
        model, loader(2), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False
    )  # another block size does not matter here
