"""The command line on terminals, on pipes, on a full disk and with closed streams."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.cli import main
from tests.support.run_folders import write_record

PROGRAM = [sys.executable, "-m", "lightning_sotl"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    write_record(tmp_path / "s" / "lr:100:a", [3.0, 2.0], checkpoint="/shared/" + 50 * "x")
    write_record(tmp_path / "s" / "b", [3.0, 1.0], checkpoint="/shared/" + 50 * "y")
    return tmp_path / "s"


def on_terminal(*arguments: object, **environment: str) -> str:
    """Return what the program shows on a terminal, and check that it succeeds."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    control, terminal = pty.openpty()
    done = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # on Linux, reading from a closed terminal raises
        while chunk := os.read(control, 4096):
            shown += chunk
    os.close(control)
    assert done.wait() == 0
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "120", "NO_COLOR": ""},
        {"COLUMNS": "120", "NO_COLOR": "1"},
        {"COLUMNS": "120", "TERM": "dumb"},
    ],
    ids=str,
)
def test_a_terminal_receives_no_escape_sequences(sweep: Path, environment: dict[str, str]) -> None:
    shown = on_terminal("rank", sweep, **environment)
    assert "\x1b" not in shown
    assert " lr:100:a " in shown  # no emoji
    assert len(shown.splitlines()) == 4  # no line is wrapped


def test_tables_fit_a_terminal(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    losses = generator.uniform(1, 2, size=(30, 40))
    LearningCurves(losses, final_metric=-losses[:, -1]).save(tmp_path / "x.npz")
    shown = on_terminal("evaluate", tmp_path / "x.npz", COLUMNS="80", TERM="dumb")
    lines = shown.splitlines()
    tables = [line for line in lines if line.strip().startswith("sotl-e1 ")]
    assert len(tables) == 4  # eight columns of T, two per table
    assert all(len(line.rstrip()) <= 80 and line.count("[") == 2 for line in tables)


def test_a_path_is_not_cut_on_a_narrow_terminal(sweep: Path) -> None:
    shown = on_terminal("rank", sweep, COLUMNS="40")
    assert "/shared/" + 50 * "x" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["rank"], ["rank", "--json"]])
def test_a_reader_that_exits_early_causes_no_error(sweep: Path, arguments: list[str]) -> None:
    path = [str(sweep)] if "rank" in arguments else []
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, *arguments, *path], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def with_full(stream: str, arguments: list[str], *, unbuffered: str = "") -> tuple[int, str]:
    """Return the exit code with one stream on a full disk, and the text on the other stream."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            **{**streams, stream: full},
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    return done.returncode, done.stderr if stream == "stdout" else done.stdout


FULL = "[Errno 28] No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rank", "--help"]], ids=str)
def test_help_and_version_that_cannot_be_written_are_an_error(
    arguments: list[str], unbuffered: str
) -> None:
    done = with_full("stdout", arguments, unbuffered=unbuffered)
    assert done == (1, f"lightning-sotl: {FULL}")


def test_output_to_a_full_disk_is_an_error_without_a_traceback(sweep: Path) -> None:
    assert with_full("stdout", ["rank", str(sweep)]) == (1, f"lightning-sotl rank: {FULL}")


def test_the_exit_code_is_right_if_the_error_cannot_be_written() -> None:
    assert with_full("stderr", []) == (1, "")
    # argparse writes this error. On Python 3.10, it raises if it cannot.
    assert with_full("stderr", ["sort"]) == (1 if sys.version_info < (3, 11) else 2, "")


@pytest.mark.skipif(os.name == "nt", reason="the shell's syntax")
def test_closed_streams_cause_no_error(sweep: Path) -> None:
    shell = f'"{sys.executable}" -m lightning_sotl rank "{sweep}"'
    done = subprocess.run(["sh", "-c", f"{shell} >&-"], capture_output=True, check=False)  # noqa: S607
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(["sh", "-c", f"{shell} 2>&-"], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0
    assert b"Ranked by sotl_e1" in done.stdout


@pytest.mark.parametrize("command", ["rank", "evaluate", "replay"])
def test_ctrl_c_ends_at_once_without_a_traceback(
    sweep: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lightning_sotl.cli.inputs.read_logs", interrupted)
    target = [] if command == "rank" else ["--target", "acc"]
    # Ray replaces the handler if an earlier test of this process has run it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([command, str(sweep), *target]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")
