"""No step waits for the device: the hook never reads the value of a loss."""

import pytest
import torch

from lightning_sotl import SoTLMonitor, SumOfTrainingLosses
from tests.support.helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

WAITS = ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu", "numpy", "to")


@pytest.fixture
def no_waiting(monkeypatch):
    """Make every method that reads the value of a tensor raise while `armed` is True."""
    state = {"armed": False, "calls": 0}
    for name in WAITS:
        original = getattr(torch.Tensor, name)

        def guarded(self, *args, _name=name, _original=original, **kwargs):
            if state["armed"]:
                raise AssertionError(f"{_name} waits for the device")
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, guarded)
    return state


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("block", [None, 50])
def test_a_step_of_the_monitor_never_waits(tmp_path, no_waiting, automatic, block):
    class Guarded(SoTLMonitor):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            closes = trainer.is_last_batch or (block and (batch_idx + 1) % block == 0)
            no_waiting["armed"] = not closes
            no_waiting["calls"] += not closes
            try:
                super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            finally:
                no_waiting["armed"] = False

    monitor = Guarded(every_n_train_batches=block)
    model = scripted_model(automatic=automatic)
    trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model, loader(600))
    assert no_waiting["calls"] == (599 if block is None else 588)
    if block is None:
        assert monitor.epoch_losses == returned_epoch_losses(model)


def test_an_update_of_the_metric_never_waits(no_waiting, monkeypatch):
    monkeypatch.undo()
    metric = SumOfTrainingLosses()
    original = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("waits"))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("waits"))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: pytest.fail("waits"))
    for _ in range(3):
        metric.update(torch.tensor(1.5))
    metric.close_epoch()
    value = metric.compute()
    assert original(value) == 1.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_never_waits_for_cuda(tmp_path):
    class Guarded(SoTLMonitor):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("default" if trainer.is_last_batch else "error")
            try:
                super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    monitor, model = Guarded(), scripted_model()
    trainer(tmp_path, callbacks=[monitor], accelerator="gpu").fit(model, loader(600))
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_memory_does_not_grow_with_the_steps(tmp_path):
    sizes = []

    class Watch(lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            sizes.append(
                len(monitor._state.losses.open._waiting) if monitor._state.losses.open else 0
            )

    monitor = SoTLMonitor()
    trainer(tmp_path, callbacks=[Watch(), monitor], max_epochs=1).fit(scripted_model(), loader(600))
    assert 100 < max(sizes) < 256
