from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.cli import main
from lightning_sotl.replay.policies import all_names, named_policy
from tests.support.replay_tables import ACCURACY, TRAIN, four_runs, many_runs
from tests.support.run_folders import csv_rows, write_csv_log, write_record

ALL_DRAWN = (
    "note: Each repeat draws all 4 runs, in a different order. The standard errors show the "
    "effect of the order, not of other runs.\n"
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    four_runs().save(tmp_path / "x.npz")
    return tmp_path / "x.npz"


def test_the_json_document_has_its_fixed_shape(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--policy", "fixed-t1-top1", "full", "--repeats", 3, "--validation-cost", 0.5)
    code, out, err = run(capsys, table, *options, "--json")
    assert code == 0
    assert err == ALL_DRAWN
    document = json.loads(out)
    assert {name: value for name, value in document.items() if name != "policies"} == {
        "runs": 4,
        "repeats": 3,
        "workers": 4,
        "left_out": 0,
    }
    assert list(document["policies"]) == ["fixed-t1-top1", "full"]
    assert document["policies"]["fixed-t1-top1"] == pytest.approx(
        {
            "cost": 7.5 / 24,
            "cost_se": 0,
            "rank_regret": 2 / 3,
            "rank_regret_se": 0,
            "metric_regret": 0.2,
        }
    )


def test_the_table_is_sorted_by_cost_and_marks_the_frontier(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("full", "fixed-t2-top3", "fixed-t3-top3", "fixed-t1-top1")
    code, out, err = run(capsys, table, "--policy", *names, "--workers", 2, "--repeats", 2)
    assert code == 0
    assert err == ALL_DRAWN
    assert out.splitlines() == [
        "policy                        cost       rank regret  metric regret",
        "fixed-t1-top1  *  0.4375 +- 0.0000  0.6667 +- 0.0000            0.2",
        "fixed-t2-top3  *  0.8750 +- 0.0000  0.0000 +- 0.0000              0",
        "fixed-t3-top3     0.9375 +- 0.0000  0.0000 +- 0.0000              0",
        "full              1.0000 +- 0.0000  0.0000 +- 0.0000              0",
        "2 repeats of 4 runs on 2 workers, 0 runs left out. Cost is a share of full training, +- "
        "is the standard error.",
        "* No other policy is better in cost or rank regret without being worse in the other.",
    ]


def test_a_directory_of_runs_is_read_by_its_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, losses, accuracy in zip("abcd", TRAIN.tolist(), ACCURACY.tolist(), strict=True):
        write_record(tmp_path / name, losses)
        write_csv_log(tmp_path / name, csv_rows(losses, val=losses, test=[accuracy] * 4))
    write_record(tmp_path / "e", [3.0])  # stopped: it has no target
    options = (tmp_path, "--policy", "fixed-t1-top1", "--repeats", 2, "--json")
    keys = ("--target", "test", "--val-loss", "val")
    code, out, err = run(capsys, *options, *keys)
    assert code == 0, err
    document = json.loads(out)
    assert (document["runs"], document["left_out"]) == (4, 1)
    assert document["policies"]["fixed-t1-top1"]["rank_regret"] == pytest.approx(2 / 3)
    assert "warning: Left out 1 run without a finite target.\n" in err
    assert run(capsys, *options) == (
        2,
        "",
        "lightning-sotl replay: A directory of runs needs --target, the logged key of the final "
        "metric.\n",
    )


def test_the_same_seed_gives_the_same_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many_runs().save(tmp_path / "x.npz")
    options = (tmp_path / "x.npz", "--runs", 10, "--repeats", 5, "--json", "--seed")
    policies = ("--policy", "halving", "optuna-hyperband")
    first, again, other = (run(capsys, *options, seed, *policies)[1] for seed in (3, 3, 4))
    assert first == again != other


def test_a_policy_that_is_named_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many_runs().save(tmp_path / "x.npz")
    options = ("--runs", 5, "--repeats", 2, "--json", "--policy", "halving", "full", "halving")
    document = json.loads(run(capsys, tmp_path / "x.npz", *options)[1])
    assert list(document["policies"]) == ["halving", "full"]


def test_one_policy_of_each_kind_is_replayed_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many_runs(10).save(tmp_path / "x.npz")
    options = ("--repeats", 2, "--runs", 5, "--workers", 1, "--json")
    code, out, _ = run(capsys, tmp_path / "x.npz", *options)
    assert code == 0
    assert list(json.loads(out)["policies"]) == [
        "full",
        "adaptive",
        "adaptive-pause",
        "fixed-t2-top5",
        "halving",
        "optuna-hyperband",
        "optuna-median",
        "ray-asha",
        "adaptive-both",
        "adaptive-pause-both",
        "adaptive-val",
        "adaptive-pause-val",
        "fixed-t2-top5-val",
        "halving-val",
    ]


def test_all_policies_have_their_variants() -> None:
    built_in = ["adaptive", "adaptive-pause", "adaptive-keep2"]
    built_in += ["fixed-t2-top5", "fixed-t6-top5", "halving", "asha-promote"]
    peers = ["optuna-halving", "optuna-hyperband", "optuna-median", "optuna-percentile"]
    peers += ["optuna-patient", "ray-asha", "ray-hyperband"]
    names = [*built_in, *peers]
    assert all_names(12, has_validation=False) == ["full", *names]
    assert all_names(12, has_validation=True) == [
        "full",
        *names,
        "adaptive-both",
        "adaptive-pause-both",
        "adaptive-keep2-both",
        *(f"{name}-val" for name in names),
    ]


def test_the_figure_has_a_point_for_each_policy_and_the_frontier(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    from lightning_sotl.plotting import draw_replay
    from lightning_sotl.replay.experiment import replay

    names = ["full", "fixed-t1-top1", "fixed-t3-top2", "fixed-t3-top1-val"]
    result = replay(four_runs(), [named_policy(name) for name in names], repeats=2)
    (axes,) = draw_replay(result).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "fixed-t1-top1",
        "fixed-t3-top1-val",
        "fixed-t3-top2",
        "full",
    ]
    frontier = axes.get_lines()[-1].get_xydata()
    np.testing.assert_allclose(frontier, [[7 / 16, 2 / 3], [13 / 16, 0]])
    assert axes.get_xscale() == "log"

    figure_path = tmp_path / "new" / "x.svg"
    code, *_ = run(capsys, table, "--policy", "halving", "--repeats", 2, "--plot", figure_path)
    assert code == 0
    assert "<svg" in figure_path.read_text()


def no_target(folder: Path) -> list[object]:
    LearningCurves(TRAIN).save(folder / "x.npz")
    return [folder / "x.npz"]


def one_run(folder: Path) -> list[object]:
    four_runs().select([0]).save(folder / "x.npz")
    return [folder / "x.npz"]


def without_validation(folder: Path) -> Path:
    LearningCurves(TRAIN, final_metric=ACCURACY).save(folder / "x.npz")
    return folder / "x.npz"


def nothing_to_read(folder: Path) -> list[object]:
    return [without_validation(folder), "--policy", "optuna-halving-val"]


def nothing_to_pay(folder: Path) -> list[object]:
    return [without_validation(folder), "--policy", "full", "--validation-cost", 0.1]


def beyond(folder: Path) -> list[object]:
    return [without_validation(folder), "--policy", "fixed-t4-top1"]


def absent(folder: Path) -> list[object]:
    return [folder / "none.npz", "--target", "x"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_target, "Expected the curves to have `final_metric`, the target, but it is absent."),
        (
            one_run,
            "Expected at least 2 runs with a finite target and curves of all 4 epochs but got 1 of "
            "1.",
        ),
        (
            nothing_to_read,
            "'optuna-halving-val' needs validation values, but the curves have neither "
            "`val_metric` nor `val_loss`.",
        ),
        (
            nothing_to_pay,
            "Expected validation values at a validation cost of 0.1, but the curves have neither "
            "`val_metric` nor `val_loss`.",
        ),
        (
            beyond,
            "Expected the first T of 'fixed-t4-top1' to be in [1, 3], below the 4 epochs of full "
            "training, but got 4.",
        ),
        (
            absent,
            "There is no '{folder}/none.npz'. Expected a directory of runs, an .npz file of "
            "LearningCurves, or a .csv or .parquet table.",
        ),
    ],
)
def test_unsuitable_data_exit_with_1_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, message: str
) -> None:
    code, out, err = run(capsys, *make(tmp_path))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"lightning-sotl replay: {message.format(folder=tmp_path)}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "1"], "Expected --runs to be at least 2 but got 1."),
        (["--repeats", "1"], "Expected --repeats to be at least 2 but got 1."),
        (["--workers", "0"], "Expected --workers to be at least 1 but got 0."),
        (["--seed", "-1"], "Expected --seed to be at least 0 but got -1."),
        (
            ["--validation-cost", "-0.1"],
            "Expected --validation-cost to be a finite number of at least 0 but got -0.1.",
        ),
        (
            ["--validation-cost", "nan"],
            "Expected --validation-cost to be a finite number of at least 0 but got nan.",
        ),
        (
            ["--policy", "full", "bohb"],
            "There is no policy 'bohb'; available: 'full', 'adaptive', 'adaptive-pause', "
            "'adaptive-keep2', 'fixed-t10-top5', 'halving', 'halving-eta3-from3', 'asha-promote', "
            "'optuna-halving', 'optuna-hyperband', 'optuna-median', 'optuna-percentile', "
            "'optuna-patient', 'ray-asha', 'ray-hyperband'. You can change the numbers. All except "
            "'full' also exist with the ending '-val', and 'adaptive' with '-both'.",
        ),
        (
            ["--policy", "halving-eta1"],
            "Expected eta in 'halving-eta1' to be at least 2 but got 1.",
        ),
    ],
)
def test_wrong_usage_exits_with_2_and_a_message(
    table: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(capsys, table, *options) == (2, "", f"lightning-sotl replay: {message}\n")


@pytest.mark.parametrize(("policy", "extra"), [("optuna-median", "optuna"), ("ray-asha", "ray")])
def test_a_missing_extra_is_named(
    table: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    extra: str,
) -> None:
    monkeypatch.delitem(sys.modules, f"lightning_sotl.replay.policies.{extra}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    code, out, err = run(capsys, table, "--policy", policy)
    assert (code, out) == (1, "")
    assert re.fullmatch(
        rf"lightning-sotl replay: `{extra}` is needed to replay its \w+ but is not installed\. "
        rf'Run: pip install "lightning-sotl\[{extra}\]"\n',
        err,
    )


def test_built_in_policies_load_neither_torch_nor_an_extra(table: Path) -> None:
    code = (
        "import sys; from lightning_sotl.cli import main; "
        f"main(['replay', {str(table)!r}, '--policy', 'halving', 'full', '--repeats', '2']); "
        "print([n for n in ('torch', 'pytorch_lightning', 'optuna', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
