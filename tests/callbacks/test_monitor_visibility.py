"""When other callbacks can read the estimate, and from which epoch it is."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import (
    Stream,
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pl = lightning()


class ReadMetric(pl.Callback):
    """Collects (epoch, trained batches, value) after validations, and values at epoch ends."""

    def __init__(self, name="sotl_e1"):
        self.name = name
        self.at_validation = []
        self.at_epoch_end = []

    def _value(self, trainer):
        value = trainer.callback_metrics.get(self.name)
        return None if value is None else float(value)

    def on_validation_end(self, trainer, pl_module):
        batches = trainer.fit_loop.batch_idx + 1
        self.at_validation.append((trainer.current_epoch, batches, self._value(trainer)))

    def on_train_epoch_end(self, trainer, pl_module):
        self.at_epoch_end.append(self._value(trainer))


@pytest.mark.parametrize("order", ["reader first", "monitor first"])
@pytest.mark.parametrize("val_check_interval", [1.0, 0.5])
def test_the_newest_complete_epoch_is_visible_in_any_order(tmp_path, order, val_check_interval):
    reader, monitor, model = ReadMetric(), SoTLMonitor(), scripted_model(val=True)
    callbacks = [reader, monitor] if order == "reader first" else [monitor, reader]
    trainer(
        tmp_path,
        callbacks=callbacks,
        val_check_interval=val_check_interval,
        num_sanity_val_steps=1,
    ).fit(model, loader(4))
    losses = returned_epoch_losses(model)
    assert reader.at_epoch_end == list(losses.values())
    sanity, *validations = reader.at_validation
    assert sanity[2] is None
    assert len(validations) == 3 / val_check_interval
    for epoch, batches, value in validations:
        assert value == losses.get(epoch if batches == 4 else epoch - 1)


def test_values_are_float64(tmp_path):
    monitor = SoTLMonitor()
    run = trainer(tmp_path, callbacks=[monitor])
    run.fit(scripted_model(loss=lambda e, b: 0.1 * (b + 1)), loader(3))
    assert run.callback_metrics["sotl_e1"].dtype == torch.float64
    assert float(run.callback_metrics["sotl_e1"]) == monitor.estimates["sotl_e1"]
    assert float(run.logged_metrics["sotl"]) == monitor.estimates["sotl"]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"check_val_every_n_epoch": 2}, {"on_epoch_end": True}),
        ({"check_val_every_n_epoch": 2}, {}),
        ({"val_check_interval": 0.5}, {"on_epoch_end": True}),
        ({"limit_val_batches": 0}, {}),
    ],
    ids=[
        "defaults",
        "every 2, at epoch end",
        "every 2",
        "half epochs, at epoch end",
        "no validation",
    ],
)
def test_lightnings_own_callbacks_see_the_right_epoch(tmp_path, options, arguments, order):
    at_end = arguments.get("on_epoch_end")
    stopping = pl.callbacks.EarlyStopping(
        "sotl_e1", patience=1, check_on_train_epoch_end=at_end, verbose=False
    )
    checkpoint = pl.callbacks.ModelCheckpoint(
        tmp_path / "c",
        monitor="sotl_e1",
        save_top_k=-1,
        filename="{epoch}={sotl_e1:.6f}",
        save_on_train_epoch_end=at_end,
    )
    losses = [4.0, 3.0, 2.0, 2.5, 9.0, 9.0]
    model = scripted_model(loss=lambda e, b: losses[e] + b / 8, val=True)
    callbacks = [stopping, SoTLMonitor(), checkpoint]
    trainer(
        tmp_path,
        callbacks=callbacks if order else callbacks[::-1],
        enable_checkpointing=True,
        max_epochs=6,
        **options,
    ).fit(model, loader(4))
    scores = {
        int(path.split("epoch=")[1].split("=")[0].split("-")[0]): float(score)
        for path, score in checkpoint.best_k_models.items()
    }
    assert scores == {epoch: losses[epoch] + 3 / 16 for epoch in scores}
    each_epoch = at_end or "check_val_every_n_epoch" not in options
    # Epoch 2 is the best. With a patience of 1, the run ends at the next reading.
    assert list(scores) == ([0, 1, 2, 3] if each_epoch else [1, 3, 5])
    assert max(epoch for epoch, _, _ in model.returned) == max(scores)


@pytest.mark.parametrize(
    ("callback", "options", "window", "message"),
    [
        (
            lambda: pl.callbacks.EarlyStopping("sotl_e1"),
            {"val_check_interval": 0.5},
            1,
            "EarlyStopping(monitor='sotl_e1') reads its metric after each validation. It will "
            "raise an error because the first validation comes before an epoch is complete, so "
            "there is no value yet. Pass `check_on_train_epoch_end=True`.",
        ),
        (
            lambda: pl.callbacks.ModelCheckpoint(monitor="sotl"),
            {"val_check_interval": 2},
            1,
            "ModelCheckpoint(monitor='sotl') reads its metric after each validation. It will "
            "raise an error because the first validation comes before an epoch is complete, so "
            "there is no value yet. Pass `save_on_train_epoch_end=True`.",
        ),
        (
            lambda: pl.callbacks.EarlyStopping("sotl_e3"),
            {},
            3,
            "EarlyStopping(monitor='sotl_e3') reads its metric after 4 batches. It will raise an "
            "error because the first value is available after 12 batches. Pass `strict=False`.",
        ),
        (
            lambda: pl.callbacks.ModelCheckpoint(monitor="sotl_e3"),
            {},
            3,
            "ModelCheckpoint(monitor='sotl_e3') reads its metric after 4 batches. It will raise an "
            "error because the first value is available after 12 batches. Pass `every_n_epochs=3`.",
        ),
    ],
)
def test_a_reading_before_the_first_value_causes_a_warning_at_the_start(
    tmp_path, callback, options, window, message
):
    model = scripted_model(val=True)
    run = trainer(
        tmp_path,
        callbacks=[callback(), SoTLMonitor(window=window)],
        enable_checkpointing=True,
        **options,
    )
    with (
        pytest.warns(UserWarning, match="reads its metric after") as caught,
        pytest.raises(Exception, match=r"is not available|could not find the monitored key"),
    ):
        run.fit(model, loader(4))
    assert message_with(caught, "(monitor=") == message


@pytest.mark.parametrize(
    ("callback", "options", "monitor"),
    [
        (lambda: pl.callbacks.EarlyStopping("sotl_e3", strict=False), {}, {"window": 3}),
        (
            lambda: pl.callbacks.ModelCheckpoint(monitor="sotl_e3", every_n_epochs=3),
            {},
            {"window": 3},
        ),
        (
            lambda: pl.callbacks.ModelCheckpoint(monitor="sotl_e1", every_n_train_steps=4),
            {"val_check_interval": 0.5},
            {},
        ),
        (
            lambda: pl.callbacks.EarlyStopping("sotl_b2_e1"),
            {"val_check_interval": 0.5},
            {"every_n_train_batches": 2},
        ),
    ],
)
def test_a_reading_that_will_not_raise_causes_no_warning(tmp_path, callback, options, monitor):
    trainer(
        tmp_path,
        callbacks=[callback(), SoTLMonitor(**monitor)],
        enable_checkpointing=True,
        **options,
    ).fit(scripted_model(val=True), loader(4))


def test_blocks_longer_than_an_epoch_cause_the_warning_too(tmp_path):
    stopping = pl.callbacks.EarlyStopping("sotl_b6_e1")
    with (
        pytest.warns(UserWarning, match="reads its metric after") as caught,
        pytest.raises(RuntimeError, match="sotl_b6_e1"),
    ):
        trainer(tmp_path, callbacks=[stopping, SoTLMonitor(every_n_train_batches=6)]).fit(
            scripted_model(), loader(4)
        )
    assert message_with(caught, "(monitor=") == (
        "EarlyStopping(monitor='sotl_b6_e1') reads its metric after 4 batches. It will raise an "
        "error because the first value is available after 6 batches. Pass `strict=False`."
    )


def test_an_early_stopping_that_never_reads_its_metric_causes_a_warning(tmp_path):
    stopping = pl.callbacks.EarlyStopping("sotl_e1", check_on_train_epoch_end=False)
    with pytest.warns(UserWarning, match="only after validation") as caught:
        trainer(tmp_path, callbacks=[stopping, SoTLMonitor()]).fit(scripted_model(), loader(4))
    assert message_with(caught, "(monitor=") == (
        "EarlyStopping(monitor='sotl_e1') reads its metric only after validation, but there is no "
        "validation. Pass `check_on_train_epoch_end=True`."
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"limit_train_batches": 10}, {"limit_train_batches": 3}, {"limit_train_batches": 4}],
    ids=["to its end", "limit above", "limit below", "limit at"],
)
def test_a_loader_without_length_makes_whole_epochs(tmp_path, options):
    reader, monitor, model = ReadMetric(), SoTLMonitor(), scripted_model(val=True)
    callbacks = [reader, EarlyRankingStopper(stop_epoch=2), monitor]
    trainer(tmp_path, callbacks=callbacks, **options).fit(
        model, DataLoader(Stream(4), batch_size=1)
    )
    expected = returned_epoch_losses(model)
    assert monitor.epoch_losses == expected
    assert list(expected) == [0, 1]
    assert reader.at_epoch_end == list(expected.values())


def test_estimates_over_several_epochs_appear_when_their_window_is_full(tmp_path):
    reader = ReadMetric("sotl_e3")
    trainer(tmp_path, callbacks=[reader, SoTLMonitor(window=[1, 3])], max_epochs=5).fit(
        scripted_model(), loader(4)
    )
    means = [sum(scripted_loss(e, b) for b in range(4)) / 4 for e in range(5)]
    assert reader.at_epoch_end == [None, None] + [
        pytest.approx(sum(means[e - 2 : e + 1]), rel=1e-6) for e in (2, 3, 4)
    ]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_resumed_run_shows_the_newest_complete_epoch_before_its_first_batch(tmp_path):
    seen = []

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    class ReadAtStart(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append({n: float(v) for n, v in trainer.callback_metrics.items()})

    trainer(tmp_path, callbacks=[Save(), SoTLMonitor()]).fit(scripted_model(), loader(4))
    reader = ReadMetric()
    callbacks = [ReadAtStart(), reader, SoTLMonitor()]
    trainer(tmp_path, callbacks=callbacks, val_check_interval=0.5).fit(
        scripted_model(val=True), loader(4), ckpt_path=tmp_path / "x.ckpt"
    )
    assert seen == [{"sotl": 4.28125, "sotl_e1": 4.28125}]
    assert reader.at_validation[:2] == [(1, 2, 4.28125), (1, 4, 2.375)]
