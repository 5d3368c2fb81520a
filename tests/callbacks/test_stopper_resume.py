"""A stopper in a second run, in a copy, and in a run that resumes from a checkpoint."""

import copy
import pickle

import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, StoppingReason
from tests.support.helpers import (
    fit_with_stopper,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pl = lightning()


def test_a_stopper_in_two_runs_has_the_results_of_the_newer(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    for factor in (1.0, 0.5):
        model = scripted_model(loss=lambda e, b, f=factor: f * scripted_loss(e, b))
        fit_with_stopper(tmp_path, stopper, model=model)
        assert stopper.estimate == returned_epoch_losses(model)[1]


def test_copies_after_fit_have_the_results(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    fit_with_stopper(tmp_path, stopper)
    for twin in (copy.deepcopy(stopper), pickle.loads(pickle.dumps(stopper))):  # noqa: S301
        assert (twin.estimate, twin.epochs_completed) == (stopper.estimate, 2)
        assert twin.stopping_reason is StoppingReason.stop_epoch_reached
        model, _ = fit_with_stopper(tmp_path, twin, batches=3)
        assert twin.estimate == returned_epoch_losses(model)[1] != stopper.estimate


class SaveEachStep(pl.Callback):
    """Saves at each end of a batch, validation or epoch, before the stopper decides."""

    def __init__(self, folder):
        self.folder, self.paths = folder, []

    def _save(self, trainer, *args):
        path = self.folder / f"{len(self.paths):03d}.ckpt"
        trainer.save_checkpoint(path)
        self.paths.append(path)

    on_train_batch_end = on_train_epoch_end = _save

    def on_validation_end(self, trainer, *args):
        self._save(trainer)


@pytest.mark.filterwarnings("ignore:`stop_epoch=2` is below the Trainer's `min_epochs")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(
    ("stopper", "monitor", "options"),
    [
        ({"stop_epoch": 2}, {}, {}),
        ({"stop_epoch": 2}, {}, {"min_steps": 10}),
        ({"stop_epoch": 2}, {}, {"min_epochs": 4}),
        ({"stop_batches": 6, "monitor": "sotl_b3_e1"}, {"every_n_train_batches": 3}, {}),
        ({"stop_batches": 4, "monitor": "sotl_b2_e1"}, {"every_n_train_batches": 2}, {}),
        (
            {"stop_batches": 3, "monitor": "sotl_b3_e1"},
            {"every_n_train_batches": 3},
            {"min_epochs": 2},
        ),
    ],
    ids=["epoch", "min_steps", "min_epochs", "blocks", "blocks at a border", "blocks, min_epochs"],
)
def test_a_crashed_run_ends_where_it_would_have_ended(tmp_path, stopper, monitor, options):
    def run(*callbacks, checkpoint=None):
        own, model = EarlyRankingStopper(**stopper), scripted_model(val=True)
        trainer(
            tmp_path,
            callbacks=[*callbacks, own, SoTLMonitor(**monitor)],
            max_epochs=8,
            **options,
        ).fit(model, loader(4), ckpt_path=checkpoint)
        return model, own

    saver = SaveEachStep(tmp_path)
    whole, expected = run(saver)
    for path in saver.paths:
        rest, resumed = run(checkpoint=path)
        assert resumed.estimate == expected.estimate, path
        assert resumed.epochs_completed == expected.epochs_completed, path
        assert resumed.stopping_reason != "not_stopped"
        trained = [step[:2] for step in rest.returned]
        steps = [step[:2] for step in whole.returned]
        assert trained == steps[len(steps) - len(trained) :], path


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:None of the 4 steps")
@pytest.mark.filterwarnings("ignore:The limit is reached but")
def test_a_resumed_run_without_the_estimate_continues_until_it_exists(tmp_path):
    model = {"loss": lambda e, b: None if e == 1 else scripted_loss(e, b)}
    saver, stopper = SaveEachStep(tmp_path), EarlyRankingStopper(stop_epoch=2)
    fit_with_stopper(tmp_path, stopper, saver, model=scripted_model(**model))
    assert (stopper.epochs_completed, stopper.stopping_reason) == (3, "stop_epoch_reached")
    resumed, monitor = EarlyRankingStopper(stop_epoch=2), SoTLMonitor()
    rest = scripted_model(**model)
    path = saver.paths[9]  # the end of epoch 1
    trainer(tmp_path, callbacks=[resumed, monitor], max_epochs=8).fit(
        rest, loader(4), ckpt_path=path
    )
    assert [epoch for epoch, *_ in rest.returned] == [2] * 4
    assert (resumed.estimate, resumed.epochs_completed) == (stopper.estimate, 3)


def test_an_epoch_without_a_trained_batch_is_no_stop(tmp_path):
    # If the same Trainer starts again from a checkpoint of a validation, Lightning trains nothing,
    # but counts all epochs. The estimate is that of epoch 0.
    class Save(pl.Callback):
        def on_validation_end(self, trainer, module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "validation.ckpt")

    model, monitor = scripted_model(val=True), SoTLMonitor()
    stopper = EarlyRankingStopper(stop_epoch=2)
    _, run = fit_with_stopper(tmp_path, stopper, Save(), model=model, monitor=monitor, max_epochs=4)
    assert stopper.epochs_completed == 2
    model.returned = []
    run.fit(model, loader(4), ckpt_path=tmp_path / "validation.ckpt")
    assert model.returned == []
    assert sorted(monitor.epoch_losses) == [0]
    assert stopper.stopping_reason is StoppingReason.not_stopped
    assert stopper.estimate is None


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_after_an_epoch_that_its_module_skipped_stops_where_the_whole_run_stops(
    tmp_path,
):
    # The module skips epoch 1, so L(1) does not exist, and the whole run stops after epoch 2.
    class SkipAndSave(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            epoch = trainer.current_epoch
            module.on_train_batch_start = lambda batch, index: -1 if epoch == 1 else None

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (2, 0) and trainer.ckpt_path is None:
                trainer.save_checkpoint(tmp_path / "2.ckpt")

    stopper, resumed = EarlyRankingStopper(stop_epoch=2), EarlyRankingStopper(stop_epoch=2)
    model, _ = fit_with_stopper(tmp_path, stopper, SkipAndSave(), enable_checkpointing=True)
    callbacks = [SkipAndSave(), SoTLMonitor(), resumed]
    run = trainer(tmp_path, callbacks=callbacks, max_epochs=8)
    run.fit(scripted_model(), loader(4), ckpt_path=tmp_path / "2.ckpt")
    assert (stopper.estimate, stopper.epochs_completed) == (returned_epoch_losses(model)[2], 3)
    assert (resumed.estimate, resumed.epochs_completed) == (stopper.estimate, 3)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_log_lines_report_how_a_run_starts_and_ends(tmp_path, caplog):
    def logged_by(stopper, *, saves=True):
        caplog.clear()
        callbacks = [stopper, SoTLMonitor(record=False)]
        run = trainer(tmp_path, callbacks=callbacks, max_epochs=4, enable_checkpointing=saves)
        run.fit(scripted_model(), loader(4), ckpt_path=path)
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if " run " in line]

    path = None
    stopper = EarlyRankingStopper(stop_epoch=2)
    loss = sum(scripted_loss(1, batch) for batch in range(4)) / 4
    ended = f"The run ends after 2 epochs with `sotl_e1` = {loss:.6g}"
    assert logged_by(EarlyRankingStopper(stop_epoch=2), saves=False) == [
        "Checkpointing is off, so the run will save no checkpoint when it stops and cannot be "
        "promoted. Pass EarlyRankingStopper a `checkpoint_dir`.",
        f"{ended}. It saved no checkpoint, so it cannot be promoted.",
    ]
    (line,) = logged_by(stopper)
    assert line == f"{ended}. It can be resumed from '{stopper.checkpoint_path}'."
    assert logged_by(EarlyRankingStopper(stop_epoch=2, promoted=True)) == [
        "The promoted run was started without a checkpoint, so it is trained from epoch 0 and not "
        "stopped. To continue it from its stop, call `winner.fit`, or pass `ckpt_path` to `fit`."
    ]
    path = stopper.checkpoint_path
    assert logged_by(EarlyRankingStopper(stop_epoch=2)) == [
        "The run already ended after 2 epochs and is not trained further. To continue it, pass its "
        "stopper `promoted=True` or a later limit."
    ]
    assert logged_by(EarlyRankingStopper(stop_epoch=2, promoted=True)) == []
