"""What a monitor logs to TensorBoard, to CSV files and to the progress bar."""

import pytest

from lightning_sotl import SoTLMonitor
from tests.support.helpers import (
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)
from tests.support.written_logs import csv_points, inexact_loss, record, scalars

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


def test_events_and_rows_contain_one_point_per_epoch(tmp_path):
    loggers = [pl.loggers.TensorBoardLogger(tmp_path), pl.loggers.CSVLogger(tmp_path)]
    monitor, model = SoTLMonitor(), scripted_model(val=True, loss=inexact_loss)
    trainer(tmp_path, callbacks=[monitor], logger=loggers, log_every_n_steps=50).fit(
        model, loader(50)
    )
    means = list(returned_epoch_losses(model).values())
    sums = [sum(means[:k]) for k in (1, 2, 3)]
    tags = scalars(loggers[0].log_dir)
    for name, expected in (("sotl", sums), ("sotl_e1", means)):
        assert [step for step, _ in tags[name]] == [49, 99, 149]
        assert [value for _, value in tags[name]] == pytest.approx(expected, rel=1e-7)
        points = csv_points(loggers[1], name)
        assert [(epoch, step) for epoch, step, _ in points] == [(0, 49), (1, 99), (2, 149)]
        assert [value for *_, value in points] == pytest.approx(expected, rel=1e-7)
    assert not any(tag.endswith("/epoch") for tag in tags)


def test_the_epoch_axis_is_logged_on_request(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    monitor, model = SoTLMonitor(epoch_axis=True), scripted_model(loss=inexact_loss)
    trainer(tmp_path, callbacks=[monitor], logger=logger).fit(model, loader(4))
    means = returned_epoch_losses(model)
    tags = scalars(logger.log_dir)
    assert tags["sotl_e1/epoch"] == [(e, pytest.approx(m, rel=1e-7)) for e, m in means.items()]
    assert [step for step, _ in tags["sotl_e1"]] == [3, 7, 11]


def test_prog_bar_shows_the_estimate(tmp_path):
    monitor = SoTLMonitor(prog_bar=True)
    run = trainer(tmp_path, callbacks=[monitor])
    run.fit(scripted_model(), loader(4))
    assert run.progress_bar_metrics["sotl_e1"] == pytest.approx(monitor.estimates["sotl_e1"])


class SaveAt(pl.Callback):
    """Saves one checkpoint at a named moment."""

    def __init__(self, moment, path):
        self.moment, self.path = moment, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        at = {"batch 5": 6, "last batch of epoch 1": 8}.get(self.moment)
        if trainer.global_step == at:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer, pl_module):
        if self.moment == "validation of epoch 1" and trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, pl_module):
        if self.moment == "end of epoch 1" and trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("into", ["the same directory", "another directory"])
@pytest.mark.parametrize(
    "saved_at",
    ["batch 5", "last batch of epoch 1", "validation of epoch 1", "end of epoch 1"],
)
def test_a_resume_completes_the_record_and_the_logs(tmp_path, into, saved_at):
    """CSVLogger deletes its own rows on a resume into its version; the record loses none."""

    def fit(version, checkpoint=None):
        loggers = [
            pl.loggers.CSVLogger(tmp_path, version=version),
            pl.loggers.TensorBoardLogger(tmp_path, version=f"tb{version}"),
        ]
        model = scripted_model(loss=inexact_loss, val=True)
        saves = [] if checkpoint else [SaveAt(saved_at, tmp_path / "x.ckpt")]
        run = trainer(tmp_path, callbacks=[*saves, SoTLMonitor()], logger=loggers, max_epochs=4)
        run.fit(model, loader(4), ckpt_path=checkpoint)
        return model, loggers

    model, loggers = fit(0)
    whole = list(returned_epoch_losses(model).values())
    first_run = scalars(loggers[1].log_dir)["sotl_e1"]
    version = 0 if into == "the same directory" else 1
    _, loggers = fit(version, tmp_path / "x.ckpt")
    headers, units, _ = record(loggers[0].log_dir)
    assert len({header["run_id"] for header in headers}) == 1
    assert len(headers) == (2 if version == 0 else 1)
    assert [units[e]["loss"] for e in sorted(units)] == whole
    # The values of an epoch's end are logged even if Lightning does not call that end.
    first = 2 if saved_at == "end of epoch 1" else 1
    expected = [(e, 4 * e + 3, pytest.approx(whole[e], rel=1e-6)) for e in range(first, 4)]
    assert csv_points(loggers[0], "sotl_e1") == expected
    points = scalars(loggers[1].log_dir)["sotl_e1"]
    if version == 1:
        assert points == first_run[first:]
    else:
        assert sorted(set(points)) == first_run
