"""The README's code does what the README says it does."""

import ast
import builtins
import functools
import importlib
import inspect
import math
import re
import subprocess
import sys

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr

from lightning_sotl import AdaptivePolicy, LearningCurves
from lightning_sotl.cli import main
from lightning_sotl.cli.parser import build_parser
from tests.support.readme_blocks import README, block, python_blocks, shell_commands

# In the order in which they run, as one program and as they stand there.
RUN = (
    "quick start",
    "own folders",
    "promotion",
    "directory",
    "adaptive",
    "turns",
    "optuna",
    "restart",
)
# Is run in this process, which has Ray loaded anyway.
HERE = "adaptive elsewhere"
# Takes half a minute: `test_readme_on_ray.py` runs it, here its names are looked up.
NOT_RUN = "ray"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Run all blocks as one program; return what each has printed."""
    blocks = python_blocks()
    blocks["restart"] = blocks["restart"].replace("n_trials=8", "n_trials=2")
    blocks["promotion"] += "\nprint('promoted', best, trainer.current_epoch)"
    code = "".join(f"print('# {name}')\n{blocks[name]}\n" for name in RUN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path_factory.mktemp("readme"),
    )
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^# (.*)\n", done.stdout, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_block_is_run_or_has_a_reason():
    assert set(python_blocks()) == {*RUN, HERE, NOT_RUN}


@pytest.mark.timeout(150)
def test_the_quick_start_prints_what_stands_below_it(printed):
    code = block("block: quick start")
    assert sum(bool(line.strip()) for line in code.splitlines()) < 20
    said_and_printed(printed, "quick start", r"width .*")
    assert "promoted 64 30\n" in printed["promotion"]


def said_and_printed(printed, name, pattern):
    """Check that a block has printed what the README says, but for the last digits."""
    lines = re.findall(f"^{pattern}$", printed[name], re.M)
    expected = block(f"output: {name}").splitlines()
    number = re.compile(r"\d\.\d\d")
    assert [number.sub("", line) for line in lines] == [number.sub("", line) for line in expected]
    # Another processor or torch may round and draw otherwise.
    for line, said in zip(lines, expected, strict=True):
        values, stated = (list(map(float, number.findall(text))) for text in (line, said))
        assert values == pytest.approx(stated, abs=0.15)


def test_the_policy_stops_the_runs_that_it_is_said_to_stop(printed):
    lines = [line for line in printed["adaptive"].splitlines() if line.startswith("width ")]
    expected = block("output: adaptive").splitlines()
    assert len(lines) == len(expected) == 8
    # Another processor may round otherwise, so that a run is stopped an epoch earlier or later.
    stopped = [[re.sub(r": \d+ epochs", "", line) for line in text] for text in (lines, expected)]
    assert stopped[0] == stopped[1]


def test_the_sweep_trains_its_best_to_the_end(printed):
    lines = [line for line in printed["turns"].splitlines() if line.startswith("width ")]
    (line,) = lines
    assert re.fullmatch(
        r"width (64|256) is the best, trained to the end in \S+stopped-epoch=12\S*\.ckpt", line
    )


def test_the_studies_promote_the_best(printed):
    ended = r"^trial \d had \d\.\d\d at T and was trained to epoch 10$"
    assert len(re.findall(ended, printed["optuna"], re.M)) == 2


def test_the_runs_of_a_directory_are_promoted_as_it_is_said(printed):
    said_and_printed(printed, "directory", r"version_\d had .*")


def test_the_policy_goes_to_other_tools():
    trial = optuna.create_study().ask()
    space = {"optuna": optuna, "AdaptivePolicy": AdaptivePolicy, "trial": trial}
    exec(python_blocks()[HERE], space)  # noqa: S102  # our own README
    assert type(space["study"].pruner).__name__ == "AdaptivePruner"
    assert type(space["scheduler"]).__name__ == "AdaptiveScheduler"


def test_the_names_and_options_of_the_block_that_is_not_run_exist():
    known = set(dir(builtins)) | names_set_by(python_blocks()["quick start"])
    code = python_blocks()[NOT_RUN]
    tree = ast.parse(code)
    known |= names_set_by(code)
    assert {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} <= known
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    space = {}
    exec(compile(ast.Module(imports, []), NOT_RUN, "exec"), space)  # noqa: S102  # the same
    looked_up = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        path = ast.unparse(call.func)
        first, *rest = path.split(".")
        if first in space and re.fullmatch(r"[\w.]+", path):
            function = functools.reduce(getattr, rest, space[first])
            options = dict.fromkeys(keyword.arg for keyword in call.keywords)
            inspect.signature(function).bind_partial(*call.args, **options)
            looked_up += 1
    assert looked_up == 8


def names_set_by(code):
    """Return the names that a program imports, defines, assigns or takes as arguments."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_the_commands_of_the_shell_are_understood():
    commands = [command.split() for command in shell_commands()]
    assert {command[0] for command in commands} >= {"rank", "evaluate"}
    for command in commands:
        build_parser().parse_args(command)
    inline = re.findall(r"`lightning-sotl (\w+ [^`]+)`", README.read_text())
    assert inline
    for command in inline:
        build_parser().parse_args(command.split())


