"""`rank`, `evaluate` and `replay` on `.csv` and `.parquet` tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from lightning_sotl import LearningCurves
from tests.support.command_line import run, write_sweep

# By the last loss the order is b, a, c; by the test accuracy it is b, c, a.
TABLE = """Name,step,loss,val acc,test_acc
a,0,3.0,0.25,0.5
a,1,2.0,0.75,0.5
b,0,3.5,0.5,0.9
b,1,1.0,0.5,0.9
c,0,2.5,0.125,0.7
c,1,2.5,0.625,0.7
"""
COLUMNS = ("--run-column", "Name", "--epoch-column", "step", "--train-loss", "loss")
TARGET = ("--target", "test_acc")


@pytest.fixture(params=["csv", "CSV", "parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"runs.{request.param}"
    path.write_text(TABLE)
    if request.param == "parquet":
        pd.read_csv(path).to_parquet(path)
    return path


def names(out: str) -> list[str]:
    return [entry["run_id"] for entry in json.loads(out)["runs"]]


def test_rank_orders_the_runs_of_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "rank", path, *COLUMNS)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "rank  run  sotl_e1  epochs",
        "   1  b          1       2",
        "   2  a          2       2",
        "   3  c        2.5       2",
        "Ranked by sotl_e1 after 2 completed epochs.",
    ]


def test_rank_takes_estimates_and_t_as_for_runs(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "rank", path, *COLUMNS, "--monitor", "sotl", "--json")
    assert code == 0
    assert [entry["estimate"] for entry in json.loads(out)["runs"]] == [4.5, 5.0, 5.0]
    code, out, _ = run(capsys, "rank", path, *COLUMNS, "--at", 1, "--top", 1, "--json")
    assert (code, names(out)) == (0, ["c"])


def test_rank_orders_by_another_column(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--monitor", "val acc", "--metric-mode", "max", "--json")
    code, out, _ = run(capsys, "rank", path, *COLUMNS, *options)
    assert (code, names(out)) == (0, ["a", "c", "b"])
    code, out, err = run(capsys, "rank", path, *COLUMNS, "--monitor", "acc", *options[2:])
    assert (code, out) == (1, "")
    assert err == (
        f"lightning-sotl rank: Expected '{path}' to have the columns 'acc' but it has 'Name', "
        "'step', 'loss', 'val acc', 'test_acc'.\n"
    )


def test_evaluate_compares_a_table_with_its_target(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--val-metric", "val acc", "--at", 2, "--estimator", "sotl-e1", "val-metric")
    code, out, _ = run(capsys, "evaluate", path, *COLUMNS, *TARGET, *options, "--json")
    document = json.loads(out)
    assert (code, document["runs"], document["target"]) == (0, 3, "test_acc")
    # Spearman's rho of three runs is 1 - d / 4, where d is the sum of squared rank differences:
    # 2 for the losses, 8 for the validation accuracy, whose order is reversed.
    found = {name: values["2"]["rho"] for name, values in document["estimators"].items()}
    assert found == {"sotl-e1": 0.5, "val-metric": -1.0}
    code, out, _ = run(
        capsys, "evaluate", path, *COLUMNS, *TARGET, "--target-mode", "min", *options, "--json"
    )
    found = {n: values["2"]["rho"] for n, values in json.loads(out)["estimators"].items()}
    assert found == {"sotl-e1": -0.5, "val-metric": 1.0}


def test_replay_replays_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--policy", "fixed-t1-top1", "--repeats", 2, "--json")
    code, out, _ = run(capsys, "replay", path, *COLUMNS, *TARGET, *options)
    scores = json.loads(out)["policies"]["fixed-t1-top1"]
    # c leads after one epoch and is the second of three by the target.
    assert code == 0
    assert scores["cost"] == pytest.approx(4 / 6)
    assert scores["rank_regret"] == pytest.approx(0.5)


def test_epochs_that_count_from_one_need_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("run,epoch,train_loss\na,1,3\na,2,1\nb,1,2\nb,2,2\n")
    code, out, err = run(capsys, "rank", path)
    assert (code, out) == (1, "")
    assert err == (
        f"lightning-sotl rank: Expected column 'epoch' of '{path}' to count from 0 but the "
        "smallest epoch is 1; `first_epoch=1` (--first-epoch 1) reads epochs that count from 1.\n"
    )
    code, out, _ = run(capsys, "rank", path, "--first-epoch", 1, "--json")
    assert (code, names(out), json.loads(out)["at"]) == (0, ["a", "b"], 2)


def test_notes_on_a_table_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("run,epoch,train_loss\na,0,3\na,2,1\nb,0,2\nb,1,2\nb,2,2\n")
    code, _, err = run(capsys, "rank", path)
    assert code == 0
    assert err == (
        "warning: 1 run without 'train_loss' in some epochs before the last, such as epoch 1 of "
        "'a'; estimates that need those epochs put them last: 'a'.\n"
    )


def test_a_frame_in_parquet_keeps_its_target_and_modes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.parquet"
    curves = LearningCurves([[1.0], [2.0], [3.0]], final_metric=[3, 2, 1], metric_mode="min")
    curves.to_frame().to_parquet(path)
    code, out, _ = run(capsys, "evaluate", path, "--at", 1, "--estimator", "sotl-e1", "--json")
    assert code == 0
    assert json.loads(out)["estimators"]["sotl-e1"]["1"]["rho"] == -1.0


def test_a_table_without_its_target_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(TABLE)
    for command in ("evaluate", "replay"):
        code, out, err = run(capsys, command, path, *COLUMNS)
        assert (code, out) == (2, "")
        assert err == (
            f"lightning-sotl {command}: A CSV table needs --target, the column of the final "
            "metric.\n"
        )
    pd.read_csv(path).to_parquet(tmp_path / "runs.parquet")
    code, out, err = run(capsys, "evaluate", tmp_path / "runs.parquet", *COLUMNS)
    assert (code, out) == (1, "")
    assert "Expected the curves to have `final_metric`, the target, but it is absent" in err


def test_only_a_table_accepts_the_names_of_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "s")
    LearningCurves([[1.0]]).save(tmp_path / "x.npz")
    for path in (sweep, tmp_path / "x.npz"):
        code, out, err = run(capsys, "rank", path, "--run-column", "run", "--first-epoch", 0)
        assert (code, out) == (1, "")
        assert err == (
            "lightning-sotl rank: Only a .csv or .parquet table accepts --run-column, "
            f"--first-epoch, and '{path}' is not one.\n"
        )


def test_metrics_csv_is_a_run_unless_an_option_of_tables_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("run,epoch,step,sotl_e1\na,0,0,2.0\nb,0,0,1.0\n")
    code, out, _ = run(capsys, "rank", path, "--json")
    assert (code, len(names(out))) == (0, 1)
    options = ("--run-column", "run", "--train-loss", "sotl_e1", "--json")
    code, out, _ = run(capsys, "rank", path, *options)
    assert (code, names(out)) == (0, ["b", "a"])


def test_several_tables_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(TABLE)
    code, out, err = run(capsys, "rank", path, path)
    assert (code, out) == (1, "")
    assert f"Expected '{path}' to be a directory, or a record or log" in err
