"""The results of one monitor after several fits, with several Trainers, and in copies."""

import copy
import pickle

import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

pl = lightning()


def test_a_callback_in_two_runs_has_the_results_of_the_newer(tmp_path):
    monitor = SoTLMonitor()
    for factor in (1.0, 0.5):
        model = scripted_model(loss=lambda e, b, f=factor: f * (e + b))
        trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4))
        assert monitor.epoch_losses == returned_epoch_losses(model)


def test_a_second_fit_with_more_epochs_continues(tmp_path):
    monitor, model = SoTLMonitor(window=3), scripted_model()
    run = trainer(tmp_path, callbacks=[monitor], max_epochs=2)
    run.fit(model, loader(4))
    run.fit_loop.max_epochs = 4
    run.fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert sorted(monitor.epoch_losses) == [0, 1, 2, 3]
    run.fit(model, loader(4))  # nothing is left to train
    assert sorted(monitor.epoch_losses) == [0, 1, 2, 3]


def test_copies_after_fit_contain_the_results_but_not_the_module(tmp_path):
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


def test_a_copy_in_the_middle_of_an_epoch_contains_its_losses(tmp_path):
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


class FailOnce(pl.Callback):
    """Raises in one hook, the n-th time that it is called."""

    def __init__(self, hook, n):
        self.left = n

        def count(trainer, pl_module, *args):
            self.left -= 1
            if not self.left:
                raise ZeroDivisionError("mine")

        setattr(self, hook, count)


def fit_twice(tmp_path, fails, monitor, **model):
    """Fit, fail, and fit again with the same Trainer; losses of the second fit are 100 higher."""
    model = scripted_model(loss=lambda e, b: 100.0 * (fails.left <= 0) + 10 * e + b, **model)
    run = trainer(tmp_path, callbacks=[monitor, fails])
    with pytest.raises(ZeroDivisionError, match="mine"):
        run.fit(model, loader(4))
    run.fit(model, loader(4))
    return model


@pytest.mark.filterwarnings("ignore:Found 1 module")  # in eval mode after the validation
@pytest.mark.parametrize(
    ("hook", "n"),
    [
        ("on_train_batch_end", 6),
        ("on_train_batch_end", 8),
        ("on_before_zero_grad", 6),
        ("on_validation_batch_end", 3),
    ],
    ids=["inside", "after the last batch", "in a step", "in its validation"],
)
def test_an_epoch_that_an_exception_ended_has_the_loss_of_the_second_attempt(tmp_path, hook, n):
    monitor = SoTLMonitor()
    fit_twice(tmp_path, FailOnce(hook, n), monitor, val=True)
    assert monitor.epoch_losses == {0: 1.5, 1: 111.5, 2: 121.5}
    assert monitor.estimates == {"sotl": 234.5, "sotl_e1": 121.5}


@pytest.mark.parametrize("n", [1, 3])
def test_blocks_contain_all_trained_batches_despite_an_exception(tmp_path, n):
    monitor = SoTLMonitor(every_n_train_batches=2)
    model = fit_twice(tmp_path, FailOnce("on_train_batch_start", n), monitor)
    values = [value for *_, value in model.returned]
    assert monitor.epoch_losses == {
        block: sum(values[2 * block : 2 * block + 2]) / 2 for block in range(len(values) // 2)
    }


def test_a_failed_step_is_in_no_block(tmp_path):
    monitor = SoTLMonitor(every_n_train_batches=2)
    model = fit_twice(tmp_path, FailOnce("on_before_zero_grad", 1), monitor)
    values = [value for *_, value in model.returned[1:]]
    assert monitor.epoch_losses == {
        block: sum(values[2 * block : 2 * block + 2]) / 2 for block in range(6)
    }


def test_an_epoch_that_is_repeated_after_an_epoch_without_batches_has_a_loss(tmp_path):
    monitor, model = SoTLMonitor(), scripted_model()
    model.on_train_batch_start = lambda *_: -1 if model.trainer.current_epoch == 0 else None
    run = trainer(tmp_path, callbacks=[FailOnce("on_train_epoch_start", 2), monitor])
    with pytest.raises(ZeroDivisionError, match="mine"):
        run.fit(model, loader(4))
    run.fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_a_checkpoint_of_another_run_replaces_the_losses_trained_before(tmp_path):
    other = trainer(tmp_path, max_epochs=1)
    other.fit(scripted_model(), loader(4))
    other.save_checkpoint(tmp_path / "other.ckpt")
    monitor, model = SoTLMonitor(), scripted_model()
    run = trainer(tmp_path, callbacks=[monitor])
    run.fit(model, loader(4))
    model.returned.clear()
    run.fit(model, loader(4), ckpt_path=tmp_path / "other.ckpt")
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert sorted(monitor.epoch_losses) == [1, 2]
    assert sorted(monitor.estimates) == ["sotl_e1"]  # epoch 0 of that run is unknown


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
