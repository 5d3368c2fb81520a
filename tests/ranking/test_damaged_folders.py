"""Damaged and unusual directories: no run counts twice, and nothing ends in a traceback."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import EarlyRankingStopper, LearningCurves, SoTLMonitor, find_winners, promote
from lightning_sotl.cli import main
from tests.support.helpers import lightning, loader, scripted_loss, scripted_model, trainer
from tests.support.run_folders import csv_rows, write_csv_log, write_record

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]


def ranked(capsys, *arguments):
    """Return the exit code, the document and the text on standard error."""
    code = main(["rank", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def order(document):
    return [(run["run_id"], run["estimate"], run["epochs"]) for run in document["runs"]]


def fit(folder, name, factor, *, loggers, checkpoint=None, promoted=False, prefix="sotl"):
    model = scripted_model(loss=lambda e, b: factor * scripted_loss(e, b))
    stopper = EarlyRankingStopper(stop_epoch=2, monitor=f"{prefix}_e1", promoted=promoted)
    trainer(
        folder / "default" / name,
        callbacks=[SoTLMonitor(prefix=prefix), stopper],
        logger=loggers,
        max_epochs=4,
        enable_checkpointing=True,
    ).fit(model, loader(4), ckpt_path=checkpoint)
    return stopper


def two_loggers(folder, name):
    return [
        pl.loggers.TensorBoardLogger(folder / "tb", name=name),
        pl.loggers.CSVLogger(folder / "csv", name=name),
    ]


def test_a_run_with_two_loggers_is_one_run_even_after_its_promotion(tmp_path, capsys):
    stoppers = {
        name: fit(tmp_path, name, factor, loggers=two_loggers(tmp_path, name))
        for name, factor in (("a", 1.0), ("b", 0.5), ("c", 0.75))
    }
    best_first = sorted(stoppers, key=lambda name: stoppers[name].estimate)
    for name in best_first[:2]:
        factor = {"a": 1.0, "b": 0.5, "c": 0.75}[name]
        path = stoppers[name].checkpoint_path
        loggers = two_loggers(tmp_path, name)
        fit(tmp_path, name, factor, loggers=loggers, checkpoint=path, promoted=True)
    code, document, _ = ranked(capsys, tmp_path)
    assert code == 0
    assert document["at"] == 2
    assert [run["run_id"].split("/")[1] for run in document["runs"]] == best_first
    assert [run["epochs"] for run in document["runs"]] == [4, 4, 2]
    assert [run["estimate"] for run in document["runs"]] == [
        stoppers[name].estimate for name in best_first
    ]


@pytest.mark.parametrize("prefix", ["train/sotl", "verlüst"])
def test_a_record_with_any_prefix_is_read(tmp_path, capsys, prefix):
    logger = pl.loggers.CSVLogger(tmp_path)
    stopper = fit(tmp_path, "a", 1.0, loggers=logger, prefix=prefix)
    code, document, _ = ranked(capsys, logger.log_dir, "--monitor", f"{prefix}_e1")
    assert code == 0
    assert document["runs"][0]["estimate"] == stopper.estimate
    assert document["runs"][0]["checkpoint"] == stopper.checkpoint_path


def test_logs_of_a_wider_window_can_be_ranked_without_a_record(tmp_path, capsys):
    for name, factor in (("a", 1.0), ("b", 0.5)):
        logger = pl.loggers.CSVLogger(tmp_path, name=name)
        monitor = SoTLMonitor(window=3, record=False)
        model = scripted_model(loss=lambda e, b, f=factor: f * scripted_loss(e, b))
        trainer(tmp_path, callbacks=[monitor], logger=logger, max_epochs=5).fit(model, loader(4))
    code, document, _ = ranked(capsys, tmp_path, "--monitor", "sotl_e3")
    means = [sum(scripted_loss(e, b) for b in range(4)) / 4 for e in range(5)]
    assert code == 0
    assert document["at"] == 5
    assert [run["estimate"] for run in document["runs"]] == pytest.approx(
        [0.5 * sum(means[2:]), sum(means[2:])], rel=1e-6
    )


def test_a_key_that_is_logged_every_other_epoch_is_ranked_after_its_last_value(tmp_path, capsys):
    rows = ["epoch,step,sotl_e1,val_acc"]
    for epoch in range(5):
        rows.append(f"{epoch},{epoch},1.0,{0.1 * epoch if epoch % 2 else ''}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("\n".join(rows) + "\n")
    code, document, _ = ranked(capsys, tmp_path, "--monitor", "val_acc", "--metric-mode", "max")
    assert (code, document["at"]) == (0, 4)


LINES = {
    "an integer of 400 digits": '{"e": 2, "loss": '
    + "9" * 400
    + ', "steps": 1, "checkpoint": null}',
    "100,000 brackets": "[" * 100_000,
    "an epoch of ten digits": '{"e": 9999999999, "loss": 1.0, "steps": 1, "checkpoint": null}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_damaged_line_of_a_record_is_counted_and_left_out(tmp_path, capsys, line):
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(tmp_path, "a", 1.0, loggers=logger)
    path = Path(logger.log_dir) / "sotl.jsonl"
    path.write_text(path.read_text() + line + "\n")
    code, document, err = ranked(capsys, logger.log_dir)
    assert (code, document["runs"][0]["epochs"]) == (0, 2)
    assert "Left out 1 line or event of 'sotl.jsonl' that could not be read." in " ".join(
        err.split()
    )


def test_a_damaged_cell_of_a_csv_is_counted_and_left_out(tmp_path, capsys):
    text = "\ufeffepoch,step,sotl_e1\n0,1,2.0\n1,2,1.0\n1e18,3,1.0\n2,3," + "9" * 200_000 + "\n"
    (tmp_path / "metrics.csv").write_text(text)
    code, document, err = ranked(capsys, tmp_path)
    assert (code, document["runs"][0]["epochs"]) == (0, 2)
    assert "Left out" in err


def test_a_broken_link_does_not_affect_other_runs(tmp_path, capsys):
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(tmp_path, "a", 1.0, loggers=logger)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sotl.jsonl").symlink_to(tmp_path / "nowhere")
    code, document, err = ranked(capsys, tmp_path)
    assert (code, len(document["runs"])) == (0, 1)
    assert "'broken'" in err


def newer(folder):
    folder.mkdir(parents=True)
    (folder / "sotl.jsonl").write_text('{"schema": 2, "run_id": "n"}\n{"e": 0, "loss": 0.1}\n')
    write_csv_log(folder, csv_rows([0.1]))  # logs do not replace a record that cannot be read
    return (
        f"'{folder.name}': Expected the record '{folder / 'sotl.jsonl'}' to be of schema 1 but got "
        "2; a newer version of this package may have written it."
    )


def test_a_record_of_a_newer_version_is_named_and_does_not_affect_other_runs(tmp_path, capsys):
    write_record(tmp_path / "a", [3.0, 2.0])
    message = newer(tmp_path / "b")
    code, document, err = ranked(capsys, tmp_path)
    assert (code, order(document)) == (0, [("a", 2.0, 2)])
    assert err.splitlines() == [
        f"warning: Left out files that cannot be read in {message}",
        "warning: There is only one run, so there is nothing to compare it with.",
    ]


def test_a_directory_with_only_records_of_a_newer_version_is_an_error(tmp_path, capsys):
    message = newer(tmp_path / "b")
    newer(tmp_path / "c")
    code, document, err = ranked(capsys, tmp_path)
    assert (code, document) == (1, None)
    assert err == (
        f"lightning-sotl rank: No folder of '{tmp_path}' with a run can be read; the first is "
        f"{message}\n"
    )


def test_a_copied_run_counts_once_and_is_reported(tmp_path, capsys):
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(tmp_path, "a", 1.0, loggers=logger)
    shutil.copytree(logger.log_dir, tmp_path / "copy")
    code, document, err = ranked(capsys, tmp_path)
    assert (code, len(document["runs"])) == (0, 1)
    assert "The records of 1 run have copies" in " ".join(err.split())


def test_logs_are_read_although_an_earlier_process_died_before_its_first_epoch(tmp_path, capsys):
    write_record(tmp_path / "a", [], run_id="died", status=None)
    write_record(tmp_path / "a", [3.0, 2.0], run_id="started again")
    write_csv_log(tmp_path / "a", csv_rows([3.0, 2.0], val_acc=[0.5, 0.75]))
    code, document, err = ranked(capsys, tmp_path, "--monitor", "val_acc", "--metric-mode", "max")
    assert (code, order(document)) == (0, [("a", 0.75, 2)])
    assert "cannot be distinguished" not in err


@pytest.mark.parametrize("position", range(-60, 0, 3))
def test_an_archive_with_a_flipped_byte_is_refused_or_read_correctly(tmp_path, capsys, position):
    path = tmp_path / "x.npz"
    LearningCurves(np.array([[2.0, 1.0], [3.0, 2.0]])).save(path)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x15
    path.write_bytes(data)
    code, document, err = ranked(capsys, path)
    if code == 0:
        assert [run["estimate"] for run in document["runs"]] == [1.0, 2.0]
    else:
        assert (code, document) == (1, None)
        assert "x.npz" in err


def test_a_checkpoint_is_found_from_another_directory_and_after_a_move(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "training").mkdir()
    monkeypatch.chdir(tmp_path / "training")
    stopper = fit(Path("x"), "a", 1.0, loggers=pl.loggers.CSVLogger("logs"))
    assert Path(stopper.checkpoint_path).is_absolute()
    monkeypatch.chdir(tmp_path)
    _, document, _ = ranked(capsys, "training/logs")
    assert document["runs"][0]["checkpoint"] == stopper.checkpoint_path
    assert Path(stopper.checkpoint_path).is_file()
    (tmp_path / "training").rename(tmp_path / "archive")
    _, document, _ = ranked(capsys, "archive/logs")
    found = Path(document["runs"][0]["checkpoint"])
    assert found.is_file()
    assert found.name == Path(stopper.checkpoint_path).name


def test_nothing_is_printed_if_the_figure_cannot_be_saved(tmp_path, capsys):
    path = tmp_path / "x.npz"
    LearningCurves(np.array([[2.0, 1.0], [3.0, 2.0]])).save(path)
    code, document, err = ranked(capsys, path, "--plot", path / "x.svg")  # in a file
    assert (code, document) == (1, None)
    assert "x.npz" in err


def test_a_missing_path_is_not_a_usage_error(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "nope")]) == 1
    assert "nope" in capsys.readouterr().err


UNPRINTABLE = "a\x1b[2J\u202e\n"
REFUSED = {
    "sotl.jsonl": '{"schema": 2, "run_id": "a"}\n',
    "metrics.csv": "epoch,sotl_e1,sotl_e1\n0,1,1\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_does_not_affect_other_runs_and_its_name_is_escaped(tmp_path, capsys, name):
    write_record(tmp_path / "good", [2.0, 1.0], checkpoint=f"/gone/{UNPRINTABLE}")
    (tmp_path / UNPRINTABLE).mkdir()
    (tmp_path / UNPRINTABLE / name).write_text(REFUSED[name])
    code, document, err = ranked(capsys, tmp_path)
    assert (code, [run["run_id"] for run in document["runs"]]) == (0, ["good"])
    assert "that cannot be read in" in err
    with pytest.warns(UserWarning, match="^Left out ") as caught:
        find_winners(tmp_path, 1)  # the unread run might have won
    assert {entry.filename for entry in caught} == {__file__}
    messages = [str(entry.message) for entry in caught]
    assert any("that cannot be read in" in message for message in messages)
    with (
        pytest.warns(UserWarning, match="^Left out "),
        pytest.raises(
            FileNotFoundError, match=r"^The checkpoint of run 'good' does not exist: '"
        ) as gone,
    ):
        promote(tmp_path, 1, print)
    with pytest.raises(ValueError, match=r"can be read; the first is .*: Expected ") as alone:
        LearningCurves.from_logs(tmp_path / UNPRINTABLE)
    assert all(text.isprintable() for text in (*messages, str(gone.value), str(alone.value)))


def test_an_unreadable_directory_is_reported(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("lightning_sotl._utils.files.os.scandir", refuse)
    message = f"Left out the folder '{tmp_path}': Permission denied."
    with pytest.raises(ValueError, match=f"but found none in its 0 folders. {re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path)
