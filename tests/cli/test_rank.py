"""`lightning-sotl rank`: the table, the JSON document and the groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.record.writer import RunRecord
from tests.support.command_line import run, write_sweep
from tests.support.run_folders import csv_rows, write_csv_log, write_record


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "s")


def test_rank_prints_json_of_the_fixed_shape(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "rank", sweep, "--json", "--top", 2)
    assert code == 0
    assert json.loads(out) == {
        "monitor": "sotl_e1",
        "at": 2,
        "runs": [
            {
                "rank": place,
                "run_id": run_id,
                "estimate": float(place),
                "epochs": 2,
                "checkpoint": f"{run_id}.ckpt",
                "name": None,
                "params": {},
            }
            for place, run_id in [(1, "v1"), (2, "v0")]
        ],
    }
    assert err == ""


def test_rank_prints_a_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "rank", sweep, "--monitor", "sotl", "--at", 1, "--stability")
    assert code == 0
    assert out.splitlines() == [
        "rank  run  sotl  epochs  checkpoint",
        "   1  v0      3       2  v0.ckpt (not found)",
        "   1  v1      3       2  v1.ckpt (not found)",
        "   1  v2      3       2  v2.ckpt (not found)",
        "Ranked by sotl after 1 completed epoch.",
        "Rank correlation between the orders at T/2 and at T: undefined.",
    ]
    assert err == (
        "warning: 3 of 3 runs (100%) tie with another in 'sotl', which has 1 different value.\n"
    )


def test_runs_that_count_blocks_are_ranked_after_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, losses in enumerate(([3.0, 2.0], [3.0, 0.05], [3.0, 0.04], [1.0])):
        write_record(tmp_path / f"v{place}", losses, unit=100)
    code, out, err = run(capsys, "rank", tmp_path, "--monitor", "sotl_b100_e1")
    assert code == 0
    assert out.splitlines() == [
        "rank  run  sotl_b100_e1  blocks",
        "   1  v2           0.04       2",
        "   2  v1           0.05       2",
        "   3  v0              2       2",
        "   4  v3              -       1",
        "Ranked by sotl_b100_e1 after 2 completed blocks.",
    ]
    assert [line for line in err.splitlines() if "block" in line] == [
        "warning: Runs that completed fewer than 2 blocks cannot be compared at T = 2 and rank "
        "last: 'v3' (1 of 4 runs).",
        "warning: 2 of 4 runs have L(e) < 0.1 after 2 blocks. So close to zero, the order of "
        "training losses means little. A smaller T may rank these runs better.",
    ]
    assert "epoch" not in err
    for at, message in [
        (9, "No run has completed 9 blocks; the longest has completed 2."),
        (1, "'sotl_b100_e2' needs 2 completed blocks but T is 1."),
    ]:
        _, _, err = run(capsys, "rank", tmp_path, "--monitor", "sotl_b100_e2", "--at", at)
        assert err.splitlines()[-1] == f"lightning-sotl rank: {message}"
    _, out, _ = run(capsys, "rank", tmp_path, "--monitor", "sotl_b100_e1", "--json")
    assert [row["epochs"] for row in json.loads(out)["runs"]] == [2, 2, 2, 1]


def test_only_a_missing_checkpoint_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.ckpt").touch()
    paths = [str(tmp_path / "there.ckpt"), "s3://bucket/x.ckpt", "/none/y.ckpt", 500 * "z", None]
    for place, path in enumerate(paths):
        write_record(tmp_path / f"v{place}", [1.0 + place], checkpoint=path)
    code, out, _ = run(capsys, "rank", tmp_path)
    assert code == 0
    shown = [line.split(maxsplit=4)[4] for line in out.splitlines()[1:6]]
    assert shown == [*paths[:2], "/none/y.ckpt (not found)", f"{paths[3]} (not found)", "-"]
    _, out, _ = run(capsys, "rank", tmp_path, "--json")
    assert [one["checkpoint"] for one in json.loads(out)["runs"]] == paths


def test_only_a_diverged_run_is_called_diverged(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "short", [0.1])
    write_record(sweep / "gone", [3.0, float("nan")])
    _, out, _ = run(capsys, "rank", sweep, "--at", 2)
    assert [line.split()[:4] for line in out.splitlines()[4:6]] == [
        ["4", "gone", "diverged", "2"],
        ["4", "short", "-", "1"],
    ]


def test_rank_accepts_any_logged_key(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "rank", sweep, "--monitor", "test_acc", "--metric-mode", "max", "--at", 3, "--json"
    )
    assert code == 0
    assert [row["run_id"] for row in json.loads(out)["runs"]] == ["v1", "v0", "v2"]


def test_a_mode_that_contradicts_the_estimate_or_the_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npz"
    table = np.array([[0.1], [0.9]])
    LearningCurves(table, val_metric=table, final_metric=table[:, 0]).save(path)
    for command in (["rank", path, "--monitor", "val_metric"], ["evaluate", path]):
        code, out, err = run(capsys, *command, "--metric-mode", "min")
        message = f"Expected --metric-mode to be 'max', the mode stored in '{path}', but got 'min'."
        assert (code, out, err) == (1, "", f"lightning-sotl {command[0]}: {message}\n")
    code, out, err = run(capsys, "rank", path, "--metric-mode", "max")
    assert (code, out, err) == (
        2,
        "",
        "lightning-sotl rank: Expected --metric-mode to be 'min' for --monitor sotl_e1, "
        "because a lower estimate is better, but got 'max'.\n",
    )


def test_rank_counts_runs_without_the_metric(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv_log(sweep / "v7", [{"epoch": 0, "loss": 1.0}])
    code, out, err = run(capsys, "rank", sweep, "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 3
    assert "Left out 1 of 4 runs without L(e): 'v7'. L(e) needs a record" in err
    write_csv_log(sweep / "v8", [{"epoch": 0, "val": 1.0}])
    code, out, err = run(
        capsys, "rank", sweep, "--monitor", "val", "--metric-mode", "min", "--json"
    )
    assert [row["run_id"] for row in json.loads(out)["runs"]] == ["v8"]
    assert "Left out 4 of 5 runs that do not log 'val' by epoch: 'v0', 'v1', 'v2', 'v7'." in err


def test_a_second_logger_is_a_note_not_a_warning(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv_log(sweep / "csv" / "v1", csv_rows([3.0, 1.0]))  # v1's second logger
    code, _, err = run(capsys, "rank", sweep)
    assert (code, err) == (
        0,
        "note: Joined 1 folder, probably from a second logger, to the run with the same losses in "
        "its record.\n",
    )


def test_rank_groups_runs_that_are_not_comparable(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [2.0, 0.5], batch_size=64)
    _, out, err = run(capsys, "rank", sweep, "--json")
    assert json.loads(out)["runs"][0]["run_id"] == "v3"
    assert "batch_size (8 in 3 runs, 64 in 1 run)" in err
    code, out, err = run(capsys, "rank", sweep, "--group-by", "batch_size", "--json")
    assert code == 0
    documents = json.loads(out)
    assert [document["group"] for document in documents] == [
        {"batch_size": "8"},
        {"batch_size": "64"},
    ]
    assert [len(document["runs"]) for document in documents] == [3, 1]
    assert "batch_size (" not in err


def test_a_group_that_cannot_be_ranked_causes_a_warning(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [float("nan")] * 2, batch_size=64)
    code, out, err = run(capsys, "rank", sweep, "--group-by", "batch_size", "--json")
    assert code == 0
    assert [document["group"] for document in json.loads(out)] == [{"batch_size": "8"}]
    assert err == (
        "warning: Left out the group batch_size = 64: No run has a finite 'sotl_e1' after 2 "
        "epochs, so there is nothing to rank.\n"
    )


def test_other_differences_within_a_group_still_cause_a_warning(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "v3", [1.0, 0.5], hparams={"dropout": 0.5})
    _, _, err = run(capsys, "rank", sweep, "--group-by", "batch_size")
    assert err.startswith("warning: batch_size = 8: The runs differ in settings that change the")
    assert "hparams.dropout (null in 3 runs, 0.5 in 1 run)" in err


@pytest.mark.parametrize("options", [["--at", 9], ["--group-by", "nothing"]], ids=str)
def test_an_error_does_not_hide_what_was_left_out(
    sweep: Path, capsys: pytest.CaptureFixture[str], options: list[object]
) -> None:
    write_csv_log(sweep / "v7", [{"epoch": 0, "loss": 1.0}])
    code, out, err = run(capsys, "rank", sweep, *options)
    assert (code, out) == (1, "")
    first, last = err.splitlines()
    assert first.startswith("warning: Left out 1 of 4 runs without L(e): ")
    assert last.startswith("lightning-sotl rank: No run has ")


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Four runs of two sizes. The last two have a name and `params`."""
    model = {"model": {"sizes": [8, 4]}, "lr": 0.1}
    write_record(tmp_path / "v0", [3.0], hparams={**model, "act": "relu"})
    write_record(tmp_path / "v1", [4.0], hparams=model)
    given = {"model": {"sizes": [16]}, "lr": 0.1, "device": None}
    for folder, name, loss in [("v2", "wide", 1.0), ("v3", "deep", 2.0)]:
        write_named(tmp_path / folder, name, loss, params=given, hparams={"x": 1})
    return tmp_path


