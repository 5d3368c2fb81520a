"""Run the command line in this process, on a small sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sotl.cli import main
from tests.support.run_folders import write_csv_log, write_record


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, its standard output and its standard error."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write_sweep(folder: Path) -> Path:
    """Write the runs v0, v1 and v2. v1 has the lowest loss and the best accuracy."""
    for name, losses, acc in [("v0", [3, 2], 0.7), ("v1", [3, 1], 0.9), ("v2", [3, 4], 0.5)]:
        write_record(folder / name, [float(x) for x in losses], checkpoint=f"{name}.ckpt")
        write_csv_log(folder / name, [{"epoch": 2, "test_acc": acc}])
    return folder
