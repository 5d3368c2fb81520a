"""Numbers on the pages are what the examples and the committed tables give."""

import csv
import functools
import importlib
import math
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_sotl import LearningCurves
from lightning_sotl.cli import main
from tests.support.pages import DOCS, README, blocks, commands
from tests.support.paths import EXAMPLES, LANGUAGE, PAPER, ROOT


def block_below(comment):
    """Return the block of `docs/sweeps/one-machine.md` below a comment."""
    page = DOCS / "sweeps" / "one-machine.md"
    (block,) = (block for block in blocks(page) if block.comment == comment)
    return block.text.strip("\n")


@pytest.fixture
def sweep_modules(monkeypatch):
    """Return the modules of the example `digits_sweep.py`."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("digits_sweep", "_sweep_report", "_digits")
    return tuple(importlib.import_module(name) for name in names)


def test_the_example_sweep_prints_the_table_and_the_sentence_of_the_page(sweep_modules, capsys):
    """Read the runs from the page's table, and print them with the functions of the example."""
    sweep, report, digits = sweep_modules
    table, _, sentence = re.split(r"\n\n", block_below("output: main job"))
    known = {report.Run(*each, seed=0).name: each for each in sweep.ARCHITECTURES}
    runs, pick = [], None
    for line in table.splitlines()[1:]:
        cells = line.split()
        run = report.Run(*known.pop(cells[1]), 0, int(cells[2]))
        # The table has only the loss and the accuracy of the last epoch.
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
    expected = report.summarize(outcome, verify=False)
    assert " ".join(sentence.split()) == expected
    verified = " ".join(block_below("output: main job, verified").split())
    assert verified.startswith(expected.removesuffix(".") + ", number ")


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
    # The first run of each cell was trained with the common recipe.
    first = dict(zip(all_cells[::-1].tolist(), range(same.runs)[::-1], strict=True))
    alone = same.select([first[cell] for cell in drawn.tolist()])
    found = [-spearmanr(runs.train_loss[:, 9], runs.final_metric)[0] for runs in (alone, mixed)]
    assert [f"{rho:.2f}" for rho in found] == stated


def correlation(runs, epochs, curve="train_loss", window=1):
    """Return the correlation of a sum of the last epochs with the final metric, oriented."""
    last = getattr(runs, curve)[:, epochs - window : epochs].sum(axis=1)
    sign = -1 if curve.endswith("loss") else 1
    return sign * spearmanr(last, runs.final_metric)[0]


@pytest.fixture(scope="module")
def cells():
    """Return all rows of the paper's table."""
    return LearningCurves.load(PAPER / "tables" / "cells.npz")


@pytest.fixture(scope="module")
def networks(cells):
    """Return the first run of each of the 600 networks."""
    drawn = np.load(PAPER / "tables" / "cells_runs.npz")["cell_index"]
    _, first = np.unique(drawn, return_index=True)
    return cells.select(first.tolist())


def stated_on(page, pattern):
    """Return the groups of a pattern in a page, in which each space is any white space."""
    return re.search(pattern.replace(" ", r"\s+"), page.read_text()).groups()


def test_the_correlations_at_a_quarter_of_training_are_right(networks):
    readme = stated_on(README, r"final test accuracy (\d\.\d\d) at a quarter of training")
    page = DOCS / "concepts" / "when-it-works.md"
    text = r"test accuracy is (\S+) for SoTL-E and (\S+) for the validation accuracy"
    paper = stated_on(DOCS / "results" / "paper.md", r"correlation (\S+) against (\S+) at T = 10 ")
    found = [f"{correlation(networks, 10, curve):.2f}" for curve in ("train_loss", "val_metric")]
    assert list(readme) == found[:1]
    assert list(stated_on(page, text)) == list(paper) == found


def test_the_correlations_in_the_first_epochs_are_right(networks):
    page = DOCS / "concepts" / "when-it-works.md"
    text = r"correlation is (\S+) for SoTL-E and (\S+) for the validation accuracy\. Up"
    found = [f"{correlation(networks, 1, curve):.2f}" for curve in ("train_loss", "val_metric")]
    assert list(stated_on(page, text)) == found
    lcsvr, ours = stated_on(page, r"(0\.\d\d) at T = 4, against (0\.\d\d) for SoTL-E")
    assert ours == f"{correlation(networks, 4):.2f}"
    # The slow tests compare the figure's table with its command, which takes 17 s.
    (shown,) = stated_on(DOCS / "results" / "paper.md", r"\| 4 \| \S+ \| (\S+) \|")
    assert lcsvr == f"{float(shown):.2f}"


