"""The name, parameters and directories of a run, and runs without a folder for the record."""

import logging
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, find_winners
from tests.support.helpers import (
    Batches,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)
from tests.support.written_logs import record

pl = lightning()

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def test_directories_of_the_callbacks_work_without_logger_and_checkpointing(tmp_path):
    params = {"width": 4, "sizes": [16, 8], "deep": {"p": 0.5, "names": ["a", None, True]}}
    monitor = SoTLMonitor(name="small", params=params, directory=tmp_path / "records")
    stopper = EarlyRankingStopper(stop_epoch=2, checkpoint_dir=tmp_path / "checkpoints")
    model = scripted_model()
    trainer(tmp_path / "other", callbacks=[monitor, stopper]).fit(model, loader(4))
    (header,), units, _ = record(tmp_path / "records")
    assert (header["name"], header["params"]) == ("small", params)
    assert {e: line["loss"] for e, line in units.items()} == returned_epoch_losses(model)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert stopper.checkpoint_path == str(checkpoint) == units[1]["checkpoint"]
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 8
    assert not (tmp_path / "other").exists()
    (winner,) = find_winners(tmp_path / "records", 1)
    assert winner.checkpoint_path == str(checkpoint)


def test_the_checkpoint_directory_precedes_lightnings_own(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=1, checkpoint_dir=tmp_path / "mine")
    options = {"logger": pl.loggers.CSVLogger(tmp_path), "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[SoTLMonitor(), stopper], **options).fit(
        scripted_model(), loader(4)
    )
    assert [str(path) for path in (tmp_path / "mine").iterdir()] == [stopper.checkpoint_path]


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"sizes": (16, 8)}, r"`params\['sizes'\]` is the tuple \(16, 8\)"),
        (
            {"a": {"b": [1, {2: 3}]}},
            r"`params\['a'\]\['b'\]\[1\]` has the key 2, which is not a string",
        ),
        ({"lr": float("nan")}, r"`params\['lr'\]` is nan"),
        ({"loss": torch.nn.MSELoss}, r"`params\['loss'\]` is the type <class .*MSELoss'>"),
    ],
)
def test_parameters_that_json_would_change_are_refused_by_name(params, problem):
    message = rf"^Expected `params` to survive JSON unchanged but {problem}\.$"
    with pytest.raises(ValueError, match=message):
        SoTLMonitor(params=params)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"params": [1]}, TypeError, r"^Expected `params` to be a mapping but got \[1\]\.$"),
        ({"name": ""}, ValueError, r"^Expected `name` to be a non-empty string but got ''\.$"),
        ({"directory": 3}, TypeError, r"^Expected `directory` to be a path but got 3\.$"),
        (
            {"directory": "s3://bucket/runs"},
            ValueError,
            r"^Expected `directory` to be a local directory but got 's3://bucket/runs'\.$",
        ),
        (
            {"directory": "runs", "record": False},
            ValueError,
            r"^Expected `record` to be True with a `directory` but got False\.$",
        ),
    ],
)
def test_bad_identities_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SoTLMonitor(**arguments)


def test_a_bad_checkpoint_directory_is_refused():
    with pytest.raises(TypeError, match=r"^Expected `checkpoint_dir` to be a path but got 3\.$"):
        EarlyRankingStopper(2, checkpoint_dir=3)


def test_hyper_parameters_of_the_data_module_are_recorded_beside_the_modules(tmp_path):
    class Data(pl.LightningDataModule):
        def __init__(self, noise, scale):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return loader(4)

    model = scripted_model()
    model.save_hyperparameters({"width": 8, "sizes": (4, 2), "limit": float("inf")})
    monitor = SoTLMonitor(directory=tmp_path)
    trainer(tmp_path, callbacks=[monitor]).fit(model, datamodule=Data(0.5, {0: 1.0}))
    (header,), _, _ = record(tmp_path)
    assert header["hparams"] == {
        "noise": 0.5,
        "scale": {"0": 1.0},
        "width": 8,
        "sizes": [4, 2],
        "limit": None,
    }
    assert header["inexact_hparams"] == ["limit", "scale", "sizes"]


