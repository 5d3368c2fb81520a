"""Checkpoints of every step of a run, each resumed with new callbacks and a new Trainer."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import SoTLMonitor
from tests.support.helpers import (
    StatefulLoader,
    Stream,
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_model,
    trainer,
)

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    # The resumed runs have no ModelCheckpoint with these arguments, and no saving callback.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
]


class SaveEverywhere(pl.Callback):
    """Saves in every hook in which a callback may save, before later callbacks in the list."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.trained_before = {}

    def _save(self, trainer, hook):
        path = self.folder / f"{hook}-{len(self.trained_before):03d}.ckpt"
        trainer.save_checkpoint(path)
        self.trained_before[path] = len(trainer.lightning_module.returned)

    def on_train_batch_end(self, trainer, *args):
        self._save(trainer, "batch")

    def on_validation_end(self, trainer, *args):
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *args):
        self._save(trainer, "epoch")

    def on_train_end(self, trainer, *args):
        self._save(trainer, "end")


class Script:
    """One kind of run, with a new module, monitor and Trainer for each fit."""

    def __init__(self, data=None, *, model=None, monitor=None, **options):
        self.data = data or (lambda: loader(4))
        self.model = model or {}
        self.monitor = monitor or {}
        self.options = options

    def fit(self, folder, *callbacks, checkpoint=None, **monitor):
        model = scripted_model(**self.model)
        sotl = SoTLMonitor(**{**self.monitor, **monitor})
        run = trainer(
            folder,
            callbacks=[*callbacks, sotl],
            enable_checkpointing=checkpoint is None,
            **self.options,
        )
        run.fit(model, self.data(), ckpt_path=checkpoint)
        return model, sotl

    def whole(self, folder):
        """Return the uninterrupted run and its checkpoints."""
        saver = SaveEverywhere(folder / "by callback")
        own = pl.callbacks.ModelCheckpoint(
            folder / "by ModelCheckpoint",
            every_n_train_steps=1,
            save_top_k=-1,
            filename="{epoch}-{step}",
        )
        model, monitor = self.fit(folder, saver, own)
        by_lightning = sorted((folder / "by ModelCheckpoint").iterdir())
        return model, monitor, saver, [*saver.trained_before, *by_lightning]


WITH_VALIDATION = {"val": True}
EQUAL = {
    "no validation": Script(),
    "validation": Script(model=WITH_VALIDATION),
    "half epochs": Script(model=WITH_VALIDATION, val_check_interval=0.5),
    "accumulation": Script(model=WITH_VALIDATION, accumulate_grad_batches=2),
    "max_steps": Script(model=WITH_VALIDATION, max_steps=12, max_epochs=-1),
    "cut by max_steps": Script(model=WITH_VALIDATION, max_steps=10, max_epochs=-1),
    "manual": Script(model={"automatic": False}),
    "loader with state": Script(StatefulLoader, model={"val": True, "by_batch": True}),
    "blocks": Script(monitor={"every_n_train_batches": 3, "window": 2}, model=WITH_VALIDATION),
    "blocks of 1": Script(monitor={"every_n_train_batches": 1}),
    "one epoch in blocks": Script(
        lambda: loader(11), monitor={"every_n_train_batches": 4}, max_epochs=1
    ),
}


@pytest.mark.parametrize("script", EQUAL.values(), ids=EQUAL)
def test_every_checkpoint_resumes_to_the_uninterrupted_run(tmp_path, script):
    model, expected, _, checkpoints = script.whole(tmp_path)
    assert len(checkpoints) > 2 * len(model.returned) / script.options.get(
        "accumulate_grad_batches", 1
    )
    if "every_n_train_batches" not in script.monitor:
        means = returned_epoch_losses(model)
        assert expected.epoch_losses == {e: means[e] for e in expected.epoch_losses}
    for path in checkpoints:
        _, resumed = script.fit(tmp_path / "resumed", checkpoint=path)
        assert resumed.epoch_losses == expected.epoch_losses, path
        assert resumed.estimates == expected.estimates, path


def test_checkpoints_of_a_run_that_was_resumed_at_an_epochs_end_resume_too(tmp_path):
    # Lightning alone does not count the start of the next epoch. Of the later checkpoints, those
    # inside an epoch would start the epoch again, and those at its end would skip the next one.
    script = EQUAL["loader with state"]
    _, expected, first, _ = script.whole(tmp_path / "first")
    last_batch = next(path for path, trained in first.trained_before.items() if trained == 4)
    assert last_batch.name.startswith("batch")
    second = SaveEverywhere(tmp_path / "second")
    script.fit(tmp_path / "second", second, checkpoint=last_batch)
    assert len(second.trained_before) == 13
    for path, before in second.trained_before.items():
        model, resumed = script.fit(tmp_path / "third", checkpoint=path)
        assert len(model.returned) == 8 - before, path
        assert resumed.epoch_losses == expected.epoch_losses, path


DIFFERENT = {
    # In the middle of an epoch, Lightning starts a loader without a length from its beginning.
    "no length": Script(lambda: DataLoader(Stream(4), batch_size=1)),
    "no length, limit above": Script(
        lambda: DataLoader(Stream(4), batch_size=1), limit_train_batches=9
    ),
    # Lightning trains one more batch of a complete epoch, and one less at the end of the run.
    "max_steps, no validation": Script(max_steps=12, max_epochs=-1),
}


