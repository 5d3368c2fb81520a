"""Full disks and folders that cannot be written: no partial file, and training continues."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_sotl import EarlyRankingStopper, LearningCurves, SoTLMonitor
from lightning_sotl._utils.files import write_whole
from lightning_sotl.cli import main
from lightning_sotl.losses.history import LossHistory
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.recorder import Recorder
from lightning_sotl.record.writer import RunRecord
from tests.support.full_disk import no_file_beyond
from tests.support.helpers import lightning, loader, scripted_loss, scripted_model, trainer
from tests.support.paths import EXAMPLES

pl = lightning()
OLD = LearningCurves([[9.0]])
LARGE = LearningCurves(np.random.default_rng(0).random((100, 100)))


def test_a_table_that_does_not_fit_on_the_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    OLD.save(path)
    message = f"'{path}' cannot be written: File too large."
    with no_file_beyond(10_000), pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        LARGE.save(path)
    assert LearningCurves.load(path).train_loss.tolist() == [[9.0]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def test_a_picture_that_does_not_fit_on_the_disk_exits_with_1_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LARGE.save(tmp_path / "x.npz")
    picture = tmp_path / "x.png"
    with no_file_beyond(10_000):
        assert main(["rank", str(tmp_path / "x.npz"), "--plot", str(picture)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(f"lightning-sotl rank: '{picture}' cannot be written: File too large.\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("folder", ["nowhere", "x.npz"])
def test_the_error_names_a_file_whose_folder_cannot_be_written(tmp_path: Path, folder: str) -> None:
    OLD.save(tmp_path / "x.npz")
    path = tmp_path / folder / "y.npz"
    with pytest.raises(OSError, match=f"^'{re.escape(str(path))}' cannot be written: N"):
        OLD.save(path)  # the folder does not exist, or is a file


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_whole(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(OSError, match=r"x\.npz' cannot be written: it is not a regular file\.$"):
        OLD.save(tmp_path / "x.npz")
    assert (tmp_path / "x.npz").is_fifo()


class NoFilesLogger(pl.loggers.CSVLogger):
    """A logger with a folder that writes no files."""

    def save(self) -> None:
        """Write nothing."""


class UnwritableRecord(pl.Callback):
    """Makes the record unwritable while epochs 2 and 3 train, in one of several ways."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.limits: tuple[int, int] = resource.getrlimit(resource.RLIMIT_FSIZE)

    @property
    def aside(self) -> Path:
        return self.folder.with_name("aside")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            if self.kind == "full disk":
                size = (self.folder / "sotl.jsonl").stat().st_size
                # Room for part of a line.
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, self.limits[1]))
            else:
                self.folder.rename(self.aside)
                self.folder.write_text("a file in place of the folder")
        if trainer.current_epoch == 4:
            self.end()

    def end(self) -> None:
        """Make the record writable again."""
        if self.kind == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
            return
        self.folder.unlink()
        if self.kind == "folder comes back":
            self.aside.rename(self.folder)
        else:
            shutil.rmtree(self.aside)


@pytest.mark.parametrize("kind", ["full disk", "folder comes back", "folder is lost"])
@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_record_that_cannot_be_written_for_a_while_is_complete_at_the_end(
    tmp_path: Path, kind: str
) -> None:
    logger = NoFilesLogger(tmp_path, name="", version="run")
    folder = Path(logger.log_dir)
    monitor, unwritable = SoTLMonitor(), UnwritableRecord(kind, folder)
    fit = trainer(tmp_path, callbacks=[unwritable, monitor], logger=logger, max_epochs=6)
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        fit.fit(scripted_model(), loader(4))
    messages = [str(entry.message) for entry in caught]
    (message,) = [text for text in messages if "cannot be written" in text]
    assert message.startswith(f"The run's record '{folder / 'sotl.jsonl'}' cannot be written ([")
    losses = np.float32([[scripted_loss(epoch, batch) for batch in range(4)] for epoch in range(6)])
    means = dict(enumerate(losses.astype(np.float64).mean(axis=1).tolist()))
    assert monitor.epoch_losses == means
    sessions, unreadable = read_record(folder / "sotl.jsonl")
    (run,) = merge_sessions(sessions)
    assert run.losses == means
    assert run.status["status"] == "finished"
    assert run.facts["max_epochs"] == 6
    assert unreadable == (1 if kind == "full disk" else 0)  # the partial line
    assert run.outdated == []


def test_a_run_that_began_on_a_full_disk_keeps_its_start_time(tmp_path: Path) -> None:
    history = LossHistory({})
    history.close(0, 2.0, 1)
    record = RunRecord(tmp_path / "sotl.jsonl")
    recorder = Recorder(record)
    with no_file_beyond(10), pytest.warns(UserWarning, match="cannot be written"):
        begun = recorder.start("a", {}, history, after=1e12)  # the clock was ahead
    recorder.status("finished")
    (session,), unreadable = read_record(record.path)
    assert 1e12 < begun == session.begun
    assert (session.losses, unreadable, record.is_shared) == ({0: 2.0}, 1, False)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_record_on_a_disk_that_stays_full_is_shorter_but_correct(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = NoFilesLogger(tmp_path, name="", version="run")
    unwritable = UnwritableRecord("full disk", Path(logger.log_dir))
    monitor = SoTLMonitor()
    fit = trainer(tmp_path, callbacks=[unwritable, monitor], logger=logger, max_epochs=4)
    with pytest.warns(UserWarning, match="the run continues, and missing lines will be written"):
        fit.fit(scripted_model(), loader(4))
    unwritable.end()
    assert len(monitor.epoch_losses) == 4
    assert main(["rank", str(tmp_path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["epochs"] == 2
    assert run["estimate"] == monitor.epoch_losses[1]


@pytest.mark.filterwarnings("ignore:The run's record .* cannot be written")
def test_a_stop_whose_checkpoint_does_not_fit_names_it_and_leaves_no_file(tmp_path: Path) -> None:
    stopper = EarlyRankingStopper(stop_epoch=2)
    saves_no_checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=0)
    callbacks = [SoTLMonitor(), stopper, saves_no_checkpoint]
    run = trainer(tmp_path, callbacks=callbacks, max_epochs=4, enable_checkpointing=True)
    with no_file_beyond(3_000), pytest.raises(OSError, match="checkpoint to resume from") as caught:
        run.fit(scripted_model(), loader(4))
    path = str(caught.value).split("'")[1]
    assert str(caught.value) == (
        f"'{path}' cannot be written: File too large. The run has stopped, as its record shows, "
        "but has no checkpoint to resume from."
    )
    assert Path(path).name.startswith("stopped-epoch=2-")
    assert (stopper.epochs_completed, stopper.checkpoint_path) == (2, None)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_the_examples_write_only_complete_files() -> None:
    """They write with `plotting.save`, `LearningCurves.save` or `write_whole`."""
    writes = re.compile(r"\.(savefig|write_text|write_bytes)\(")
    found = [
        path.name for path in EXAMPLES.rglob("*.py") for _ in writes.finditer(path.read_text())
    ]
    assert sorted(found) == ["results_file.py", "run_pool.py"]