def test_the_batch_size_is_read_from_the_first_batch_if_loaders_have_none(tmp_path):
    class Pairs(torch.utils.data.IterableDataset):
        def __iter__(self):
            for size in (3, 3, 1):
                yield {"x": torch.zeros(size, 2), "y": [torch.zeros(size)], "name": "a"}

    monitor = SoTLMonitor(directory=tmp_path)
    trainer(tmp_path, callbacks=[monitor], max_epochs=2).fit(
        scripted_model(), DataLoader(Pairs(), batch_size=None)
    )
    headers, units, _ = record(tmp_path)
    assert [header["batch_size"] for header in headers] == [None, 3]
    assert headers[0]["time"] == headers[1]["time"]
    assert list(units) == [0, 1]
    # The batch size of a loader has priority.
    known = SoTLMonitor(directory=tmp_path / "known")
    trainer(tmp_path, callbacks=[known]).fit(scripted_model(), DataLoader(Batches(4), batch_size=2))
    assert [header["batch_size"] for header in record(tmp_path / "known")[0]] == [2]


def test_a_session_names_its_parent_session(tmp_path):
    def fit(checkpoint=None, **limit):
        callbacks = [SoTLMonitor(directory=tmp_path), EarlyRankingStopper(**limit)]
        trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True).fit(
            scripted_model(), loader(4), ckpt_path=checkpoint
        )
        return callbacks[1].checkpoint_path

    fit(fit(stop_epoch=2), stop_epoch=2, promoted=True)
    first, second = record(tmp_path)[0]
    assert (first["parent"], first["parent_units"]) == (None, 0)
    assert (second["parent"], second["parent_units"]) == (first["time"], 2)


def test_a_run_without_logger_reports_once_that_it_has_no_record(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    monitor = SoTLMonitor()
    trainer(tmp_path, callbacks=[monitor]).fit(scripted_model(), loader(4))
    lines = [entry.message for entry in caplog.records if "No record" in entry.message]
    assert lines == [
        "No record of this run is written because it has no logger. `rank`, `evaluate` and "
        "`promote` will not find the run. Pass SoTLMonitor a `directory`, or `record=False` if you "
        "need no record."
    ]
    caplog.clear()
    trainer(tmp_path, callbacks=[SoTLMonitor(record=False)]).fit(scripted_model(), loader(4))
    trainer(tmp_path, callbacks=[SoTLMonitor()], fast_dev_run=2).fit(scripted_model(), loader(4))
    assert "No record" not in caplog.text


def test_a_stopper_without_checkpointing_is_reported_at_the_start(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    callbacks = [SoTLMonitor(directory=tmp_path), EarlyRankingStopper(2)]
    trainer(tmp_path, callbacks=callbacks).fit(scripted_model(), loader(4))
    lines = [entry.message for entry in caplog.records if "no checkpoint" in entry.message]
    assert lines == [
        "Checkpointing is off, so the run will save no checkpoint when it stops and cannot be "
        "promoted. Pass EarlyRankingStopper a `checkpoint_dir`.",
        "The run ends after 2 epochs with `sotl_e1` = 2.375. It saved no checkpoint, so it cannot "
        "be promoted.",
    ]


class Logger(pl.loggers.logger.Logger):
    """A logger that stores nothing."""

    name, version = "mine", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass


class MethodLogger(Logger):
    def log_dir(self):
        return "a method instead of a property"


class RemoteLogger(Logger):
    log_dir = "s3://bucket/runs"


@pytest.mark.parametrize(
    ("logger", "problem"),
    [
        (MethodLogger(), "MethodLogger has no directory"),
        (RemoteLogger(), "'s3://bucket/runs' cannot be appended to"),
        ([mock.MagicMock()], "MagicMock has no directory"),
    ],
    ids=["method", "remote", "mock"],
)
def test_a_logger_without_local_directory_is_reported_once(
    tmp_path, monkeypatch, caplog, logger, problem
):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path, callbacks=[SoTLMonitor()], logger=logger).fit(scripted_model(), loader(4))
    assert [entry.message for entry in caplog.records if "No record" in entry.message] == [
        f"No record of this run is written because {problem}. `rank`, `evaluate` and `promote` "
        "will not find the run. Pass SoTLMonitor a `directory`, or `record=False` if you need no "
        "record."
    ]
    assert not list(tmp_path.iterdir())


def test_the_record_is_beside_the_first_logger_with_a_local_directory(tmp_path):
    loggers = [RemoteLogger(), pl.loggers.CSVLogger(tmp_path)]
    trainer(tmp_path, callbacks=[SoTLMonitor()], logger=loggers).fit(scripted_model(), loader(4))
    assert len(record(loggers[1].log_dir)[1]) == 3
