from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from run_folders import csv_rows, write_csv_log, write_events, write_record
from shared_data import SHARED_DATA, needs_shared_data

from lightning_sotl import LearningCurves, __version__
from lightning_sotl.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for name, losses, acc in [("v0", [3, 2], 0.7), ("v1", [3, 1], 0.9), ("v2", [3, 4], 0.5)]:
        write_record(tmp_path / "s" / name, [float(x) for x in losses], checkpoint=f"{name}.ckpt")
        write_csv_log(tmp_path / "s" / name, [{"epoch": 2, "test_acc": acc}])
    return tmp_path / "s"


def test_rank_prints_json_of_the_fixed_shape(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "rank", sweep, "--json", "--top", 2)
    assert code == 0
    assert json.loads(out) == {
        "monitor": "sotl_e1",
        "at": 2,
        "runs": [
            {"rank": 1, "run_id": "v1", "estimate": 1.0, "epochs": 2, "checkpoint": "v1.ckpt"},
            {"rank": 2, "run_id": "v0", "estimate": 2.0, "epochs": 2, "checkpoint": "v0.ckpt"},
        ],
    }
    assert err == ""


def test_rank_prints_a_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "rank", sweep, "--monitor", "sotl", "--at", 1, "--stability")
    assert code == 0
    assert out.splitlines() == [
        "rank  run  sotl  epochs  checkpoint",
        "   1  v0      3       2  v0.ckpt",
        "   1  v1      3       2  v1.ckpt",
        "   1  v2      3       2  v2.ckpt",
        "Ranked by sotl after 1 completed epochs.",
        "Rank correlation of the order at T/2 with that at T is not known.",
    ]
    assert err == (
        "warning: 3 of 3 runs (100%) tie with another in 'sotl'; there are 1 different value.\n"
    )


def test_only_a_diverged_run_is_called_so(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(sweep / "short", [0.1])
    write_record(sweep / "gone", [3.0, float("nan")])
    _, out, _ = run(capsys, "rank", sweep, "--at", 2)
    assert [line.split()[:4] for line in out.splitlines()[4:6]] == [
        ["4", "gone", "diverged", "2"],
        ["4", "short", "-", "1"],
    ]


def test_rank_goes_by_any_logged_key(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "rank", sweep, "--monitor", "test_acc", "--metric-mode", "max", "--at", 3, "--json"
    )
    assert code == 0
    assert [row["run_id"] for row in json.loads(out)["runs"]] == ["v1", "v0", "v2"]


def test_rank_groups_runs_that_are_not_comparable(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [2.0, 0.5], batch_size=64)
    _, out, err = run(capsys, "rank", sweep, "--json")
    assert json.loads(out)["runs"][0]["run_id"] == "v3"
    assert "batch_size (8: 3, 64: 1)" in err
    code, out, err = run(capsys, "rank", sweep, "--group-by", "batch_size", "--json")
    assert code == 0
    documents = json.loads(out)
    assert [document["group"] for document in documents] == [
        {"batch_size": "8"},
        {"batch_size": "64"},
    ]
    assert [len(document["runs"]) for document in documents] == [3, 1]
    assert "batch_size (" not in err


def test_evaluate_reads_the_target_from_logs(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys,
        "evaluate",
        sweep,
        "--target",
        "test_acc",
        "--at",
        2,
        "--estimator",
        "sotl-e1",
        "--json",
    )
    assert code == 0
    document = json.loads(out)
    assert document["estimators"]["sotl-e1"]["2"]["rho"] == 1.0
    assert document["recommended"] == {"estimator": "sotl-e1", "window": 1, "epoch": 2}
    assert err == "warning: With 3 runs the intervals are too narrow.\n"


def test_evaluate_prints_a_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "evaluate", sweep, "--target", "test_acc", "--grid", "--at", 1, 2)
    assert code == 0
    assert out.splitlines() == [
        "Rank correlation with 'test_acc' (higher is better) of 3 runs, 0 left out, with 95 % "
        "intervals:",
        "estimator        T=1                   T=2",
        "sotl-e1    undefined  1.000 [1.000, 1.000]",
        "sotl-e2               1.000 [1.000, 1.000]",
        "Use E = 1 at T = 2: the cheapest SoTL-E that these runs do not show to be worse than the "
        "best (no smaller T of these is as good).",
    ]


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
    ("make", "said"),
    [
        (empty, "to hold runs, in files 'sotl.jsonl', 'metrics.csv' or"),
        (without_metric, "or 'sotl_e1' in its logs; from other logged values L(e) cannot be"),
        (without_key, "'val_acc' is not logged in any of the 1 run; available: 'loss'."),
        (one_run, "Expected at least 2 runs with a finite target but got 1 of 1."),
        (beyond, "No run has completed 9 epochs; the longest has completed 1."),
        (diverged, "None of the 2 runs has a finite 'sotl_e1' after 1 epoch"),
        (no_directory, "; expected a directory of runs or an .npz of LearningCurves."),
        (text_file, "to be an .npz archive, but it is none."),
        (objects, "cannot be read without pickle"),
        (wrong_shape, "Expected `train_loss` to have the shape (runs, epochs)"),
        (no_target, "Expected the curves to have `final_metric`, the target, but it is absent."),
        (keys_for_a_table, "--val-loss: only for a directory of runs, which"),
        (endless_windows, f"nothing to show: 'sotl-e2': {_NONE}; 'sotl-e{10**30}': {_NONE}."),
    ],
)
def test_data_that_do_not_allow_it_give_1_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, said: str
) -> None:
    code, out, err = run(capsys, *make(tmp_path))
    assert code == 1
    assert out == ""
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "replay    what each stopping policy would have cost and picked"),
        (["sort", "x"], "invalid choice: 'sort'"),
        (["rank"], "the following arguments are required: PATH"),
        (["rank", "x", "--at", "0"], "Expected --at to be at least 1 but got 0."),
        (["rank", "x", "--top", "0"], "Expected --top to be at least 1 but got 0."),
        (["rank", "x", "--monitor", "val_acc"], "--metric-mode has to say which end of it"),
        (["evaluate", "x", "--at", "-1"], "Expected --at to be at least 1 but got -1."),
        (["evaluate", "x", "--resamples", "0"], "Expected --resamples to be at least 1 but got 0."),
        (["evaluate", "x", "--seed", "-1"], "Expected --seed to be at least 0 but got -1."),
        (["evaluate", "x", "--estimator", "tse"], "There is no estimator 'tse'; available:"),
        (["evaluate", ".", "--at", "1"], "A directory of runs needs --target"),
    ],
)
def test_wrong_usage_gives_2_and_a_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said in err


