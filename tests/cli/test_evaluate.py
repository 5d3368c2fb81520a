"""`lightning-sotl evaluate`: the table, the JSON document and the groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_sotl import LearningCurves
from tests.support.command_line import run, write_sweep
from tests.support.paths import SHARED_DATA, needs_shared_data
from tests.support.run_folders import write_csv_log, write_record

TOO_FEW = (
    "The intervals are too narrow with only 3 runs; it takes at least 20 to recommend E and T."
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "s")


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
    assert document["target"] == "test_acc"
    assert document["recommended"] == {"estimator": "sotl-e1", "window": 1, "epoch": 2}
    assert err == f"warning: {TOO_FEW}\n"


def test_evaluate_and_replay_read_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {"v0": [3.0, 1.0], "v1": [2.0, 3.0], "v2": [1.0, 2.0]}
    for number, (name, values) in enumerate(losses.items()):
        write_record(tmp_path / name, values, unit=7, hparams={"width": number})
        row = {"epoch": 0, "step": 13, "sotl_b7_e1": values[1], "test_acc": 1 - 0.1 * values[1]}
        write_csv_log(tmp_path / name, [row])
    source = (tmp_path, "--target", "test_acc", "--monitor", "sotl_b7_e1", "--json")
    code, out, _ = run(capsys, "evaluate", *source, "--at", 1, 2, "--estimator", "sotl-e1")
    rhos = {at: each["rho"] for at, each in json.loads(out)["estimators"]["sotl-e1"].items()}
    assert (code, rhos) == (0, {"1": pytest.approx(-0.5), "2": pytest.approx(1.0)})
    code, out, _ = run(capsys, "replay", *source, "--policy", "fixed-t1-top1")
    # 3 blocks to T = 1, and 1 of the 3 that remain; the pick has the second best target.
    scores = json.loads(out)["policies"]["fixed-t1-top1"]
    assert (code, scores["cost"]) == (0, pytest.approx(4 / 6))
    assert scores["rank_regret"] == pytest.approx(0.5)
    code, _, err = run(capsys, "evaluate", tmp_path, "--target", "test_acc", "--monitor", "val_acc")
    assert (code, err) == (
        2,
        "lightning-sotl evaluate: Expected --monitor to be an estimate's name such as 'sotl_e1' or "
        "'sotl_b1000_e1' but got 'val_acc'.\n",
    )
    curves = LearningCurves.from_logs(tmp_path, final_metric="test_acc", block=7)
    assert curves.train_loss.tolist() == list(losses.values())


def test_evaluate_prints_a_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "evaluate", sweep, "--target", "test_acc", "--grid", "--at", 1, 2)
    assert code == 0
    assert out.splitlines() == [
        "Rank correlation with 'test_acc' (higher is better) and its 95% interval, 3 runs, 0 left "
        "out:",
        "estimator        T=1                   T=2",
        "sotl-e1    undefined  1.000 [1.000, 1.000]",
        "sotl-e2               1.000 [1.000, 1.000]",
    ]
    assert err.splitlines()[1:] == [f"warning: {TOO_FEW}"]


def test_evaluate_recommends_e_and_t_if_there_are_enough_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [[1.0, float(place)] for place in range(20)]
    curves = LearningCurves(losses, final_metric=[-float(place) for place in range(20)])
    curves.save(tmp_path / "x.npz")
    _, out, _ = run(capsys, "evaluate", tmp_path / "x.npz", "--resamples", 10)
    assert out.splitlines()[-1] == (
        "Recommended: E = 1 at T = 2, the cheapest SoTL-E that is not significantly worse than the "
        "best (no smaller T is as good)."
    )


def test_evaluate_warns_of_a_window_beyond_the_epochs(
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
        "sotl-e9",
        "sotl",
        "--json",
    )
    assert code == 0
    assert list(json.loads(out)["estimators"]) == ["sotl"]
    assert "Left out 'sotl-e9': it has no value at T = 2." in err


@needs_shared_data
def test_a_benchmark_is_evaluated_from_its_zip(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.fixture
def two_groups(sweep: Path) -> Path:
    """Add runs of another batch size, whose lower losses have worse accuracies."""
    for name, loss, acc in [("w0", 1.0, 0.6), ("w1", 2.0, 0.7), ("w2", 3.0, 0.8)]:
        write_record(sweep / name, [3.0, loss], batch_size=64)
        write_csv_log(sweep / name, [{"epoch": 2, "test_acc": acc}])
    return sweep


EVALUATE = ["--target", "test_acc", "--at", 2, "--estimator", "sotl-e1", "--group-by", "batch_size"]


def test_each_group_is_evaluated_separately(
    two_groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "evaluate", two_groups, *EVALUATE, "--json")
    assert code == 0
    documents = json.loads(out)
    assert [document["group"] for document in documents] == [
        {"batch_size": "8"},
        {"batch_size": "64"},
    ]
    assert [document["runs"] for document in documents] == [3, 3]
    rhos = [document["estimators"]["sotl-e1"]["2"]["rho"] for document in documents]
    assert rhos == [1.0, -1.0]
    assert err.splitlines() == [
        f"warning: batch_size = 8: {TOO_FEW}",
        f"warning: batch_size = 64: {TOO_FEW}",
    ]
    _, out, _ = run(capsys, "evaluate", two_groups, *EVALUATE)
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("batch_size")] == [
        "batch_size = 8",
        "batch_size = 64",
    ]
    assert [line.split()[1] for line in lines if line.startswith("sotl-e1")] == ["1.000", "-1.000"]


def test_evaluate_warns_of_a_group_that_cannot_be_evaluated(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(sweep / "w0", [3.0, 2.0], batch_size=64)
    code, out, err = run(capsys, "evaluate", sweep, *EVALUATE, "--json")
    assert (code, [document["runs"] for document in json.loads(out)]) == (0, [3])
    assert err.splitlines()[1] == (
        "warning: Left out the group batch_size = 64: Expected at least 2 runs with a finite "
        "target but got 0 of 1."
    )


def test_evaluate_warns_if_an_estimate_may_have_chosen_the_finished_runs(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, loss in [("w0", 8.0), ("w1", 9.0)]:
        write_record(sweep / name, [3.0, loss], status="stopped")
    options = ["--target", "test_acc", "--at", 2, "--estimator", "sotl-e1"]
    _, out, err = run(capsys, "evaluate", sweep, *options, "--json")
    assert json.loads(out)["runs"] == 3
    assert (
        "warning: 2 of 5 runs ended early and have no target. If an estimate such as SoTL-E "
        "decided which runs were trained to the end, those runs alone cannot show how good it is. "
        "Evaluate it on runs that were all trained to the end.\n"
    ) in err
