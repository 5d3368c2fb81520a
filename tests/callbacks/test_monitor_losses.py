"""L(e) in a real Trainer equals the mean of the losses that `training_step` returned."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import SoTLMonitor, sotl, sotl_e, sotl_ema
from tests.support.helpers import (
    PACKAGES,
    Stream,
    door,
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)
from tests.support.written_logs import record


def fit(tmp_path, model, *, monitor=None, batches=4, data=None, callbacks=(), **kwargs):
    monitor = monitor or SoTLMonitor()
    run = trainer(tmp_path, callbacks=[monitor, *callbacks], **kwargs)
    run.fit(model, data if data is not None else loader(batches))
    return monitor, run


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("accumulate", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [6, 7])
def test_accumulation_does_not_change_the_losses(tmp_path, package, accumulate, batches):
    model = scripted_model(package)
    monitor = door(package).SoTLMonitor()
    run = trainer(tmp_path, package, callbacks=[monitor], accumulate_grad_batches=accumulate)
    run.fit(model, loader(batches))
    expected = returned_epoch_losses(model)
    # Lightning divides in float32: exact for powers of two, rounded once for 3.
    rtol = 2.0**-23 if accumulate == 3 else 0.0
    assert monitor.epoch_losses == pytest.approx(expected, rel=rtol, abs=0)
    assert list(expected) == [0, 1, 2]


def test_accumulation_may_change_with_the_epoch(tmp_path):
    model = scripted_model()
    scheduler = lightning().callbacks.GradientAccumulationScheduler({0: 1, 1: 4, 2: 2})
    monitor, _ = fit(tmp_path, model, callbacks=[scheduler], batches=5)
    assert monitor.epoch_losses == returned_epoch_losses(model)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_bfloat16_losses_lose_no_more_than_lightning_rounds(tmp_path, accumulate):
    model = scripted_model(output=lambda loss: loss.bfloat16())
    monitor, _ = fit(tmp_path, model, accumulate_grad_batches=accumulate, batches=6)
    expected = {
        epoch: sum(
            float(torch.tensor(scripted_loss(epoch, b), dtype=torch.bfloat16)) for b in range(6)
        )
        / 6
        for epoch in range(3)
    }
    rtol = 2.0**-8 if accumulate == 3 else 0.0
    assert monitor.epoch_losses == pytest.approx(expected, rel=rtol, abs=0)


@pytest.mark.parametrize(
    "output",
    [
        lambda loss: loss,
        lambda loss: {"loss": loss},
        lambda loss: {"loss": loss, "logits": torch.ones(3), "note": "x"},
        lambda loss: loss.reshape(1),
        lambda loss: {"loss": loss.reshape(1, 1)},
    ],
    ids=["tensor", "dict", "dict with extras", "shape (1,)", "dict with shape (1, 1)"],
)
@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_any_shape_of_output_gives_the_loss(tmp_path, output, automatic):
    model = scripted_model(output=output, automatic=automatic)
    monitor, _ = fit(tmp_path, model)
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_a_manual_loss_that_the_module_overwrites_keeps_its_value(tmp_path):
    model = scripted_model(automatic=False)
    step, buffer = model.training_step, torch.zeros(())

    def into_one_buffer(batch, batch_idx):
        buffer.copy_(step(batch, batch_idx).detach())
        return buffer

    model.training_step = into_one_buffer
    monitor, _ = fit(tmp_path, model)
    assert monitor.epoch_losses == returned_epoch_losses(model)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_another_entry_of_the_output_is_not_scaled_by_accumulation(tmp_path, accumulate):
    model = scripted_model(output=lambda loss: {"loss": loss, "nll": loss.detach() / 2})
    monitor, _ = fit(
        tmp_path, model, monitor=SoTLMonitor(loss_key="nll"), accumulate_grad_batches=accumulate
    )
    halves = {epoch: loss / 2 for epoch, loss in returned_epoch_losses(model).items()}
    assert monitor.epoch_losses == halves


def test_a_loss_may_be_a_number(tmp_path):
    model = scripted_model(output=lambda loss: {"loss": loss, "nll": 0.1})
    monitor, _ = fit(tmp_path, model, monitor=SoTLMonitor(loss_key="nll"))
    assert monitor.epoch_losses == {e: pytest.approx(0.1, rel=1e-15) for e in range(3)}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_steps_without_a_loss_do_not_count(tmp_path):
    model = scripted_model(loss=lambda e, b: None if b % 2 else scripted_loss(e, b))
    monitor, _ = fit(tmp_path, model, monitor=SoTLMonitor(directory=tmp_path), batches=5)
    assert monitor.epoch_losses == returned_epoch_losses(model)
    _, units, _ = record(tmp_path)
    assert [line["steps"] for line in units.values()] == [3, 3, 3]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_an_epoch_without_any_loss_warns_and_is_in_no_estimate(tmp_path):
    model = scripted_model(loss=lambda e, b: None if e == 1 else scripted_loss(e, b))
    seen = []

    class ReadMetrics(lightning().Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(sorted(n for n in trainer.callback_metrics if n.startswith("sotl")))

    with pytest.warns(UserWarning, match="None of the 4 steps") as caught:
        monitor, _ = fit(tmp_path, model, callbacks=[ReadMetrics()])
    assert message_with(caught, "None of the") == (
        "None of the 4 steps of epoch 1 returned a loss. Estimates that need epoch 1 are not "
        "logged. Return the loss from `training_step`, also under manual optimization."
    )
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert seen == [["sotl", "sotl_e1"], [], ["sotl_e1"]]


def test_a_batch_of_none_does_not_count(tmp_path):
    model = scripted_model()
    data = DataLoader(Stream(4), batch_size=1, collate_fn=lambda x: None if x[0] == 2 else x[0])
    with pytest.warns(UserWarning, match="train_dataloader yielded None"):
        monitor, _ = fit(tmp_path, model, data=data)
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert len(model.returned) == 9


@pytest.mark.parametrize("automatic", [True, False])
def test_an_unknown_key_raises_in_the_first_step_and_lists_the_available_keys(tmp_path, automatic):
    model = scripted_model(output=lambda loss: {"loss": loss, "nll": loss}, automatic=automatic)
    with pytest.raises(RuntimeError, match="loss_key") as caught:
        fit(tmp_path, model, monitor=SoTLMonitor(loss_key="nnl"))
    assert str(caught.value) == (
        "`loss_key='nnl'` is not in the output of `training_step`; available: 'loss', 'nll'."
    )
    assert len(model.returned) == 1


def test_a_manual_step_without_the_key_raises_too(tmp_path):
    model = scripted_model(output=lambda loss: {"g": loss, "d": loss}, automatic=False)
    with pytest.raises(
        RuntimeError, match=r"^`loss_key='loss'` is not in the output of .*; available: 'g', 'd'\.$"
    ):
        fit(tmp_path, model)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            torch.ones(2),
            ValueError,
            "Expected `outputs['nll']` to be one number but got the shape (2,).",
        ),
        ("low", TypeError, "Expected `outputs['nll']` to be a tensor or a number but got str."),
        (True, TypeError, "Expected `outputs['nll']` to be a tensor or a number but got bool."),
    ],
)
def test_a_loss_that_is_not_a_number_is_refused(tmp_path, value, error, message):
    model = scripted_model(output=lambda loss: {"loss": loss, "nll": value})
    with pytest.raises(error, match="Expected") as caught:
        fit(tmp_path, model, monitor=SoTLMonitor(loss_key="nll"))
    assert str(caught.value) == message


def test_a_callback_that_changes_the_loss_in_place_is_detected(tmp_path):
    class Spoil(lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            outputs["loss"] *= 2

    with pytest.raises(RuntimeError, match="changed in place"):
        fit(tmp_path, scripted_model(), callbacks=[Spoil()])


def test_two_optimizers_under_manual_optimization_do_not_change_the_losses(tmp_path):
    model = scripted_model(automatic=False)
    model.configure_optimizers = lambda: [
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.Adam(model.parameters()),
    ]
    monitor, _ = fit(tmp_path, model)
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_lbfgs_counts_the_last_closure_of_each_step(tmp_path):
    pl = lightning()

    class Quadratic(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(3.0))
            self.last = {}
            self.calls = 0

        def training_step(self, batch, batch_idx):
            loss = (self.weight - batch.mean()).pow(2)
            self.calls += 1
            self.last[self.trainer.current_epoch, batch_idx] = float(loss.detach())
            return loss

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    model = Quadratic()
    monitor, _ = fit(tmp_path, model)
    assert model.calls > len(model.last)
    expected = {e: sum(model.last[e, b] for b in range(4)) / 4 for e in range(3)}
    assert monitor.epoch_losses == expected


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "32-true"])
def test_any_precision_gives_the_returned_losses(tmp_path, precision):
    pl = lightning()

    class Line(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.returned = []

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch / 10).pow(2).mean()
            self.returned.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    model = Line()
    monitor, _ = fit(tmp_path, model, precision=precision, batches=70)
    assert monitor.epoch_losses == returned_epoch_losses(model)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_run_continues_and_ranks_last(tmp_path, loss):
    model = scripted_model(loss=lambda e, b: loss if (e, b) == (1, 2) else scripted_loss(e, b))
    monitor, run = fit(tmp_path, model)
    assert monitor.epoch_losses[0] == 4.28125
    assert not math.isfinite(monitor.epoch_losses[1])
    assert monitor.estimates["sotl"] == math.inf
    assert monitor.estimates["sotl_e1"] == monitor.epoch_losses[2]
    assert float(run.callback_metrics["sotl"]) == math.inf


def test_callback_and_pure_functions_agree_at_every_epoch(tmp_path):
    names = ("sotl", "sotl_e1", "sotl_e3", "sotl_ema0.9")
    seen = []

    class ReadMetrics(lightning().Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            metrics = trainer.callback_metrics
            seen.append([float(metrics.get(name, torch.tensor(math.nan))) for name in names])

    monitor = SoTLMonitor(window=(1, 3), ema_decay=0.9)
    callbacks = [ReadMetrics()]
    fit(tmp_path, scripted_model(), monitor=monitor, callbacks=callbacks, max_epochs=8, batches=3)
    curve = list(monitor.epoch_losses.values())
    expected = [sotl(curve), sotl_e(curve), sotl_e(curve, window=3), sotl_ema(curve, decay=0.9)]
    for k in range(8):
        for name, value, table in zip(names, seen[k], expected, strict=True):
            rtol = 1e-12 if "ema" in name else 0
            assert value == pytest.approx(table[k], rel=rtol, abs=0, nan_ok=True), (name, k)


def test_the_better_run_ranks_first_by_default_arguments(tmp_path):
    runs = {}
    for name, factor in (("slow", 1.0), ("fast", 0.5)):
        model = scripted_model(loss=lambda e, b, f=factor: f * scripted_loss(e, b))
        runs[name] = fit(tmp_path, model)[0].estimates
    assert all(runs["fast"][key] < runs["slow"][key] for key in ("sotl", "sotl_e1"))
