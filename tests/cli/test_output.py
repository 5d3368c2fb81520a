"""Names from files cannot control the terminal; progress bars appear on terminals only."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import EarlyRankingStopper, LearningCurves, SoTLMonitor, find_winners, plotting
from lightning_sotl._utils.text import quote_all, quoted, visible
from lightning_sotl.cli import main, output
from lightning_sotl.record.writer import RunRecord
from lightning_sotl.replay.experiment import PolicyScores, Replay
from tests.support.helpers import lightning, loader, scripted_model, trainer
from tests.support.run_folders import csv_rows, write_csv_log, write_record

# Clears the screen, sets the window title (twice, the second time with C1 codes), returns to the
# start of the line, reverses the text that follows, ends lines, and has unprintable characters.
UNPRINTABLE = "a\x1b[2J\x1b]0;x\x07\x9d0;x\x9c\rb\u202ec\n\u2028\x85\u200f\x7f"
ESCAPED = (
    r"a\x1b[2J\x1b]0;x\x07\x9d0;x\x9c\rb\u202ec\n\u2028\x85\u200f\x7f"  # as in a Python string
)


def is_printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_unprintable_characters_are_escaped() -> None:
    assert visible(UNPRINTABLE) == ESCAPED
    assert visible("\ud800\U000e0041 \xa0é漢") == r"\ud800\U000e0041 \xa0é漢"
    assert is_printable(visible("".join(map(chr, range(0, 0x110000, 13)))))


def test_quoted_text_has_a_bounded_length() -> None:
    assert len(quoted("x" * 10**6)) < 300
    assert quote_all(range(1000)).endswith("99 and 900 more")
    assert len(quote_all(["x" * 10**5] * 1000)) < 30_000


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return runs with unprintable characters in all their names."""
    for number in range(2):
        folder = tmp_path / f"{number}{UNPRINTABLE}"
        losses = [2.0 + number, 1.0 + number]
        hparams = {"dropout": f"{UNPRINTABLE}{number}", f"drop_out{UNPRINTABLE}": number}
        write_record(
            folder,
            losses,
            hparams=hparams,
            checkpoint=f"{UNPRINTABLE}.ckpt",
            run_id=UNPRINTABLE * 2 + str(number),
        )
        write_csv_log(folder, csv_rows(losses, acc=[0.1, 0.2 + number]))
        with (folder / "sotl.jsonl").open("a") as file:
            file.write("{")
    (tmp_path / f"link{UNPRINTABLE}").mkdir()
    (tmp_path / f"link{UNPRINTABLE}" / "sotl.jsonl").symlink_to(f"nowhere{UNPRINTABLE}")
    return tmp_path


