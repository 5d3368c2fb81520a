"""Blocks of training batches instead of epochs."""

import csv

import pytest
import torch

from lightning_sotl import SoTLMonitor
from tests.support.helpers import lightning, loader, scripted_model, trainer

pl = lightning()


def block_means(model, size):
    values = [value for _, _, value in model.returned]
    whole = len(values) // size
    return {b: sum(values[b * size : (b + 1) * size]) / size for b in range(whole)}


@pytest.mark.parametrize(("batches", "epochs"), [(10, 3), (25, 1), (3, 9), (7, 2)])
def test_blocks_continue_across_the_borders_of_epochs(tmp_path, batches, epochs):
    model, monitor = scripted_model(), SoTLMonitor(every_n_train_batches=7, window=(1, 2))
    run = trainer(tmp_path, callbacks=[monitor], max_epochs=epochs)
    run.fit(model, loader(batches))
    means = block_means(model, 7)
    assert monitor.epoch_losses == means
    assert monitor.metric_names == ("sotl_b7", "sotl_b7_e1", "sotl_b7_e2")
    if len(means) > 1:
        newest = max(means)
        assert float(run.callback_metrics["sotl_b7_e2"]) == means[newest - 1] + means[newest]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_every_block_is_one_point_in_every_logger(tmp_path, accumulate):
    loggers = [
        pl.loggers.CSVLogger(tmp_path / "csv"),
        pl.loggers.TensorBoardLogger(tmp_path / "tb"),
    ]
    model, monitor = scripted_model(val=True), SoTLMonitor(every_n_train_batches=3)
    trainer(
        tmp_path,
        callbacks=[monitor],
        logger=loggers,
        log_every_n_steps=5,
        max_epochs=2,
        accumulate_grad_batches=accumulate,
    ).fit(model, loader(50))
    means = list(block_means(model, 3).values())
    assert len(means) == 33
    with open(f"{loggers[0].log_dir}/metrics.csv") as file:  # noqa: PTH123
        rows = [row["sotl_b3_e1"] for row in csv.DictReader(file) if row["sotl_b3_e1"]]
    assert [float(value) for value in rows] == pytest.approx(means, rel=1e-6)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(loggers[1].log_dir, size_guidance={"scalars": 0}).Reload()
    points = events.Scalars("sotl_b3_e1")
    assert [point.value for point in points] == pytest.approx(means, rel=1e-6)
    if accumulate == 1:
        assert [point.step for point in points] == list(range(2, 100, 3))


def test_a_block_is_visible_to_callbacks_in_its_last_batch(tmp_path):
    seen = []

    class ReadMetric(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            value = trainer.callback_metrics.get("sotl_b3_e1", torch.tensor(-1.0))
            seen.append(float(value))

    model = scripted_model()
    monitor = SoTLMonitor(every_n_train_batches=3, prog_bar=True)
    run = trainer(tmp_path, callbacks=[ReadMetric(), monitor], max_epochs=1)
    run.fit(model, loader(8))
    means = block_means(model, 3)
    assert seen == [-1.0, -1.0, means[0], means[0], means[0], means[1], means[1], means[1]]
    assert run.progress_bar_metrics["sotl_b3_e1"] == means[1]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_block_has_n_batches_with_or_without_a_loss(tmp_path):
    model = scripted_model(loss=lambda e, b: None if b in (0, 3, 4, 5) else 1.0 + b)
    monitor = SoTLMonitor(every_n_train_batches=3)
    with pytest.warns(UserWarning, match="None of the 3 steps of block 1 returned a loss"):
        trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model, loader(9))
    assert monitor.epoch_losses == {0: 2.5, 2: 8.0}


def test_an_epoch_axis_counts_blocks(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor = SoTLMonitor(every_n_train_batches=4, epoch_axis=True)
    model = scripted_model()
    trainer(tmp_path, callbacks=[monitor], logger=logger, max_epochs=1).fit(model, loader(12))
    with open(f"{logger.log_dir}/metrics.csv") as file:  # noqa: PTH123
        rows = [r for r in csv.DictReader(file) if r["sotl_b4_e1/epoch"]]
    assert [(int(r["step"]), float(r["sotl_b4_e1/epoch"])) for r in rows] == [
        (b, pytest.approx(mean, rel=1e-6)) for b, mean in block_means(model, 4).items()
    ]