@pytest.mark.parametrize("script", DIFFERENT.values(), ids=DIFFERENT)
def test_losses_of_the_batches_that_lightning_really_trains_count(tmp_path, script):
    model, _, saver, _ = script.whole(tmp_path)
    for path, before in saver.trained_before.items():
        rest, resumed = script.fit(tmp_path / "resumed", checkpoint=path)
        rest.returned = model.returned[:before] + rest.returned
        means = returned_epoch_losses(rest)
        whole = {e: means[e] for e in resumed.epoch_losses}
        assert resumed.epoch_losses == pytest.approx(whole, rel=1e-15), path
        assert len(means) - len(whole) <= 1, path  # the last one may have been cut


def test_the_windows_may_change_on_a_resume(tmp_path):
    script = EQUAL["no validation"]
    _, expected, saver, _ = script.whole(tmp_path)
    path = list(saver.trained_before)[6]
    _, resumed = script.fit(tmp_path, checkpoint=path, window=(2, 3), ema_decay=0.5)
    curve = list(expected.epoch_losses.values())
    assert resumed.estimates == pytest.approx(
        {
            "sotl": sum(curve),
            "sotl_e2": curve[1] + curve[2],
            "sotl_e3": sum(curve),
            "sotl_ema0.5": curve[0] / 4 + curve[1] / 2 + curve[2],
        },
        rel=1e-15,
    )


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "every_n_train_batches",
            5,
            "Expected `every_n_train_batches` to be None, as in the checkpoint, but got 5.",
        ),
        (
            "loss_key",
            "nll",
            "Expected `loss_key` to be 'loss', as in the checkpoint, but got 'nll'.",
        ),
    ],
)
def test_another_unit_or_another_loss_is_refused_on_a_resume(tmp_path, argument, value, message):
    script = EQUAL["no validation"]
    _, _, saver, _ = script.whole(tmp_path)
    with pytest.raises(ValueError, match=argument) as caught:
        script.fit(tmp_path, checkpoint=next(iter(saver.trained_before)), **{argument: value})
    assert str(caught.value) == message


def test_a_monitor_that_is_added_on_a_resume_starts_there(tmp_path):
    saver = SaveEverywhere(tmp_path)
    trainer(tmp_path, callbacks=[saver]).fit(scripted_model(), loader(4))
    path = next(p for p in saver.trained_before if p.name.startswith("epoch"))
    monitor = SoTLMonitor()
    monitor._state.losses.window(0)  # as another run may leave the callback
    model = scripted_model()
    trainer(tmp_path, callbacks=[monitor]).fit(model, loader(4), ckpt_path=path)
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert sorted(monitor.epoch_losses) == [1, 2]
    assert sorted(monitor.estimates) == ["sotl_e1"]


def test_the_state_can_be_loaded_with_weights_only(tmp_path):
    monitor = SoTLMonitor(window=(1, 2), ema_decay=0.5)
    run = trainer(tmp_path, callbacks=[monitor])
    run.fit(scripted_model(), loader(4))
    run.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    state = saved["callbacks"]["SoTLMonitor{'prefix': 'sotl'}"]
    assert state == monitor.state_dict()
    other = SoTLMonitor()
    other.load_state_dict(state)
    assert other.state_dict() == state


@pytest.mark.parametrize("block", [None, 3])
def test_a_monitor_that_is_added_inside_an_epoch_gives_that_epoch_no_loss(tmp_path, block):
    saver = SaveEverywhere(tmp_path)
    model = {"by_batch": True}
    trainer(tmp_path, callbacks=[saver]).fit(scripted_model(**model), StatefulLoader(4))
    path = list(saver.trained_before)[6]  # after batch 2 of epoch 1; index 4 is an epoch end
    assert saver.trained_before[path] == 6
    monitor, rest = SoTLMonitor(every_n_train_batches=block), scripted_model(**model)
    joined = {"callbacks": [monitor]}
    if block is None:
        with pytest.warns(UserWarning, match="no state of this SoTLMonitor") as caught:
            trainer(tmp_path, **joined).fit(rest, StatefulLoader(4), ckpt_path=path)
        message = message_with(caught, "no state")
        assert message == (
            "The checkpoint has no state of this SoTLMonitor, so the losses of the first 2 batches "
            "of epoch 1 are unknown. Estimates that need epoch 1 are not logged."
        )
        assert monitor.epoch_losses == {2: returned_epoch_losses(rest)[2]}
    else:  # 6 batches are two whole blocks
        trainer(tmp_path, **joined).fit(rest, StatefulLoader(4), ckpt_path=path)
        values = [value for *_, value in rest.returned]
        assert monitor.epoch_losses == {2: sum(values[:3]) / 3, 3: sum(values[3:]) / 3}


def test_a_key_that_only_some_steps_have_is_known_after_a_resume(tmp_path):
    def output(loss):
        output.calls += 1
        return {"d" if output.calls % 2 else "g": loss}

    output.calls = 0
    monitor = SoTLMonitor(loss_key="d")
    saver = SaveEverywhere(tmp_path)
    model = scripted_model(output=output, automatic=False)
    trainer(tmp_path, callbacks=[saver, monitor], max_epochs=1).fit(model, loader(4))
    resumed = SoTLMonitor(loss_key="d")
    rest = scripted_model(output=output, automatic=False)
    output.calls = 1
    trainer(tmp_path, callbacks=[resumed], max_epochs=1).fit(
        rest, loader(4), ckpt_path=next(iter(saver.trained_before))
    )
    assert rest.returned[0][1] == 1
    assert resumed.epoch_losses == monitor.epoch_losses
