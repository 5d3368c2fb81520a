"""Numbers of the pages, computed again from the examples and the committed tables."""

import importlib
import math
import re

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_sotl import LearningCurves
from lightning_sotl.cli import main
from tests.support.pages import DOCS, blocks, commands
from tests.support.paths import EXAMPLES, PAPER


def shown(comment):
    """Return the block of the page on one machine that has a comment."""
    page = DOCS / "sweeps" / "one-machine.md"
    (block,) = (one for one in blocks(page) if one.comment == comment)
    return block.text.strip("\n")


@pytest.fixture
def sweep_modules(monkeypatch):
    """Return the modules of the example that is the main job."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("digits_sweep", "_sweep_report", "_digits")
    return tuple(importlib.import_module(name) for name in names)


def test_the_table_of_the_main_job_is_one_that_it_prints(sweep_modules, capsys):
    """Read the page's table back, and print it again with the example's own functions."""
    sweep, report, digits = sweep_modules
    table, _, sentence = re.split(r"\n\n", shown("output: main job"))
    known = {report.Run(*one, seed=0).name: one for one in sweep.ARCHITECTURES}
    runs, pick = [], None
    for line in table.splitlines()[1:]:
        cells = line.split()
        run = report.Run(*known.pop(cells[1]), 0, int(cells[2]))
        # The table has the last epoch only.
        epochs, loss, accuracy = int(cells[3]), float(cells[4]), float(cells[5]) / 100
        run.epoch_losses = dict.fromkeys(range(epochs), loss)
        run.accuracies = dict.fromkeys(range(epochs), accuracy)
        run.test_at_end = math.nan if cells[6] == "-" else float(cells[6]) / 100
        network = digits.build_network(run.kind, run.widths)
        assert run.parameters == sum(weights.numel() for weights in network.parameters())
        runs.append(run)
        if cells[-1] == "pick":
            pick = run
    assert known == {}  # each architecture is in the table
    rungs = (3, 4, 6, 9, 14, 21, 30)
    assert {run.epochs for run in runs} <= set(rungs)
    outcome = report.Outcome(runs[::-1], pick, rungs)
    report.print_table(outcome)
    assert capsys.readouterr().out.strip("\n") == table
    sentence_now = report.summarise(outcome, verify=False)
    assert " ".join(sentence.split()) == sentence_now
    verified = " ".join(shown("output: main job, verified").split())
    assert verified.startswith(sentence_now.removesuffix(".") + ", number ")


def test_the_correlations_with_and_without_varying_regularization_are_right():
    text = (DOCS / "concepts" / "when-it-works.md").read_text()
    stated = [
        re.search(rf"^\| {name} \| (0\.\d\d) ", text, re.M)[1]
        for name in ("the same networks, one recipe", "all recipes together")
    ]
    tables = PAPER / "tables"
    names = ("regularised", "cells")
    mixed, same = (LearningCurves.load(tables / f"{name}.npz") for name in names)
    drawn, all_cells = (np.load(tables / f"{name}_runs.npz")["cell_index"] for name in names)
    # The first training of each cell is the one under the common recipe.
    first = dict(zip(all_cells[::-1].tolist(), range(same.runs)[::-1], strict=True))
    alone = same.select([first[cell] for cell in drawn.tolist()])
    found = [-spearmanr(one.train_loss[:, 9], one.final_metric)[0] for one in (alone, mixed)]
    assert [f"{rho:.2f}" for rho in found] == stated


def test_the_costs_and_regrets_of_policies_are_those_of_the_committed_table(capsys):
    page = DOCS / "results" / "selection.md"
    ((command, output),) = commands(page).items()
    quick = ("fixed-t10-top5", "halving", "full")  # the others take seconds
    assert main(["replay", str(PAPER / "tables" / "cells.npz"), "--policy", *quick]) == 0
    now = [line.split() for line in capsys.readouterr().out.splitlines()]
    then = [line.split() for line in output.splitlines()]
    assert "tables/cells.npz" in command
    for name in quick:
        rows = [[line for line in text if line[0] == name] for text in (now, then)]
        first, second = ([cell for cell in row if cell != "*"] for (row,) in rows)
        assert first == second
