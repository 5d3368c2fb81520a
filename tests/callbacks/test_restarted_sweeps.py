"""Two processes share the directory of an adaptive sweep, and one is killed and restarted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_sotl.cli import main
from tests.support.adaptive_jobs import POLICY, curve
from tests.support.adaptive_rule import expected_epochs

FIRST, SECOND = [2.0, 3.0], [1.0, 4.0, 1.5]
KILLED, EPOCHS = 1.0, 5  # the level of the killed run, and its completed epochs at that time
SHIFT = 0.25  # the second start has other seeds


def start(folder: Path, shift: float, levels: list[float], *options: str) -> tuple[int, list[int]]:
    """Return the exit code of a process, and the epochs of its runs."""
    words = [str(folder), str(shift), *map(str, levels), *options]
    command = [sys.executable, "-m", "tests.support.adaptive_jobs", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
    return done.returncode, [int(epochs) for _, epochs in lines]


def expected_with(*restarted: list[float]) -> list[int]:
    """Return the expected epochs of all runs, with these curves in place of the killed run's."""
    others = [curve(level, SHIFT) for level in SECOND if level != KILLED]
    return expected_epochs(POLICY, [*map(curve, FIRST), *restarted, *others])


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False], ids=["resumed", "from the beginning"])
def test_a_restarted_loop_ends_its_runs_as_the_policy_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resume: bool
) -> None:
    flags = ["--resume"] if resume else []
    kill = ["--kill", str(KILLED), str(EPOCHS)]
    code, first = start(tmp_path, 0.0, FIRST, *flags)
    assert (code, start(tmp_path, 0.0, SECOND, *flags, *kill)) == (0, (-signal.SIGKILL, []))
    code, second = start(tmp_path, SHIFT, SECOND, *flags)
    again = curve(KILLED, SHIFT)
    if resume:
        again = [*curve(KILLED)[:EPOCHS], *again[EPOCHS:]]
    expected = expected_with(again)
    assert (code, [*first, *second]) == (0, expected)
    # If the run were compared with the record of its killed process, it would end earlier.
    assert expected_with(curve(KILLED), curve(KILLED, SHIFT))[3] < expected[2]
    assert main(["rank", str(tmp_path), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    killed = [] if resume else [EPOCHS]
    assert sorted(run["epochs"] for run in runs) == sorted([*expected, *killed])
    if resume:  # another start trains nothing
        assert start(tmp_path, SHIFT, SECOND, *flags) == (0, second)
