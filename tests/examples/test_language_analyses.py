from __future__ import annotations

import dataclasses
import json
import re
import sys
from argparse import Namespace

import correlations
import equal_cost
import mixed_settings
import numpy as np
import policies
import pytest
from _sets import main_sets
from results_file import recipe_digest
from run_plan import SMOKE_RECIPE, Plan, plan_runs
from scipy.stats import spearmanr

from tests.support.paths import LANGUAGE

PLAN = Plan(8, 12, 6, 20, wide_rates=(1e-4, 1e-1), close_rates=(1e-3, 4e-3))
BLOCKS = 20


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Write made-up results of a small plan, and return those of `main` and the options."""
    generator = np.random.default_rng(0)
    lines = []
    for run in plan_runs(PLAN):
        quality = generator.normal()
        train = 2 + 2 / np.arange(1, BLOCKS + 1) + 0.1 * quality
        train += generator.normal(size=BLOCKS) * np.linspace(0.2, 0.05, BLOCKS)
        val = train + 0.05 * generator.normal(size=BLOCKS)
        lines.append(
            {
                "recipe": recipe_digest(SMOKE_RECIPE),
                **dataclasses.asdict(run),
                "parameters": 1000,
                "train_loss": train.tolist(),
                "val_loss": val.tolist(),
                "val_loss_quarter": (val + 0.1 * generator.normal(size=BLOCKS)).tolist(),
                "test_loss": 2 + 0.1 * quality,
                "seconds": {"train": 20.0, "validation": 5.0, "test": 1.0},
            }
        )
    data = tmp_path / "runs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # The paper's folder has a module of this name too.
    monkeypatch.syspath_prepend(LANGUAGE)
    monkeypatch.delitem(sys.modules, "build_table", raising=False)
    import build_table

    build_table.save_tables(tmp_path / "tables", lines, SMOKE_RECIPE, plan_runs(PLAN))
    monkeypatch.delitem(sys.modules, "build_table")
    options = ["--tables", str(tmp_path / "tables"), "--data", str(data), "--smoke"]
    return lines[: PLAN.wide + PLAN.close], [*options, "--output", str(tmp_path / "output")]


def test_correlations_are_those_of_scipy(results, capsys, tmp_path):
    lines, options = results
    correlations.main(options)
    output = capsys.readouterr().out
    target = [line["test_loss"] for line in lines]
    for at in (1, 2):
        scores = [line["train_loss"][at - 1] for line in lines]
        assert f"{spearmanr(scores, target).statistic:.3f}" in output
    both = re.search(
        r"SoTL-E1 (\S+) \[.*validation loss (\S+) \[.*all blocks", output.splitlines()[-3]
    )
    for number, curve in enumerate(("train_loss", "val_loss")):
        scores = [line[curve][1] for line in lines]  # a tenth of 20 blocks
        assert float(both[1 + number]) == pytest.approx(
            spearmanr(scores, target).statistic, abs=5.1e-4
        )
    assert "6 runs with 3 seeds" in output
    assert (tmp_path / "output" / "language_correlations.png").stat().st_size > 1000


def test_a_validation_pass_is_paid_with_blocks_of_training(results, capsys, tmp_path):
    lines, options = results
    equal_cost.main(options)
    output = capsys.readouterr().out
    assert "A validation pass takes 0.250 of a block's training" in output
    target = [line["test_loss"] for line in lines]
    # 8 blocks with a pass after each take as long as 10 blocks.
    scores = [line["val_loss"][7] for line in lines]
    expected = f"{spearmanr(scores, target).statistic:.3f}"
    assert re.search(rf"^ *10 +\S+ +a pass each block +8\.00 +{expected} ", output, re.M)
    assert (tmp_path / "output" / "language_equal_cost.png").stat().st_size > 1000


def test_mixed_settings_are_ranked_together_and_within_groups(results, capsys, tmp_path):
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    varied = [line for line in lines if line["group"] == "varied"]
    mixed_settings.main(results[1])
    output = capsys.readouterr().out
    groups = {}
    for line in varied:
        groups.setdefault(line["dropout"], []).append(line)
    kept = [group for group in groups.values() if len(group) >= 5]
    assert 0 < len(kept) < len(groups)
    output = output.partition("batch size differ")[2]
    for title, members in {"all runs together": [varied], "equal dropout": kept}.items():
        rho = [
            spearmanr([each["train_loss"][0] for each in group], [x["test_loss"] for x in group])
            for group in members
        ]
        mean = np.average([each.statistic for each in rho], weights=[len(m) for m in members])
        runs = sum(map(len, members))
        assert re.search(rf"^{title} +{len(members)} +{runs} +SoTL-E1 +{mean:.3f} \[", output, re.M)
    assert (tmp_path / "output" / "language_mixed_settings.png").stat().st_size > 1000


def test_a_loss_between_two_blocks_is_interpolated():
    losses = np.array([[3.0, 2.0, 1.5], [4.0, np.inf, np.inf]])
    assert equal_cost.interpolate(losses, 2.5).tolist() == [1.75, np.inf]
    assert equal_cost.interpolate(losses, 1.25).tolist() == [2.75, np.inf]
    assert equal_cost.interpolate(losses, 1.0).tolist() == [3.0, 4.0]
    assert equal_cost.interpolate(losses, 3.0).tolist() == [1.5, np.inf]


def test_policies_are_replayed_with_one_worker_and_all_at_once(results, capsys, tmp_path):
    policies.main(results[1])
    output = capsys.readouterr().out
    for title in ("one worker", "all at once"):
        assert f"=== all learning rates: 20 runs, {title} ===" in output
    assert len(list((tmp_path / "output").glob("language_policies_*.png"))) == 4


def test_too_few_runs_are_refused(results, tmp_path):
    folder = tmp_path / "tables"
    header, *rows = (folder / "main.csv").read_text().splitlines()
    (folder / "main.csv").write_text("\n".join([header, *rows[:3]]))
    with pytest.raises(SystemExit, match="Expected at least 5 finished runs but got 3"):
        main_sets(Namespace(tables=folder, data=tmp_path / "runs.jsonl"))