def test_the_options_of_examples_exist():
    for path, options in re.findall(r"python (examples/\S+\.py)([^`\n|]*)", README.read_text()):
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in (README.parent / path).read_text(), (path, option)


@pytest.mark.parametrize("marker", ["command: main job", "command: tests"])
def test_the_commands_name_what_is_there(marker):
    command = block(marker)
    assert "\n" not in command
    assert '"torch==' in command
    for path in re.findall(r"examples/\w+\.py", README.read_text()):
        assert (README.parent / path).is_file(), path


def test_pictures_and_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


EXAMPLES = README.parent / "examples"
TABLES = EXAMPLES / "paper" / "tables"
NAMES = ("regularised", "cells")


@pytest.fixture
def sweep_modules(monkeypatch):
    """Return the modules of the example that is the main job."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("digits_sweep", "_sweep_report", "_digits")
    return tuple(importlib.import_module(name) for name in names)


def test_the_table_of_the_main_job_is_one_that_it_prints(sweep_modules, capsys):
    """Read the README's table back, and print it again with the example's own functions."""
    sweep, report, digits = sweep_modules
    table, _, sentence = re.split(r"\n\n", block("output: main job"))
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
    said = report.summarise(outcome, verify=False)
    assert " ".join(sentence.split()) == said
    verified = " ".join(block("output: main job, verified").split())
    assert verified.startswith(said.removesuffix(".") + ", number ")


def test_the_costs_and_regrets_of_policies_are_those_of_the_committed_table(capsys):
    (command, shown) = next(
        (command, shown) for command, shown in shell_commands().items() if "replay" in command
    )
    quick = ("fixed-t10-top5", "halving", "full")  # the others take seconds
    path = README.parent / command.split()[1]
    assert main(["replay", str(path), "--policy", *quick]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = [line.split() for line in shown.splitlines()]
    for name in quick:
        (now,), (then,) = ([one for one in text if one[0] == name] for text in (lines, said))
        assert [cell for cell in now if cell != "*"] == [cell for cell in then if cell != "*"]


def test_the_correlations_with_and_without_varying_regularisation_are_right():
    text = " ".join(README.read_text().split())
    sentence = re.search(r"training is (0\.\d\d); with [^;]* it is (0\.\d\d) ", text)
    mixed, alike = (LearningCurves.load(TABLES / f"{name}.npz") for name in NAMES)
    drawn, all_cells = (np.load(TABLES / f"{name}_runs.npz")["cell_index"] for name in NAMES)
    # The first training of each cell is the one under the common recipe.
    first = dict(zip(all_cells[::-1].tolist(), range(alike.runs)[::-1], strict=True))
    same = alike.select([first[cell] for cell in drawn.tolist()])
    found = [-spearmanr(one.train_loss[:, 9], one.final_metric)[0] for one in (same, mixed)]
    assert [f"{rho:.2f}" for rho in found] == list(sentence.groups())