def write_named(folder: Path, name: str, loss: float, **facts: object) -> None:
    record = RunRecord(folder / "sotl.jsonl")
    record.header(folder.name, unit="epoch", batch_size=8, loss_key="loss", name=name, **facts)
    record.unit(0, loss, 4, None)


def test_rank_shows_names_and_the_parameters_that_differ(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "rank", named)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "rank  run   sotl_e1  epochs  model.sizes  act",
        "   1  wide        1       1  [16]         -",
        "   2  deep        2       1  [16]         -",
        "   3  v0          3       1  [8, 4]       relu",
        "   4  v1          4       1  [8, 4]       -",
        "Ranked by sotl_e1 after 1 completed epoch.",
    ]
    write_named(named / "v4", "deep", 5.0, params={"lr": 0.1})
    write_record(named / "v5", [6.0], checkpoint="x" * 100)
    _, out, _ = run(capsys, "rank", named, "--params")
    assert out.splitlines()[:3] == [
        "rank  run        sotl_e1  epochs  model.sizes  lr   act   checkpoint",
        "   1  wide             1       1  [16]         0.1  -     -",
        "   2  deep (v3)        2       1  [16]         0.1  -     -",
    ]
    assert out.splitlines()[5:7] == [
        "   5  deep (v4)        5       1  -            0.1  -     -",
        f"   6  v5               6       1  -            -    -     {'x' * 100} (not found)",
    ]


