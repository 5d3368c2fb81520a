"""No step waits for the device or keeps its loss: losses are read at the end of an epoch."""

import gc

import pytest
import torch

from lightning_sotl import SoTLMonitor, SumOfTrainingLosses
from tests.support.helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

WAITS = ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu", "numpy", "to")


@pytest.fixture
def no_waiting(monkeypatch):
    """Make all methods that read the value of a tensor, except `allowed`, raise while `armed`."""
    state = {"armed": False, "calls": 0, "allowed": ""}
    for name in WAITS:
        original = getattr(torch.Tensor, name)

        def guarded(self, *args, _name=name, _original=original, **kwargs):
            if state["armed"] and _name != state["allowed"]:
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


def test_the_metric_never_waits(no_waiting):
    metric, losses = SumOfTrainingLosses(), [torch.tensor(1.5) for _ in range(3)]
    no_waiting.update(armed=True, allowed="to")  # `to` moves a loss to the metric's own device
    for loss in losses:
        metric.update(loss)
    metric.close_epoch()
    value = metric.compute()
    no_waiting["armed"] = False
    assert float(value) == 1.5


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


def test_the_number_of_tensors_in_memory_does_not_grow_with_the_steps(tmp_path):
    counts = []

    class CountTensors(lightning().Callback):
        def on_train_batch_end(self, trainer, *args):
            # The monitor sums its losses whenever it has 256 of them.
            if trainer.global_step in (257, 769):
                gc.collect()
                counts.append(sum(type(entry) is torch.Tensor for entry in gc.get_objects()))

    model = scripted_model(loss=lambda e, b: 1.0)
    callbacks = [SoTLMonitor(), CountTensors()]
    trainer(tmp_path, callbacks=callbacks, max_epochs=1).fit(model, loader(800))
    assert counts[0] == counts[1]