COMMANDS = [
    ["rank"],
    ["rank", "--stability", "--group-by", "hparams.dropout", f"hparams.drop_out{UNPRINTABLE}"],
    ["rank", "--monitor", "acc", "--metric-mode", "max"],
    ["rank", "--monitor", f"no{UNPRINTABLE}", "--metric-mode", "max"],
    ["rank", "--monitor", f"no{UNPRINTABLE}"],
    ["rank", "--group-by", f"no{UNPRINTABLE}"],
    ["rank", "--plot", f"no{UNPRINTABLE}"],
    ["evaluate", "--target", "acc"],
    ["evaluate", "--target", f"no{UNPRINTABLE}"],
    ["evaluate", "--target", "acc", "--estimator", f"no{UNPRINTABLE}"],
    ["evaluate", f"no{UNPRINTABLE}"],
    ["replay", "--target", "acc", "--repeats", "2", "--policy", "full", "fixed-t1-top1"],
    ["replay", "--target", f"no{UNPRINTABLE}"],
    ["replay", "--target", "acc", "--policy", f"no{UNPRINTABLE}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: visible(" ".join(command)))
def test_names_never_control_the_terminal(
    sweep: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    main([command[0], str(sweep), *command[1:]])
    out, err = capsys.readouterr()
    assert out + err
    assert is_printable(out)
    assert is_printable(err)


def test_the_table_escapes_names_and_json_keeps_them(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", str(sweep)]) == 0
    rows = capsys.readouterr().out.split("\n")
    assert rows[1].split() == ["1", f"0{ESCAPED}", "1", "2", f"{ESCAPED}.ckpt", "(not", "found)"]
    assert main(["rank", str(sweep), "--json"]) == 0
    (first, second) = json.loads(capsys.readouterr().out)["runs"]
    assert (first["run_id"], second["run_id"]) == (f"0{UNPRINTABLE}", f"1{UNPRINTABLE}")
    assert first["checkpoint"] == f"{UNPRINTABLE}.ckpt"


def test_a_folder_with_an_undecodable_name_is_ranked_and_printed(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"run\xff")).mkdir()
    except OSError:  # for example on macOS
        pytest.skip("this file system accepts only UTF-8 names")
    write_record(tmp_path / os.fsdecode(b"run\xff"), [2.0, 1.0])
    write_record(tmp_path / "é漢", [3.0, 2.0])
    arguments = [sys.executable, "-m", "lightning_sotl", "rank", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(arguments, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode("ascii").split("\n")
    assert shown[1].split()[1] == r"run\udcff"
    assert shown[2].split()[1] == r"\xe9\u6f22"
    done = subprocess.run([*arguments, "--json"], capture_output=True, env=environment, check=False)
    names = [run["run_id"] for run in json.loads(done.stdout)["runs"]]
    assert names == ["run\udcff", "é漢"]
    LearningCurves.from_logs(tmp_path).save(tmp_path / "x.npz")
    assert LearningCurves.load(tmp_path / "x.npz").run_ids == ("run\udcff", "é漢")


def test_warnings_of_the_library_escape_names(sweep: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LearningCurves.from_logs(sweep)
    assert caught
    assert all(str(entry.message).isprintable() for entry in caught)


def test_usage_errors_escape_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "x", f"--{UNPRINTABLE}"]) == 2
    assert main([UNPRINTABLE]) == 2
    out, err = capsys.readouterr()
    assert (out, is_printable(err)) == ("", True)


NAMES = ["$\\frac{$", "$x$", "_hidden", UNPRINTABLE, "x" * 10**5, "漢字", "\\$"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    LearningCurves([[2.0, 1.0], [3.0, 2.0]], run_ids=[name, "b"]).save(tmp_path / "x.npz")
    arguments = ["rank", str(tmp_path / "x.npz"), "--plot", str(tmp_path / "x.svg"), "--json"]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "x.svg").stat().st_size < 10**6


def test_any_policy_can_be_drawn(tmp_path: Path) -> None:
    one = np.array([0.5, 1.0])
    policies = {name: PolicyScores(one, one, one, one) for name in NAMES}
    plotting.save(plotting.draw_replay(Replay(2, 2, 2, 0, policies)), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size < 10**6


def test_messages_of_the_callbacks_escape_folder_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pl = lightning()
    logger = pl.loggers.CSVLogger(tmp_path, name=UNPRINTABLE)
    stopper, options = EarlyRankingStopper(stop_epoch=2), {"enable_checkpointing": True}
    run = trainer(tmp_path, callbacks=[SoTLMonitor(), stopper], logger=logger, **options)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", UNPRINTABLE)

    monkeypatch.setattr(RunRecord, "_append", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(scripted_model(), loader(4))
    logged = [record.getMessage() for record in caplog.records]
    ours = [text for text in logged if text.startswith("The run ends")]
    ours += [str(one.message) for one in caught if "record" in str(one.message)]
    assert len(ours) == 2
    assert all(ESCAPED in text and text.isprintable() for text in ours)
    with pytest.raises(NotADirectoryError, match=r"^Expected a directory of runs but") as raised:
        find_winners(tmp_path / f"no{UNPRINTABLE}", 1)
    assert str(raised.value).isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(output, "_DELAY", 0)
    with output.progress_bar("read", unit="folder") as progress:
        assert progress is not None
        progress(1, 2)
        progress(2, 2)
    assert terminal.getvalue().splitlines()[-1].startswith("read: 100%")
    assert " 2/2 [" in terminal.getvalue()


def test_progress_is_not_shown_for_short_work_or_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(output, "_DELAY", 60)
    with output.progress_bar("read", unit="folder") as progress:
        assert progress is not None
        progress(2, 2)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with output.progress_bar("read", unit="folder") as progress:
        assert progress is None
