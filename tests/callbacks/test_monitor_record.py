"""The record of a run: its contents, its path, and its status lines."""

import copy
import math
import pickle
from pathlib import Path

import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from tests.support.helpers import (
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_model,
    trainer,
)
from tests.support.written_logs import inexact_loss, record

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


def test_the_record_contains_float64_losses_and_the_settings_that_runs_must_share(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor, model = SoTLMonitor(), scripted_model(loss=inexact_loss)
    model.save_hyperparameters({"width": 8, "weight_decay": 0.1})
    run = trainer(tmp_path, callbacks=[monitor], logger=logger, accumulate_grad_batches=2)
    run.fit(model, loader(8, batch_size=2))
    (header,), units, statuses = record(logger.log_dir)
    assert {key: header[key] for key in header if key not in ("run_id", "time", "network")} == {
        "schema": 1,
        "prefix": "sotl",
        "name": None,
        "params": None,
        "loss_key": "loss",
        "unit": "epoch",
        "batches_per_unit": 4,
        "batch_size": 2,
        "world_size": 1,
        "accumulate_grad_batches": 2,
        "max_epochs": 3,
        "max_steps": -1,
        "precision": "32-true",
        "hparams": {"width": 8, "weight_decay": 0.1},
        "inexact_hparams": [],
        "parent": None,
        "parent_units": 0,
    }
    means = returned_epoch_losses(model)
    assert units == {
        e: {"e": e, "loss": mean, "steps": 4, "checkpoint": None} for e, mean in means.items()
    }
    assert [status["status"] for status in statuses] == ["finished"]


def test_a_finished_monitor_and_its_copies_know_the_record(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor, model = SoTLMonitor(), scripted_model()
    run = trainer(tmp_path, callbacks=[monitor], logger=logger)
    run.fit(model, loader())
    path = Path(logger.log_dir) / "sotl.jsonl"
    assert monitor.record_path == path
    assert copy.deepcopy(monitor).record_path == path
    assert pickle.loads(pickle.dumps(monitor)).record_path == path  # noqa: S301  # our own
    run.fit(model, loader())  # nothing is left to train
    assert monitor.record_path == path


def test_the_record_contains_the_block_size_and_a_changing_accumulation(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    scheduler = pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2})
    monitors = [SoTLMonitor(every_n_train_batches=3), SoTLMonitor(prefix="by/epoch")]
    trainer(tmp_path, callbacks=[*monitors, scheduler], logger=logger).fit(
        scripted_model(), loader(4)
    )
    (header,), units, _ = record(logger.log_dir)
    assert (header["unit"], header["batches_per_unit"]) == (3, 3)
    assert header["accumulate_grad_batches"] == {"0": 1, "1": 2}
    assert list(units) == [0, 1, 2, 3]
    (header,), units, _ = record(logger.log_dir, "by%2Fepoch.jsonl")
    assert (header["unit"], list(units)) == ("epoch", [0, 1, 2])


def test_a_diverged_epoch_is_null_in_the_record(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    model = scripted_model(loss=lambda e, b: math.nan if e == 1 else 1.0)
    trainer(tmp_path, callbacks=[SoTLMonitor()], logger=logger).fit(model, loader(4))
    _, units, _ = record(logger.log_dir)
    assert [line["loss"] for line in units.values()] == [1.0, None, 1.0]


@pytest.mark.parametrize(
    "options",
    [{"logger": False}, {"fast_dev_run": 2}, {"record": False}],
    ids=["no logger", "fast_dev_run", "record=False"],
)
def test_a_run_without_a_logger_in_a_dev_run_or_with_record_off_writes_no_record(tmp_path, options):
    monitor = SoTLMonitor(record=options.pop("record", True))
    options = {"logger": pl.loggers.CSVLogger(tmp_path), **options}
    trainer(tmp_path, callbacks=[monitor], **options).fit(scripted_model(), loader(4))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_runs_that_share_a_folder_have_separate_records(tmp_path):
    class Logger(pl.loggers.logger.Logger):
        name, save_dir = "project", str(tmp_path)

        def __init__(self, version):
            super().__init__()
            self._version = version

        @property
        def version(self):
            return self._version

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, params):
            pass

    for version in ("a", 0, 1):
        trainer(tmp_path, callbacks=[SoTLMonitor()], logger=Logger(version)).fit(
            scripted_model(), loader(4)
        )
        assert len(record(tmp_path / "project" / str(version))[1]) == 3


def test_a_logger_of_the_other_package_has_a_separate_folder_too(tmp_path):
    other = lightning("lightning.pytorch").loggers.CSVLogger
    for version in (0, 1):
        logger = other(tmp_path, version=version)
        trainer(tmp_path, callbacks=[SoTLMonitor()], logger=logger).fit(scripted_model(), loader(4))
        headers, units, _ = record(logger.log_dir)
        assert (len(headers), list(units)) == (1, [0, 1, 2])


def test_a_record_that_cannot_be_written_does_not_end_training(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    path = Path(logger.log_dir) / "sotl.jsonl"
    path.mkdir(parents=True)
    monitor = SoTLMonitor()
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        trainer(tmp_path, callbacks=[monitor], logger=logger).fit(scripted_model(), loader(4))
    assert message_with(caught, "cannot be written") == (
        f"The run's record '{path}' cannot be written ([Errno 21] Is a directory: '{path}'); the "
        "run continues, and missing lines will be written as soon as possible."
    )
    assert len(monitor.epoch_losses) == 3


def test_status_lines_record_how_a_run_ended(tmp_path):
    def statuses(version, *callbacks, fails=False, **options):
        logger = pl.loggers.CSVLogger(tmp_path, version=version)
        run = trainer(tmp_path, callbacks=[SoTLMonitor(), *callbacks], logger=logger, **options)
        if fails:
            with pytest.raises(ZeroDivisionError, match="mine"):
                run.fit(scripted_model(), loader(4))
        else:
            run.fit(scripted_model(), loader(4))
        return [
            {key: value for key, value in line.items() if key != "time"}
            for line in record(logger.log_dir)[2]
        ]

    class Fail(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise ZeroDivisionError("mine")

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    assert statuses(0) == [{"status": "finished"}]
    assert statuses(1, Stop()) == [{"status": "stopped", "reason": "trainer.should_stop"}]
    assert statuses(2, Fail(), fails=True) == [
        {"status": "interrupted", "error": "ZeroDivisionError"}
    ]
    assert statuses(3, EarlyRankingStopper(stop_epoch=2)) == [
        {
            "status": "stopped",
            "reason": "stop_epoch_reached",
            "epochs": 2,
            "monitor": "sotl_e1",
            "estimate": 2.375,
        }
    ]


def test_the_stoppers_checkpoint_is_named_in_the_record(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    stopper = EarlyRankingStopper(stop_epoch=2)
    trainer(
        tmp_path, callbacks=[stopper, SoTLMonitor()], logger=logger, enable_checkpointing=True
    ).fit(scripted_model(), loader(4))
    _, units, _ = record(logger.log_dir)
    assert [line["checkpoint"] for line in units.values()] == [None, stopper.checkpoint_path]
    assert Path(stopper.checkpoint_path).is_file()


def test_a_promotion_into_the_same_directory_keeps_the_stops_checkpoint(tmp_path):
    def fit(stopper, checkpoint=None):
        logger = pl.loggers.CSVLogger(tmp_path, version=0)
        trainer(
            tmp_path, callbacks=[stopper, SoTLMonitor()], logger=logger, enable_checkpointing=True
        ).fit(scripted_model(), loader(4), ckpt_path=checkpoint)
        return record(logger.log_dir)

    stopper = EarlyRankingStopper(stop_epoch=2)
    fit(stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    headers, units, statuses = fit(promoted, stopper.checkpoint_path)
    assert len({header["run_id"] for header in headers}) == 1
    assert [unit["checkpoint"] for unit in units.values()] == [None, stopper.checkpoint_path, None]
    assert [status["status"] for status in statuses] == ["stopped", "finished"]
    lines = (tmp_path / "lightning_logs" / "version_0" / "sotl.jsonl").read_text().splitlines()
    assert len(lines) == 2 + 3 + 1 + 2  # headers, epochs, the checkpoint's, statuses


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_run_resumed_from_before_another_attempt_writes_the_undone_epochs_again(tmp_path):
    def fit(name, checkpoint=None, **limits):
        saves = pl.callbacks.ModelCheckpoint(
            tmp_path / name, every_n_train_steps=2, save_top_k=-1, filename="{step}"
        )
        monitor = SoTLMonitor()
        model = scripted_model(loss=lambda e, b: 10 * e + b + len(name))
        options = {"callbacks": [monitor, saves], "enable_checkpointing": True, **limits}
        logger = pl.loggers.CSVLogger(tmp_path, version=0)
        trainer(tmp_path, logger=logger, **options).fit(model, loader(4), ckpt_path=checkpoint)
        return monitor.epoch_losses

    whole = fit("a")
    fit("other", tmp_path / "a/step=2.ckpt", max_steps=6)  # another L(0), and no L(1)
    assert fit("b", tmp_path / "a/step=8.ckpt") == whole
    runs = merge_sessions(read_record(tmp_path / "lightning_logs/version_0/sotl.jsonl")[0])
    assert [sorted(run.losses) for run in runs] == [[0, 1, 2], [0], [0, 1, 2]]
    assert runs[0].losses == runs[2].losses == whole
