"""What the commands share: arguments, exit codes, messages, and fast imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves, __version__
from tests.support.command_line import run, write_sweep
from tests.support.run_folders import csv_rows, write_csv_log, write_events, write_record


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "s")


def empty(folder: Path) -> list[object]:
    return ["rank", folder]


def without_metric(folder: Path) -> list[object]:
    write_csv_log(folder, [{"epoch": 0, "loss": 1.0}])
    return ["rank", folder]


def without_key(folder: Path) -> list[object]:
    return [*without_metric(folder), "--monitor", "val_acc", "--metric-mode", "max"]


def one_run(folder: Path) -> list[object]:
    write_csv_log(folder, csv_rows([1.0], acc=[0.5]))
    return ["evaluate", folder, "--target", "acc"]


def beyond(folder: Path) -> list[object]:
    write_record(folder / "a", [1.0])
    return ["rank", folder, "--at", 9]


def diverged(folder: Path) -> list[object]:
    write_record(folder / "a", [float("nan")])
    write_record(folder / "b", [float("inf")])
    return ["rank", folder]


def no_directory(folder: Path) -> list[object]:
    return ["rank", folder / "none"]


def text_file(folder: Path) -> list[object]:
    (folder / "x.npz").write_text("no archive")
    return ["evaluate", folder / "x.npz"]


def objects(folder: Path) -> list[object]:
    np.savez(folder / "x.npz", train_loss=np.array([[{}]], dtype=object))
    return ["rank", folder / "x.npz"]


def wrong_shape(folder: Path) -> list[object]:
    np.savez(folder / "x.npz", train_loss=np.ones(3))
    return ["rank", folder / "x.npz"]


def no_target(folder: Path) -> list[object]:
    LearningCurves([[1.0], [2.0]]).save(folder / "x.npz")
    return ["evaluate", folder / "x.npz"]


def keys_for_a_table(folder: Path) -> list[object]:
    LearningCurves([[1.0], [2.0]], final_metric=[1.0, 2.0]).save(folder / "x.npz")
    return ["evaluate", folder / "x.npz", "--val-loss", "v"]


_NONE = "it has no value at T = 1"


def endless_windows(folder: Path) -> list[object]:
    LearningCurves([[1.0], [2.0]], final_metric=[1.0, 2.0]).save(folder / "x.npz")
    return ["evaluate", folder / "x.npz", "--estimator", "sotl-e2", f"sotl-e{10**30}"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "to hold runs, in files 'sotl.jsonl', 'metrics.csv' or"),
        (without_metric, "or 'sotl_e1' in the logs; other logged values do not give it exactly."),
        (without_key, "Found no 'val_acc' in the logs of 1 run; available: 'loss'."),
        (one_run, "Expected at least 2 runs with a finite target but got 1 of 1."),
        (beyond, "No run has completed 9 epochs; the longest has completed 1."),
        (diverged, "No run has a finite 'sotl_e1' after 1 epoch, so there is nothing to rank."),
        (
            no_directory,
            ". Expected a directory of runs, an .npz file of LearningCurves, or a .csv or .parquet "
            "table.",
        ),
        (text_file, "to be an .npz archive, but it is not."),
        (objects, "cannot be read without pickle"),
        (wrong_shape, "Expected `train_loss` to have the shape (runs, epochs)"),
        (no_target, "Expected the curves to have `final_metric`, the target, but it is absent."),
        (keys_for_a_table, "Only a directory of runs accepts --val-loss, and '"),
        (
            endless_windows,
            f"No estimator has a value: 'sotl-e2': {_NONE}; 'sotl-e{10**30}': {_NONE}.",
        ),
    ],
)
def test_unsuitable_data_exit_with_1_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, message: str
) -> None:
    code, out, err = run(capsys, *make(tmp_path))
    assert code == 1
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "replay    compare what stopping policies would have cost and picked"),
        (["sort", "x"], "invalid choice: 'sort'"),
        (["rank"], "the following arguments are required: PATH"),
        (["rank", "x", "--at", "0"], "Expected --at to be at least 1 but got 0."),
        (["rank", "x", "--top", "0"], "Expected --top to be at least 1 but got 0."),
        (["rank", "x", "--monitor", "val_acc"], "add --metric-mode min (lower is better) or max"),
        (
            ["rank", "x", "--monitor", "sotl-e2"],
            "lightning-sotl rank: There is no estimate 'sotl-e2'; did you mean 'sotl_e2'? If it is "
            "a logged key, add --metric-mode min (lower is better) or max (higher is better).\n",
        ),
        (["evaluate", "x", "--at", "-1"], "Expected --at to be at least 1 but got -1."),
        (["evaluate", "x", "--resamples", "0"], "Expected --resamples to be at least 1 but got 0."),
        (["evaluate", "x", "--seed", "-1"], "Expected --seed to be at least 0 but got -1."),
        (["evaluate", "x", "--plot", "p", "--group-by", "f"], "--plot draws one group of runs and"),
        (["evaluate", "x", "--estimator", "tse"], "There is no estimator 'tse'; available:"),
        (["evaluate", "x", "--estimator", "sotl_e1"], "'sotl_e1'; did you mean 'sotl-e1'? Avail"),
        (["evaluate", ".", "--at", "1"], "A directory of runs needs --target"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err


def test_help_and_version_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "--version") == (0, f"lightning-sotl {__version__}\n", "")


def test_help_imports_no_slow_module() -> None:
    code = (
        "import sys; from lightning_sotl.cli import main; main(['--help']); "
        "heavy = {'numpy', 'scipy', 'torch', 'tqdm', 'inspect'}; print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_module_runs_as_a_program(sweep: Path) -> None:
    command = [sys.executable, "-m", "lightning_sotl", "rank", str(sweep), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["runs"][0]["run_id"] == "v1"


def test_rank_does_not_import_torch(sweep: Path) -> None:
    pytest.importorskip("tensorboard")
    write_events(sweep / "v9", [(1, {"sotl_e1": 1.0, "epoch": 0})])
    code = (
        f"import sys; from lightning_sotl.cli import main; main(['rank', {str(sweep)!r}]); "
        "print([n for n in ('torch', 'pytorch_lightning', 'sklearn', 'matplotlib') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
