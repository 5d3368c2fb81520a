"""The record of real runs: other processes, clocks and signals."""

import os
import signal
from pathlib import Path

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.writer import RunRecord
from tests.support.helpers import (
    lightning,
    loader,
    message_with,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def test_a_promotion_on_a_machine_whose_clock_is_behind_is_newer(tmp_path, monkeypatch):
    def fit(clock, stopper, checkpoint=None):
        monkeypatch.setattr("lightning_sotl.record.writer.time.time", lambda: clock)
        logger = pl.loggers.CSVLogger(tmp_path / "logs")
        trainer(
            tmp_path, callbacks=[stopper, SoTLMonitor()], logger=logger, enable_checkpointing=True
        ).fit(scripted_model(), loader(4), ckpt_path=checkpoint)

    stopper = EarlyRankingStopper(stop_epoch=2)
    fit(2e9, stopper)
    fit(1e9, EarlyRankingStopper(stop_epoch=2, promoted=True), stopper.checkpoint_path)
    folders = [tmp_path / "logs" / "lightning_logs" / f"version_{place}" for place in (0, 1)]
    sessions = [session for f in folders for session in read_record(f / "sotl.jsonl")[0]]
    (run,) = merge_sessions(sessions)
    assert run.folders == folders
    assert (run.status["status"], run.stopped_at) == ("finished", 2)


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_hyper_parameters_that_do_not_fit_into_a_header_are_left_out_with_a_warning(tmp_path):
    itself, deep = {}, 1
    itself["itself"] = itself
    for _ in range(99):  # below the two levels of the header itself
        deep = [deep]
    unfit = {
        "vocabulary": ["x" * 1000] * 5000,  # megabytes: readers would skip the line
        "itself": itself,
        "nested": deep,
        "digits": 10**5000,
        "object": NoRepr(),
    }
    model = scripted_model()
    model.save_hyperparameters({"width": 8, **unfit, "depth": 2}, logger=False)
    logger = pl.loggers.CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="does not contain the hyper-parameters") as caught:
        trainer(tmp_path, callbacks=[SoTLMonitor()], logger=logger).fit(model, loader(4))
    assert message_with(caught, "does not contain the hyper-parameters") == (
        "The run's record does not contain the hyper-parameters 'vocabulary', 'itself', 'nested', "
        "'digits', 'object': they do not fit into 1,048,576 bytes of JSON with at most 100 levels. "
        "To promote the run, pass them again."
    )
    (session,), unreadable = read_record(Path(logger.log_dir) / "sotl.jsonl")
    assert session.facts["hparams"] == {"width": 8, "depth": 2}
    assert (session.losses, unreadable) == (returned_epoch_losses(model), 0)


def test_another_run_that_writes_to_the_same_record_gives_a_warning(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    path = Path(logger.log_dir) / "sotl.jsonl"

    class OtherProcess(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                other = RunRecord(path)
                other.header("other")
                other.unit(0, 0.25, 4)

    model = scripted_model()
    with pytest.warns(UserWarning, match="Another process also writes") as caught:
        trainer(tmp_path, callbacks=[SoTLMonitor(), OtherProcess()], logger=logger).fit(
            model, loader(4)
        )
    assert message_with(caught, "Another process") == (
        f"Another process also writes to the run's record '{path}'. The record stays readable, "
        "but the logs beside it mix the runs. Give each run its own directory."
    )
    own, other = merge_sessions(read_record(path)[0])
    assert own.losses == returned_epoch_losses(model)
    assert own.status["status"] == "finished"
    assert (other.run_id, other.losses, other.status) == ("other", {0: 0.25}, {})


@pytest.mark.parametrize(
    ("number", "handler", "raised", "message", "error"),
    [
        (signal.SIGINT, signal.default_int_handler, SystemExit, "1", "KeyboardInterrupt"),
        (signal.SIGTERM, signal.SIG_DFL, SIGTERMException, "", "SIGTERMException"),
    ],
)
def test_a_signal_that_ends_the_run_is_in_the_record(
    tmp_path, number, handler, raised, message, error
):
    def loss(epoch, batch):
        if (epoch, batch) == (1, 2):
            os.kill(os.getpid(), number)
        return scripted_loss(epoch, batch)

    # Ray 2.49 leaves a handler behind, and a shell's `&` has SIGINT ignored.
    logger, before = pl.loggers.CSVLogger(tmp_path), signal.signal(number, handler)
    try:
        with pytest.raises(raised, match=f"^{message}$"):
            trainer(tmp_path, callbacks=[SoTLMonitor()], logger=logger).fit(
                scripted_model(loss=loss), loader(4)
            )
    finally:
        signal.signal(number, before)  # Lightning leaves SIGINT ignored
    (run,) = merge_sessions(read_record(Path(logger.log_dir) / "sotl.jsonl")[0])
    assert sorted(run.losses) == [0]
    assert (run.status["status"], run.status["error"]) == ("interrupted", error)