def test_long_values_and_names_are_shortened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"lr": 0.1234567891, "loss": "x" * 31, "k" * 999: 1}
    write_named(tmp_path / "v0", "n" * 999, 1.0, params=params)
    _, out, _ = run(capsys, "rank", tmp_path, "--params")
    assert [line.split()[1:] for line in out.splitlines()[:2]] == [
        ["run", "sotl_e1", "epochs", "lr", "loss", f"{'k' * 200}..."],
        [f"{'n' * 200}...", "1", "1", "0.123457", f"{'x' * 30}...", "1"],
    ]


def test_runs_with_the_same_name_are_distinguished_everywhere(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_named(named / "v4", "wide", float("inf"))
    _, out, err = run(capsys, "rank", named, "--top", 2)  # without the other one
    assert [line.split("  ")[2] for line in out.splitlines()[1:3]] == ["wide (v2)", "deep"]
    assert err == (
        "warning: Runs without a finite value at T = 1 (diverged, or without a loss) rank last: "
        "'wide (v4)' (1 of 5 runs).\n"
    )


def test_parameters_that_do_not_fit_are_named(
    named: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "rank  run   sotl_e1  epochs  model.sizes  act"
    width = len(whole) + 1  # of "relu"
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(capsys, "rank", named)[1].splitlines()[0] == whole
    monkeypatch.setenv("COLUMNS", str(width - 1))
    _, out, _ = run(capsys, "rank", named)
    assert out.splitlines()[0] == "rank  run   sotl_e1  epochs"
    assert out.splitlines()[-1] == (
        "The runs differ in 'model.sizes', 'act'; --params shows all parameters."
    )
    _, out, _ = run(capsys, "rank", named, "--params")
    assert out.splitlines()[0] == "rank  run   sotl_e1  epochs  model.sizes  lr   act"


def test_json_has_names_and_parameters(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (named / "v0" / "sotl.jsonl").write_text(
        '{"schema": 1, "run_id": "a", "unit": "epoch", "name": 3, "params": {"lr": NaN}}\n'
        '{"e": 0, "loss": 3.0, "steps": 1}\n'
    )
    _, out, _ = run(capsys, "rank", named, "--json")
    found = [(one["run_id"], one["name"], one["params"]) for one in json.loads(out)["runs"]]
    given = {"model": {"sizes": [16]}, "lr": 0.1, "device": None}
    assert found == [
        ("v2", "wide", given),
        ("v3", "deep", given),
        ("v0", None, {"lr": None}),  # JSON has no NaN
        ("v1", None, {"model": {"sizes": [8, 4]}, "lr": 0.1}),
    ]


def test_several_paths_and_files_of_runs_are_ranked_together(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "rank", sweep / "v0", sweep / "v2" / "sotl.jsonl", "--json")
    assert code == 0
    assert [entry["run_id"] for entry in json.loads(out)["runs"]] == ["v0", "v2"]
    write_csv_log(sweep / "v7", csv_rows([3.0, 0.5]))
    code, out, _ = run(capsys, "rank", "--json", sweep / "v7" / "metrics.csv")
    assert (code, [entry["run_id"] for entry in json.loads(out)["runs"]]) == (0, ["v7"])


def test_the_error_for_an_unsuitable_path_lists_suitable_ones(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep / "results.txt"
    path.write_text("epoch,sotl_e1\n0,1.0\n")
    code, out, err = run(capsys, "rank", path)
    assert (code, out) == (1, "")
    assert err == (
        f"lightning-sotl rank: Expected '{path}' to be a directory of runs, a file of a run "
        "('sotl.jsonl', 'metrics.csv' or 'events.out.tfevents.*'), an .npz file of "
        "LearningCurves, or a .csv or .parquet table.\n"
    )
    curves = sweep / "x.npz"
    LearningCurves([[1.0], [2.0]]).save(curves)
    code, _, err = run(capsys, "rank", curves, sweep / "v0")
    assert code == 1
    assert f"Expected '{curves}' to be a directory, or a record or log" in err
    code, _, err = run(capsys, "rank", "--format", "nas-bench-nlp", curves, curves)
    assert (code, err) == (
        1,
        "lightning-sotl rank: Expected one PATH with --format nas-bench-nlp but got 2.\n",
    )


def test_the_error_for_an_unknown_monitor_lists_the_available_ones(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "rank", sweep, "--monitor", "solt_e1")
    assert (code, err) == (
        1,
        "lightning-sotl rank: No monitor of these runs has the prefix 'solt'; they log 'sotl_e1' "
        "and so on.\n",
    )