def test_help_and_version_give_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "--version") == (0, f"lightning-sotl {__version__}\n", "")


def test_help_answers_at_once_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from lightning_sotl.cli import main; main(['--help']); "
        "print([name for name in ('numpy', 'scipy', 'torch', 'rich') if name in sys.modules])"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The bound is 0.5 s; a machine that is busy with other tests gets a second more.
    assert time.perf_counter() - begun < 1.5
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_runs_as_a_program(sweep: Path) -> None:
    command = [sys.executable, "-m", "lightning_sotl", "rank", str(sweep), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["runs"][0]["run_id"] == "v1"


def test_rank_loads_no_torch(sweep: Path) -> None:
    pytest.importorskip("tensorboard")
    write_events(sweep / "v9", [(1, {"sotl_e1": 1.0, "epoch": 0})])
    code = (
        f"import sys; from lightning_sotl.cli import main; main(['rank', {str(sweep)!r}]); "
        "print([n for n in ('torch', 'pytorch_lightning', 'sklearn', 'matplotlib') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@needs_shared_data
def test_benchmark_is_evaluated_from_its_zip(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys,
        "evaluate",
        SHARED_DATA / "nas-bench-nlp-wikitext2/logs.zip",
        "--format",
        "nas-bench-nlp",
        "--at",
        10,
        "--estimator",
        "sotl-e1",
        "--json",
        "--resamples",
        20,
    )
    assert code == 0
    document = json.loads(out)
    assert round(document["estimators"]["sotl-e1"]["10"]["rho"], 3) == 0.932
    assert (document["runs"], document["left_out"]) == (341, 4)
    assert "4 runs of 345 with another status than 'OK' ('loss is nan!': 4)" in err


def test_rank_counts_runs_without_the_metric(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv_log(sweep / "v7", [{"epoch": 0, "loss": 1.0}])
    code, out, err = run(capsys, "rank", sweep, "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 3
    assert "Left out 1 of 4 runs without a record with a completed epoch or 'sotl_e1'" in err
    write_csv_log(sweep / "v8", [{"epoch": 0, "val": 1.0}])
    code, out, err = run(
        capsys, "rank", sweep, "--monitor", "val", "--metric-mode", "min", "--json"
    )
    assert [row["run_id"] for row in json.loads(out)["runs"]] == ["v8"]
    assert "Left out 4 of 5 runs that do not log 'val' by epoch: 'v0', 'v1', 'v2', 'v7'." in err


def test_tables_fit_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    pytest.importorskip("rich")
    generator = np.random.default_rng(0)
    losses = generator.uniform(1, 2, size=(30, 40))
    LearningCurves(losses, final_metric=-losses[:, -1]).save(tmp_path / "x.npz")
    control, terminal = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "lightning_sotl", "evaluate", str(tmp_path / "x.npz")],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a closed terminal ends on Linux
        while chunk := os.read(control, 4096):
            shown += chunk
    assert done.wait() == 0
    lines = shown.decode().splitlines()
    tables = [line for line in lines if line.strip().startswith("sotl-e1 ")]
    assert len(tables) == 4  # eight T's, two side by side
    assert all(len(line.rstrip()) <= 80 and line.count("[") == 2 for line in tables)


def test_window_beyond_the_epochs_is_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys,
        "evaluate",
        sweep,
        "--target",
        "test_acc",
        "--at",
        2,
        "--estimator",
        "sotl-e9",
        "sotl",
        "--json",
    )
    assert code == 0
    assert list(json.loads(out)["estimators"]) == ["sotl"]
    assert "Left out 'sotl-e9': it has no value at T = 2." in err


def test_group_that_allows_no_ranking_is_said(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [float("nan")] * 2, batch_size=64)
    code, out, err = run(capsys, "rank", sweep, "--group-by", "batch_size", "--json")
    assert code == 0
    assert [document["group"] for document in json.loads(out)] == [{"batch_size": "8"}]
    assert "Left out the group 64: None of the 1 run has a finite 'sotl_e1' after 2 epochs" in err


def test_group_is_still_checked_for_what_else_differs(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [1.0, 0.5], hparams={"dropout": 0.5})
    _, _, err = run(capsys, "rank", sweep, "--group-by", "batch_size")
    assert "hparams.dropout (null: 3, 0.5: 1)" in err
