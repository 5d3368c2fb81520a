"""Resumes after which Lightning alone would train only part of an epoch, or none of it."""

import re

import pytest

from lightning_sotl import SoTLMonitor
from tests.support.helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

pl = lightning()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("options", [{}, {"max_steps": 12}], ids=["epochs", "max_steps"])
@pytest.mark.parametrize("val", [False, True], ids=["no validation", "validation"])
def test_a_resume_from_an_epochs_start_trains_the_whole_epoch(tmp_path, val, options):
    # Lightning alone would train one batch of that epoch, or none with validation.
    class Save(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "start.ckpt")

    expected, resumed = SoTLMonitor(), SoTLMonitor()
    model, rest = scripted_model(val=val), scripted_model(val=val)
    whole = {"callbacks": [expected, Save()], "enable_checkpointing": True, **options}
    trainer(tmp_path, **whole).fit(model, loader(4))
    run = trainer(tmp_path, callbacks=[resumed], **options)
    run.fit(rest, loader(4), ckpt_path=tmp_path / "start.ckpt")
    assert rest.returned == model.returned[4:]
    assert resumed.epoch_losses == expected.epoch_losses == returned_epoch_losses(model)
    assert resumed.estimates == expected.estimates


def test_an_epoch_that_lightning_trains_in_part_gets_no_loss(tmp_path):
    # With `max_steps`, Lightning takes the end of a run without `max_steps` for the middle of the
    # next epoch.
    run = trainer(tmp_path, callbacks=[SoTLMonitor()], max_epochs=1)
    run.fit(scripted_model(), loader(4))
    run.save_checkpoint(tmp_path / "end.ckpt")
    model, monitor = scripted_model(), SoTLMonitor()
    message = (
        "Lightning trained only 1 of the 5 batches that it counts in epoch 1, which happens after "
        "some resumes. Estimates that need epoch 1 are not logged."
    )
    run = trainer(tmp_path, callbacks=[monitor], max_steps=13)
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        run.fit(model, loader(4), ckpt_path=tmp_path / "end.ckpt")
    assert [step[:2] for step in model.returned] == [(1, 4), *((2, b) for b in range(4))]
    assert sorted(monitor.epoch_losses) == [0, 2]
    assert monitor.estimates == {"sotl_e1": returned_epoch_losses(model)[2]}


def test_a_checkpoint_from_inside_the_last_step_trains_that_batch(tmp_path):
    # In a Trainer that has validated before, Lightning alone would train nothing more, and the
    # loaded epoch would count as complete without its last batch.
    class Save(pl.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if len(pl_module.returned) == 4:
                trainer.save_checkpoint(tmp_path / "step.ckpt")

    monitor, model = SoTLMonitor(), scripted_model(val=True)
    run = trainer(tmp_path, callbacks=[monitor, Save()])
    run.fit(model, loader(4))
    whole, again = monitor.epoch_losses, model.returned[3:]
    model.returned = []
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        run.fit(model, loader(4), ckpt_path=tmp_path / "step.ckpt")
    assert model.returned == again
    assert monitor.epoch_losses == whole
