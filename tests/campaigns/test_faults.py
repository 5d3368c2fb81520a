"""Short versions of the campaigns in `campaigns/faults.py`."""

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPT = ["-m", "tests.campaigns.faults"]


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_killed_runs_resume_exactly_and_runs_are_ranked_correctly_while_they_are_written():
    names = ["killed-runs", "killed-ranks", "killed-studies", "killed-sweeps", "read-while-written"]
    done = subprocess.run(
        [sys.executable, *SCRIPT, *names, "--lean"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"faults +(\d+)", done.stdout) == ["0"] * 5
    restarts = [int(number) for number in re.findall(r"restarts +(\d+)", done.stdout)]
    assert restarts[0] >= 4
    assert restarts[1] == 1
    assert restarts[2] >= 2  # two sweeps, each killed at a write
    assert re.findall(r"  kills +(\d+)", done.stdout) == ["3"]
