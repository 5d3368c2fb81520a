"""The options, JSON documents, exit codes and streams of the command line."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SWEEP = Path(__file__).parent / "fixtures" / "sweep"
CHECKPOINT = "memory://stopped/stopped-epoch=3-31f1c7d2.ckpt"
NAN = math.nan


class Program:
    """`python -m lightning_sotl` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "2000")  # so that argparse wraps no line

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Return the exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["lightning-sotl", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d+$") as exit_:
            runpy.run_module("lightning_sotl", run_name="__main__")
        captured = self.capsys.readouterr()
        return int(str(exit_.value)), captured.out, captured.err

    def document(self, *arguments: object) -> Any:
        """Return the document that a command prints with --json."""
        code, out, _ = self(*arguments, "--json")
        assert code == 0
        return json.loads(out)  # raises if anything else was printed


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capsys)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four finished runs of three epochs, and a fifth that was stopped after two."""
    path = tmp_path_factory.mktemp("table") / "curves.npz"
    arrays: dict[str, Any] = {
        "train_loss": [[2, 1, 0.5], [1, 2, 1], [3, 3, 1.5], [4, 4, 2], [5, 5, NAN]],
        "val_metric": [
            [0.5, 0.6, 0.9],
            [0.4, 0.5, 0.7],
            [0.3, 0.4, 0.8],
            [0.2, 0.3, 0.6],
            [0.1, 0.1, NAN],
        ],
        "final_metric": [0.9, 0.7, 0.8, 0.6, NAN],
        "run_ids": ["a", "b", "c", "d", "e"],
        "checkpoints": ["a.ckpt", "", "", "", ""],
    }
    np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


# --- options

_SOURCE = {
    "--format": "{auto,nas-bench-nlp}",
    "--val-loss": "value",
    "--val-metric": "value",
    "--target": "value",
    "--final-loss": "value",
    "--train-loss": "value",
    "--metric-mode": "{min,max}",
    "--target-mode": "{min,max}",
    "--run-column": "value",
    "--epoch-column": "value",
    "--first-epoch": "{0,1}",
}
_OUTPUT = {"-h": "flag", "--json": "flag", "--plot": "value"}
OPTIONS = {
    "rank": {
        **_SOURCE,
        **_OUTPUT,
        "--monitor": "value",
        "--at": "value",
        "--top": "value",
        "--group-by": "values",
        "--params": "flag",
        "--stability": "flag",
    },
    "evaluate": {
        **_SOURCE,
        **_OUTPUT,
        "--monitor": "value",
        "--at": "values",
        "--estimator": "values",
        "--grid": "flag",
        "--method": "{spearman,kendall,weighted-tau}",
        "--resamples": "value",
        "--seed": "value",
        "--group-by": "values",
    },
    "replay": {
        **_SOURCE,
        **_OUTPUT,
        "--monitor": "value",
        "--policy": "values",
        "--runs": "value",
        "--repeats": "value",
        "--workers": "value",
        "--seed": "value",
        "--validation-cost": "value",
    },
}


@pytest.mark.parametrize("command", OPTIONS)
def test_a_command_has_these_options_and_choices(program: Program, command: str) -> None:
    code, out, err = program(command, "--help")
    assert (code, err) == (0, "")
    usage = out.partition("\n")[0]
    assert usage.endswith(" PATH [PATH ...]")
    found = {}
    for name, value, more in re.findall(
        r"\[(-\S+?)(?: (\{.*?\}|[A-Z]+))?( \[[A-Z]+ \.\.\.\])?\]", usage
    ):
        kind = "values" if more else "value" if value else "flag"
        found[name] = value if value.startswith("{") else kind
    assert found == OPTIONS[command]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", usage)) == set(OPTIONS[command]) - {"-h"}


def test_the_program_has_these_commands(program: Program) -> None:
    code, out, err = program("--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: lightning-sotl [-h] [--version] COMMAND ...\n")
    assert re.findall(r"^    (\w+) ", out, re.MULTILINE) == ["rank", "evaluate", "replay"]


# Command -> the given options, and options that may be added because they equal the defaults.
DEFAULTS: dict[str, tuple[list[str], list[str]]] = {
    "rank": ([], ["--monitor", "sotl_e1", "--format", "auto", "--at", "3"]),
    "evaluate": (
        [],
        ["--method", "spearman", "--resamples", "1000", "--seed", "0", "--monitor", "sotl_e1"],
    ),
    "replay": (
        ["--policy", "adaptive", "fixed-t1-top1", "optuna-halving"],
        ["--runs", "81", "--repeats", "200", "--validation-cost", "0", "--monitor", "sotl_e1"],
    ),
}


@pytest.mark.parametrize("command", DEFAULTS)
def test_options_have_these_defaults(program: Program, table: Path, command: str) -> None:
    given, defaults = DEFAULTS[command]
    found = program.document(command, table, *given)
    assert found == program.document(command, table, *given, *defaults)
    if command == "replay":
        assert (found["repeats"], found["workers"]) == (200, 4)


# --- JSON documents


def ranked(
    rank: int,
    run_id: str,
    estimate: float | None,
    epochs: int,
    checkpoint: str | None = None,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "rank": rank,
        "run_id": run_id,
        "estimate": estimate,
        "epochs": epochs,
        "checkpoint": checkpoint,
        "name": None,
        "params": params or {},
    }


def test_rank_prints_this_document_of_a_table(program: Program, table: Path) -> None:
    assert program.document("rank", table) == {
        "monitor": "sotl_e1",
        "at": 3,
        "runs": [
            ranked(1, "a", 0.5, 3, "a.ckpt"),
            ranked(2, "b", 1.0, 3),
            ranked(3, "c", 1.5, 3),
            ranked(4, "d", 2.0, 3),
            ranked(5, "e", None, 2),
        ],
    }


def test_rank_prints_the_best_k_at_t(program: Program, table: Path) -> None:
    found = program.document("rank", table, "--monitor", "sotl_e2", "--at", 2, "--top", 2)
    assert found == {
        "monitor": "sotl_e2",
        "at": 2,
        "runs": [ranked(1, "a", 3.0, 3, "a.ckpt"), ranked(1, "b", 3.0, 3)],
    }


def test_rank_prints_the_stability_of_the_order_on_demand(program: Program, table: Path) -> None:
    found = program.document("rank", table, "--top", 1, "--stability")
    assert found == {
        "monitor": "sotl_e1",
        "at": 3,
        "runs": [ranked(1, "a", 0.5, 3, "a.ckpt")],
        # The first two of five runs swap places between T = 1 and T = 3: 1 - 6 * 2 / 120.
        "stability": pytest.approx(0.9),
    }
    assert program.document("rank", table, "--at", 1, "--stability")["stability"] is None


def test_rank_prints_this_document_of_records(program: Program) -> None:
    assert program.document("rank", SWEEP) == {
        "monitor": "sotl_e1",
        "at": 3,
        "runs": [
            ranked(1, "stopped", 1.0, 3, CHECKPOINT, {"offset": -0.25}),
            ranked(2, "finished", 1.25, 5, params={"offset": 0.0}),
            ranked(3, "diverged", None, 3, params={"offset": 0.0}),
            ranked(3, "interrupted", None, 2, params={"offset": 0.25}),
        ],
    }


def test_rank_prints_one_document_per_group(program: Program) -> None:
    found = program.document("rank", SWEEP, "--at", 2, "--group-by", "hparams.offset", "unit")
    assert sorted(found, key=lambda entry: str(entry["group"])) == [
        {
            "group": {"hparams.offset": offset, "unit": '"epoch"'},  # values as JSON
            "monitor": "sotl_e1",
            "at": 2,
            "runs": runs,
        }
        for offset, runs in [
            ("-0.25", [ranked(1, "stopped", 1.75, 3, CHECKPOINT, {"offset": -0.25})]),
            (
                "0.0",
                [
                    ranked(1, "diverged", 2.0, 3, params={"offset": 0.0}),
                    ranked(1, "finished", 2.0, 5, params={"offset": 0.0}),
                ],
            ),
            ("0.25", [ranked(1, "interrupted", 2.25, 2, params={"offset": 0.25})]),
        ]
    ]


def test_evaluate_prints_this_document(program: Program, table: Path) -> None:
    found = program.document(
        "evaluate", table, "--at", 1, 3, "--estimator", "sotl-e1", "val-metric"
    )
    # Spearman's rho of 4 runs is 1 - 6 * (sum of squared differences of ranks) / 60. The ranks by
    # loss are 2, 1, 3, 4 at T = 1 and 1, 2, 3, 4 at T = 3. The ranks by target are 1, 3, 2, 4.
    rho = {("sotl-e1", "1"): 0.4, ("sotl-e1", "3"): 0.8, ("val-metric", "1"): 0.8}
    for (name, at), value in rho.items():
        entry = found["estimators"][name][at]
        assert entry["rho"] == pytest.approx(value, abs=1e-12)
        assert list(entry) == ["rho", "low", "high"]
        assert -1 <= entry["low"] <= entry["rho"] <= entry["high"] <= 1
        found["estimators"][name][at] = "seen"
    assert found == {
        "runs": 4,
        "left_out": 1,
        "epochs": 3,
        "target": "final_metric",
        "estimators": {
            "sotl-e1": {"1": "seen", "3": "seen"},
            "val-metric": {"1": "seen", "3": {"rho": 1.0, "low": 1.0, "high": 1.0}},
        },
        "recommended": {
            "estimator": "sotl-e1",
            "window": 1,
            "epoch": found["recommended"]["epoch"],
        },
    }
    assert found["recommended"]["epoch"] in (1, 3)


def test_replay_prints_this_document(program: Program, table: Path) -> None:
    found = program.document(
        "replay", table, "--policy", "full", "fixed-t1-top1", "--repeats", 2, "--workers", 2
    )
    # The policy trains all runs for one epoch. "b" then leads and is trained for two more epochs,
    # but by the target it is the third of four.
    assert found == {
        "runs": 4,
        "repeats": 2,
        "workers": 2,
        "left_out": 1,
        "policies": {
            "full": {
                "cost": 1.0,
                "cost_se": 0.0,
                "rank_regret": 0.0,
                "rank_regret_se": 0.0,
                "metric_regret": 0.0,
            },
            "fixed-t1-top1": {
                "cost": 0.5,
                "cost_se": 0.0,
                "rank_regret": pytest.approx(2 / 3),
                "rank_regret_se": 0.0,
                "metric_regret": pytest.approx(0.2),
            },
        },
    }


# T of the fixed policy is a fifth of the epochs. There are too few epochs for halving.
POLICIES = [
    "full",
    "adaptive",
    "adaptive-pause",
    "fixed-t1-top5",
    "optuna-hyperband",
    "optuna-median",
    "ray-asha",
    "adaptive-both",
    "adaptive-pause-both",
    "adaptive-val",
    "adaptive-pause-val",
    "fixed-t1-top5-val",
]
ALL_POLICIES = [
    *POLICIES,
    "adaptive-keep2",
    "optuna-halving",
    "optuna-percentile",
    "optuna-patient",
    "adaptive-keep2-both",
    "adaptive-keep2-val",
    "adaptive-first2-keep3-pause1.2-both",
    "asha-promote-eta2-from2",
    "asha-promote-eta2-from2-val",
    "ray-hyperband",
    "ray-hyperband-val",
]


def test_replay_runs_these_policies_by_default(program: Program, table: Path) -> None:
    found = program.document("replay", table, "--repeats", 2)
    assert list(found["policies"]) == POLICIES


def test_replay_knows_these_policies_by_name(program: Program, table: Path) -> None:
    names = [
        *ALL_POLICIES,
        "adaptive-first2-keep3",
        "fixed-t2-top3-val",
        "halving-eta2-from2",
        "optuna-median-val",
    ]
    found = program.document("replay", table, "--repeats", 2, "--policy", *names)
    assert list(found["policies"]) == names


# --- exit codes and streams


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "{empty}"], "lightning-sotl rank: "),
        (["rank", "{empty}/none.npz"], "lightning-sotl rank: There is no "),
        (["rank", "{table}", "--at", "9"], "lightning-sotl rank: No run has completed 9 epochs"),
        (["evaluate", "{losses}"], "lightning-sotl evaluate: Expected the curves to have `final_"),
        (["evaluate", "{table}", "--target", "acc"], "lightning-sotl evaluate: Only a directory"),
        (["replay", "{losses}"], "lightning-sotl replay: "),
    ],
)
def test_unsuitable_data_exit_with_1(
    program: Program, tmp_path: Path, table: Path, arguments: list[str], message: str
) -> None:
    losses = tmp_path / "losses.npz"
    np.savez(losses, train_loss=np.array([[2.0, 1.0], [3.0, 2.0]]))
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "table": table, "losses": losses}
    code, out, err = program(*(part.format(**places) for part in arguments), "--json")
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "lightning-sotl: error: a COMMAND is missing"),
        (["sort", "x"], "lightning-sotl: error: argument COMMAND: invalid choice: 'sort'"),
        (["rank"], "lightning-sotl rank: error: the following arguments are required: PATH"),
        (["rank", "x", "--no"], "lightning-sotl: error: unrecognized arguments: --no"),
        (["rank", "x", "--at", "one"], "lightning-sotl rank: error: argument --at: invalid int"),
        (["rank", "x", "--at", "0"], "lightning-sotl rank: Expected --at to be at least 1 but"),
        (["rank", "x", "--monitor", "acc"], "lightning-sotl rank: --monitor acc is not an"),
        (["evaluate", "{sweep}"], "lightning-sotl evaluate: A directory of runs needs --target"),
        (["evaluate", "x", "--estimator", "no"], "lightning-sotl evaluate: There is no estimator"),
        (["evaluate", "x", "--method", "no"], "lightning-sotl evaluate: error: argument --method"),
        (["replay", "x", "--policy", "no"], "lightning-sotl replay: There is no policy 'no'"),
        (["replay", "x", "--runs", "1"], "lightning-sotl replay: Expected --runs to be at least 2"),
    ],
)
def test_wrong_usage_exits_with_2(program: Program, arguments: list[str], message: str) -> None:
    code, out, err = program(*(part.format(sweep=SWEEP) for part in arguments))
    assert (code, out) == (2, "")
    assert message in err


def test_notes_go_to_standard_error(program: Program, table: Path) -> None:
    code, out, err = program("rank", table, "--json")
    assert code == 0
    assert out.startswith("{\n")
    assert out.endswith("}\n")
    assert err.startswith("warning: ")
    code, out, err = program("rank", table)  # without --json, a table on standard output
    assert code == 0
    assert "a.ckpt" in out
    assert "warning: " not in out
    assert err.startswith("warning: ")


def test_python_m_runs_the_program(table: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sotl", "rank", str(table), "--top", "1", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["runs"] == [ranked(1, "a", 0.5, 3, "a.ckpt")]
    assert done.stderr.startswith("warning: ")