def test_the_correlations_of_each_window_are_right(cells):
    text = (DOCS / "concepts" / "choosing.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M)
    assert [int(window) for window, *_ in rows] == [1, 2, 5, 10]
    for window, *shown in rows:
        for epochs, number in zip((4, 10, 20, 40), shown, strict=True):
            has_value = epochs >= int(window)
            found = f"{correlation(cells, epochs, window=int(window)):.3f}" if has_value else "-"
            assert number == found, (window, epochs)


def test_the_share_of_the_example_sweep_is_that_of_its_output():
    (share,) = re.findall(r"full training \((\d+)%\)", block_below("output: main job"))
    for page in (README, DOCS / "index.md"):
        assert stated_on(page, r"trains (\d+)% of the epochs") == (share,)


def test_the_costs_and_regrets_of_policies_are_those_of_the_committed_table(capsys):
    page = DOCS / "results" / "selection.md"
    ((command, output),) = commands(page).items()
    quick = ("fixed-t10-top5", "halving", "full")  # the others take seconds
    assert main(["replay", str(PAPER / "tables" / "cells.npz"), "--policy", *quick]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [line.split() for line in output.splitlines()]
    assert "tables/cells.npz" in command
    for name in quick:
        rows = [[line for line in text if line[0] == name] for text in (printed, shown)]
        first, second = ([cell for cell in row if cell != "*"] for (row,) in rows)
        assert first == second


def sections_of(page):
    """Return heading -> text of the sections of a page of results."""
    text = (DOCS / "results" / page).read_text()
    sections = (part.partition("\n") for part in re.split(r"^## ", text, flags=re.M)[1:])
    return {heading: body for heading, _, body in sections}


def sections_of_figures():
    """Return heading -> text of the sections on the paper's figures that name a command."""
    return {
        heading: body
        for heading, body in sections_of("paper.md").items()
        if heading.startswith("Fig. ") or heading == "Where the method fails"
    }


MEASURED = {
    **sections_of_figures(),
    **{
        heading: sections_of("language.md")[heading]
        for heading in ("Over training", "At equal cost", "Equal settings")
    },
}


@functools.cache
def output_of(command):
    """Return what a command of the page prints."""
    program, *arguments = command.split()
    with tempfile.TemporaryDirectory() as folder:
        if program == "lightning-sotl":
            arguments = ["-m", "lightning_sotl", *arguments]
        else:
            arguments += ["--output", folder]
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
        )
    return done.stdout


def decimals(text):
    """Return the numbers with a decimal point, without their signs."""
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)", re.sub(r"`[^`]*`", "", text))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("heading", MEASURED)
def test_the_numbers_of_a_section_are_those_that_its_commands_print(heading):
    section = MEASURED[heading]
    found = re.findall(
        r"`((?:python examples/(?:paper|language)/\w+\.py|lightning-sotl)[^`]*)`", section
    )
    assert found
    printed = [float(one) for command in found for one in decimals(output_of(command))]
    measured = re.sub(r"\*\*Claim\.\*\*.*?\n\n", "", section, flags=re.S)
    for number in decimals(measured):
        half_a_digit = 0.5 * 10 ** -len(number.partition(".")[2])
        near = [one for one in printed if abs(one - float(number)) <= half_a_digit * (1 + 1e-9)]
        assert near, f"{number} is not printed by {found}"


def test_the_correlations_of_language_models_are_right():
    runs = LearningCurves.load(LANGUAGE / "tables" / "main.npz")
    with (LANGUAGE / "tables" / "main.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (first, second) = re.split(
        r"\| close learning rates, T", sections_of("language.md")["Over training"]
    )
    for section, ranges in ((first, ("wide", "close")), (second, ("close",))):
        kept = [
            place
            for place, row in enumerate(rows)
            if row["group"] == "main" and row["rates"] in ranges
        ]
        chosen = runs.select(kept)
        for name, curve in {"SoTL-E1": "train_loss", "validation loss": "val_loss"}.items():
            (shown,) = re.findall(rf"^\| {name} \|(.*) \|$", section, re.M)
            blocks = (1, 2, 4, 8, 12, 20, 30, 40)
            rho = [
                spearmanr(getattr(chosen, curve)[:, at - 1], chosen.final_metric)[0]
                for at in blocks
            ]
            assert [cell.strip() for cell in shown.split("|")] == [f"{each:.3f}" for each in rho]


def test_every_figure_of_the_paper_has_a_section_and_a_picture():
    sections = sections_of_figures()
    assert [heading.partition(":")[0] for heading in sections] == [
        *(f"Fig. {number}" for number in range(1, 11)),
        "Where the method fails",
    ]
    for heading, section in sections.items():
        (picture,) = re.findall(r"\]\((\.\./images/paper/\w+\.png)\)", section)
        assert (DOCS / "results" / picture).stat().st_size < 60_000, heading
