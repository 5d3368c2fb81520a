"""Resumes after which Lightning alone would train only part of an epoch, or none of it."""

import re

import pytest
import torch

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import (
    StatefulLoader,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)

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


class SaveAt(pl.Callback):
    """Saves a checkpoint at the end of a batch or of an epoch."""

    def __init__(self, path, *, epoch, batch=None):
        self.path, self.epoch, self.batch = path, epoch, batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, module):
        if self.batch is None and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("val", [False, True], ids=["no validation", "validation"])
def test_with_max_steps_a_resume_from_an_epochs_end_begins_the_next_epoch(tmp_path, val):
    # Lightning alone would train a fifth batch of epoch 1, or count an epoch without a batch.
    expected, resumed = SoTLMonitor(), SoTLMonitor()
    model, rest = scripted_model(val=val), scripted_model(val=val)
    saver = SaveAt(tmp_path / "end.ckpt", epoch=1)
    options = {"max_steps": 14, "max_epochs": 5}
    whole = trainer(tmp_path, callbacks=[expected, saver], enable_checkpointing=True, **options)
    whole.fit(model, loader(4))
    run = trainer(tmp_path, callbacks=[resumed], **options)
    run.fit(rest, loader(4), ckpt_path=saver.path)
    assert rest.returned == model.returned[8:]
    assert resumed.epoch_losses == expected.epoch_losses
    assert sorted(resumed.epoch_losses) == [0, 1, 2]
    assert run.current_epoch == 4


def test_a_finished_run_goes_on_with_max_steps(tmp_path):
    # Lightning alone would take the end of the run for the middle of the next epoch.
    run = trainer(tmp_path, callbacks=[SoTLMonitor()], max_epochs=1)
    run.fit(scripted_model(), loader(4))
    run.save_checkpoint(tmp_path / "end.ckpt")
    model, monitor = scripted_model(), SoTLMonitor()
    run = trainer(tmp_path, callbacks=[monitor], max_steps=12)
    run.fit(model, loader(4), ckpt_path=tmp_path / "end.ckpt")
    assert [step[:2] for step in model.returned] == [(e, b) for e in (1, 2) for b in range(4)]
    assert monitor.epoch_losses == {0: monitor.epoch_losses[0], **returned_epoch_losses(model)}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:The checkpoint has no state of this SoTLMonitor")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_an_epoch_that_lightning_trains_in_part_gets_no_loss(tmp_path):
    # Two processes without the callbacks: the second resumes from the start of epoch 0, and counts
    # wrongly from then on.
    class SaveAtStart(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "start.ckpt")

    options = {"max_epochs": 1, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[SaveAtStart()], **options).fit(scripted_model(), loader(3))
    saver, options["max_epochs"] = SaveAt(tmp_path / "batch.ckpt", epoch=1, batch=0), 2
    run = trainer(tmp_path, callbacks=[saver], **options)
    run.fit(scripted_model(), loader(3), ckpt_path=tmp_path / "start.ckpt")

    model, monitor = scripted_model(), SoTLMonitor()
    message = (
        "Lightning trained only 2 of the 3 batches that it counts in epoch 1, which happens after "
        "some resumes. Estimates that need epoch 1 are not logged."
    )
    run = trainer(tmp_path, callbacks=[monitor], max_epochs=3)
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        run.fit(model, loader(3), ckpt_path=saver.path)
    assert monitor.epoch_losses == {2: returned_epoch_losses(model)[2]}


class EndsEarly(pl.Callback):
    """Ends epoch 0 with an exception, or lets its module end it before batch 2."""

    def __init__(self, how):
        self.how = how

    def setup(self, trainer, module, stage):
        if self.how == "-1":
            module.on_train_batch_start = lambda batch, index: (
                -1 if (trainer.current_epoch, index) == (0, 2) else None
            )

    def raise_once(self, how):
        if self.how == how:
            self.how = None
            raise InterruptedError

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            self.raise_once("raised before a batch")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.raise_once("raised after a batch")

    def on_train_epoch_end(self, trainer, module):
        self.raise_once("raised at the end")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("batch", [1, 3, None], ids=["middle", "last batch", "end"])
@pytest.mark.parametrize(
    "how", ["-1", "raised before a batch", "raised after a batch", "raised at the end"]
)
def test_a_resume_is_exact_after_an_earlier_epoch_was_ended(tmp_path, how, batch):
    # Lightning alone counts a batch, or an epoch, as begun but not as completed for ever. It would
    # train a batch too many or too few, or one batch of an epoch.
    expected, resumed, saver = SoTLMonitor(), SoTLMonitor(), SaveAt(tmp_path / "2.ckpt", epoch=2)
    saver.batch = batch
    model, rest = scripted_model(by_batch=True), scripted_model(by_batch=True)
    callbacks = [EndsEarly(how), expected, saver]
    run = trainer(tmp_path, callbacks=callbacks, max_epochs=5, enable_checkpointing=True)
    try:
        run.fit(model, StatefulLoader(4))
    except InterruptedError:
        run.fit(model, StatefulLoader(4))
    callbacks = [EndsEarly(how if how == "-1" else None), resumed]
    run = trainer(tmp_path, callbacks=callbacks, max_epochs=5)
    run.fit(rest, StatefulLoader(4), ckpt_path=saver.path)
    after = [step for step in model.returned if step[0] > 2 or (step[0] == 2 and batch == 1)]
    assert rest.returned == after[2 if batch == 1 else 0 :]
    assert resumed.epoch_losses == expected.epoch_losses
    assert sorted(resumed.epoch_losses) == [0, 1, 2, 3, 4]


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


def test_a_checkpoint_without_the_positions_of_the_loops_begins_at_epoch_0(tmp_path):
    # Lightning supports such a checkpoint.
    run = trainer(tmp_path, callbacks=[SoTLMonitor()], max_epochs=1)
    run.fit(scripted_model(), loader(4))
    run.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    del saved["loops"]
    torch.save(saved, tmp_path / "stripped.ckpt")
    model, monitor = scripted_model(), SoTLMonitor()
    stopper = EarlyRankingStopper(stop_epoch=1)
    run = trainer(tmp_path, callbacks=[monitor, stopper], max_epochs=2)
    run.fit(model, loader(4), ckpt_path=tmp_path / "stripped.ckpt")
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert stopper.estimate == monitor.epoch_losses[0]
