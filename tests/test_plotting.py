from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl.cli import main
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.evaluate import evaluate
from lightning_sotl.plotting import correlation_lines, draw_evaluation, draw_ranks, rank_lines, save
from lightning_sotl.ranking.order import RankedRun, Ranking

pytest.importorskip("matplotlib")


def table() -> LearningCurves:
    generator = np.random.default_rng(0)
    quality = generator.uniform(size=30)
    losses = 2 - quality[:, np.newaxis] + generator.normal(size=(30, 8)) / 8
    return LearningCurves(losses, val_loss=losses, final_metric=quality, final_loss=-quality)


def ranking(scores: np.ndarray) -> Ranking:
    runs = tuple(RankedRun(i + 1, f"r{i}", None, 3, None) for i in range(len(scores)))
    return Ranking("sotl_e1", scores.shape[1], runs, scores)


def test_correlation_lines_have_every_t_and_the_intervals_of_the_evaluation() -> None:
    curves = table()
    result = evaluate(curves, at=[2, 8], estimators=["sotl-e2", "final-loss"], resamples=20)
    line, level = correlation_lines(curves, result)
    assert (line.name, level.name) == ("sotl-e2", "final-loss")
    assert np.isnan(line.rho[0])
    assert line.rho[7] == result.estimators["sotl-e2"][8].rho
    assert line.at.tolist() == [2, 8]
    assert line.low.tolist() == [result.estimators["sotl-e2"][t].low for t in (2, 8)]
    np.testing.assert_array_equal(level.rho, np.ones(8))


def test_tied_runs_share_a_rank_and_missing_scores_have_none() -> None:
    scores = np.array([[2.0, 1.0, np.nan], [1.0, 1.0, 2.0], [3.0, np.inf, 1.0]])
    lines = rank_lines(ranking(scores))
    np.testing.assert_array_equal(lines.ranks, [[2, 1, np.nan], [1, 1, 2], [3, 3, 1]])


def test_the_figure_of_an_evaluation_has_a_line_per_estimator_and_none_without_values(
    tmp_path: Path,
) -> None:
    curves = table()
    result = evaluate(curves, at=[2, 8], resamples=20)
    figure = draw_evaluation(curves, result)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["sotl", "sotl-e1", "sotl-ema", "sovl", "sovl-e1", "final-loss"]
    save(figure, tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_bump_chart_names_the_best_runs(tmp_path: Path) -> None:
    figure = draw_ranks(ranking(np.random.default_rng(0).uniform(size=(50, 4))))
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{place + 1}. r{place}" for place in range(10)]
    assert len(axes.get_lines()) == 50
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert axes.get_xlabel() == "completed epochs T"


def test_a_bump_chart_of_runs_that_count_blocks_has_blocks_on_its_axis() -> None:
    in_blocks = dataclasses.replace(ranking(np.ones((2, 4))), monitor="sotl_b100_e1")
    (axes,) = draw_ranks(in_blocks).axes
    assert axes.get_xlabel() == "completed blocks T"


@pytest.mark.parametrize("command", ["rank", "evaluate"])
def test_the_command_line_saves_the_figure(tmp_path: Path, command: str) -> None:
    table().save(tmp_path / "x.npz")
    figure_path = tmp_path / "x.svg"
    assert main([command, str(tmp_path / "x.npz"), "--plot", str(figure_path), "--json"]) == 0
    assert "<svg" in figure_path.read_text()


@pytest.mark.parametrize("command", ["rank", "evaluate", "replay"])
def test_an_unknown_ending_is_wrong_usage_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "is/not/there", "--plot", "out/x.abc"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"lightning-sotl {command}: Expected the figure's file name to end in one of '"
    )
    assert "'png', 'ps', 'raw', 'rgba', 'svg', 'svgz'" in err
    assert err.endswith("but got 'out/x.abc'.\n")


def test_groups_cannot_be_drawn_in_one_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "x", "--plot", "x.png", "--group-by", "batch_size"]) == 2
    assert "cannot be combined with --group-by" in capsys.readouterr().err
