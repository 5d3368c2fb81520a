"""The parser turns arguments into typed options and keeps every value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lightning_sotl.cli.options import EvaluateOptions, Output, Query, RankOptions, ReplayOptions
from lightning_sotl.cli.parser import parse_options

SOURCE = ["--val-loss", "a", "--val-metric", "b", "--target", "c", "--final-loss", "d"]
SOURCE += ["--train-loss", "e", "--metric-mode", "min", "--target-mode", "max"]
QUERY = Query((Path("x"),), "auto", "a", "b", "c", "d", "e", "min", "max")


def test_every_option_of_rank_is_parsed() -> None:
    arguments = ["--monitor", "m", "--at", "3", "--top", "2", "--group-by", "f", "g"]
    found = parse_options(
        ["rank", "x", *SOURCE, *arguments, "--stability", "--json", "--plot", "p.svg"]
    )
    query = dataclasses.replace(QUERY, monitor="m")
    assert found == RankOptions(query, Output(True, "p.svg"), 3, 2, ("f", "g"), False, True)
    assert parse_options(["rank", "x", "--params"]).params


def test_every_option_of_evaluate_is_parsed() -> None:
    arguments = ["--at", "3", "4", "--at", "5", "--estimator", "s", "t", "--estimator", "u"]
    arguments += ["--method", "kendall", "--resamples", "7", "--seed", "8", "--group-by", "f"]
    arguments += ["--monitor", "sotl_b5_e1"]
    found = parse_options(["evaluate", "x", *SOURCE, *arguments, "--grid", "--json"])
    assert found == EvaluateOptions(
        dataclasses.replace(QUERY, monitor="sotl_b5_e1"),
        Output(True, None),
        (3, 4, 5),
        ("s", "t", "u"),
        True,
        "kendall",
        7,
        8,
        ("f",),
    )


def test_every_option_of_replay_is_parsed() -> None:
    arguments = ["--policy", "s", "t", "--policy", "s", "--runs", "3", "--repeats", "4"]
    arguments += ["--workers", "5", "--seed", "6", "--validation-cost", "0.5", "--plot", "p.svg"]
    found = parse_options(["replay", "x", *SOURCE, *arguments])
    assert found == ReplayOptions(QUERY, Output(False, "p.svg"), ("s", "t", "s"), 3, 4, 5, 6, 0.5)


def test_options_have_defaults() -> None:
    query, output = Query((Path("x"),)), Output()
    assert parse_options(["rank", "x"]) == RankOptions(query, output, None, None, (), False, False)
    assert parse_options(["evaluate", "x"]) == EvaluateOptions(
        query, output, (), (), False, "spearman", 1000, 0, ()
    )
    assert parse_options(["replay", "x"]) == ReplayOptions(query, output, (), 81, 200, None, 0, 0.0)


def test_options_cannot_be_changed() -> None:
    options = parse_options(["rank", "x"])
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'at'"):
        options.at = 3  # type: ignore[misc]  # the test assigns to a frozen field


def test_help_defines_regret_and_when_a_mode_is_required(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def help_of(command: str) -> str:
        with pytest.raises(SystemExit, match=r"^0$"):
            parse_options([command, "--help"])
        return " ".join(capsys.readouterr().out.split())

    assert "Rank regret is (place - 1) / (N - 1)" in help_of("replay")
    mode = "min if a lower validation metric is better, max if a higher one is (default: max"
    assert mode in help_of("evaluate")
    required = "or the mode stored in the file); required if --monitor is a logged key"
    assert f"{mode}, {required}" in help_of("rank")
