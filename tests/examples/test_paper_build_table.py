from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch
from cell_network import CellNetwork
from cell_space import cell_at, parse_cell
from cell_table import SETTINGS, depth, learning_curves, save_table
from cell_training import train_run
from image_tasks import ShuffledBatches, load_task
from recipes import FULL, RECIPE, SMOKE, SMOKE_RECIPE, Run, plan_cells, plan_regularized
from run_pool import Job, check_answer, train_job
from torch.nn.functional import cross_entropy, log_softmax

from lightning_sotl import LearningCurves
from tests.support.paths import PAPER

TABLES = PAPER / "tables"
CURVES = ("train_loss", "val_loss", "val_metric", "final_metric", "final_loss", "features")


def build(output: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start to build the small table "cells" in a separate process group."""
    command = [sys.executable, str(PAPER / "build_table.py"), "--smoke", "--table", "cells"]
    command += ["--workers", "1", "--output", str(output), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def finished_runs(output: Path) -> dict[str, tuple[int, int]]:
    """Return the result files, with inode and time, which change if a file is written again."""
    files = (output / "build_table" / "cells").glob("*.json")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.slow
def test_after_a_kill_only_the_missing_runs_are_trained(tmp_path):
    killed = build(tmp_path)
    shown = b""
    while b" 1/6 " not in shown:  # the progress bar after the first finished run
        byte = killed.stderr.read(1)
        assert byte, shown.decode()
        shown += byte
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = finished_runs(tmp_path)
    assert 1 <= len(before) < 6
    assert not (tmp_path / "build_table" / "tables").exists()

    resumed = build(tmp_path)
    output, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors.decode()
    assert f" {len(before)}/6 " in errors.decode()
    after = finished_runs(tmp_path)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    assert b"cells: 6 runs of 4 networks in" in output

    uninterrupted = learning_curves([train_run(SMOKE_RECIPE, run) for run in plan_cells(SMOKE, 0)])
    table = LearningCurves.load(tmp_path / "build_table" / "tables" / "cells.npz")
    assert table.run_ids == uninterrupted.run_ids
    for name in CURVES:
        np.testing.assert_array_equal(getattr(table, name), getattr(uninterrupted, name))
    assert (table.epoch_seconds > 0).all()


def test_the_files_of_a_table_are_replaced_not_overwritten(tmp_path):
    numbers = ("cell", "repeat", "seed", "parameters", "test_accuracy", "test_loss", *SETTINGS)
    seconds = {f"{clock}_seconds": {"train": 1.0, "val": 1.0} for clock in ("cpu", "wall")}
    losses = {name: [1.0] for name in ("train_loss", "val_loss", "val_accuracy")}
    folders = []
    for _ in range(2):
        save_table(tmp_path, "x", [{**dict.fromkeys(numbers, 0), **seconds, **losses}], {})
        folders.append({path.name: path.stat().st_ino for path in tmp_path.iterdir()})
    assert folders[0].keys() == folders[1].keys() == {"x.npz", "x_runs.npz", "x.json"}
    assert not folders[0].items() & folders[1].items()


def train_by_hand(run: Run, network: CellNetwork) -> dict[str, list[float]]:
    """Train by the recipe in a plain loop with a hand-written SGD."""
    task = load_task("digits", train_images=128, val_images=100)
    curves: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_accuracy": []}
    momenta = [torch.zeros_like(parameter) for parameter in network.parameters()]
    batches = ShuffledBatches(task.train, 32, shift=1)
    for epoch in range(3):
        rate = 0.1 * (1 + np.cos(np.pi * epoch / 3)) / 2
        losses = []
        network.train()
        for images, labels in batches:
            likelihoods = log_softmax(network(images), dim=1)
            one_hot = torch.nn.functional.one_hot(labels, 10)
            target = (1 - run.label_smoothing) * one_hot + run.label_smoothing / 10
            loss = -(target * likelihoods).sum(dim=1).mean()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                steps = zip(network.parameters(), gradients, momenta, strict=True)
                for parameter, gradient, momentum in steps:
                    decayed = gradient + run.weight_decay * parameter
                    momentum.mul_(0.9).add_(decayed)
                    parameter.sub_(rate * (decayed + 0.9 * momentum))
            losses.append(loss.item())
        curves["train_loss"].append(float(np.mean(losses)))
        network.eval()
        with torch.no_grad():
            logits = network(task.val[0])
        curves["val_loss"].append(float(cross_entropy(logits, task.val[1])))
        right = logits.argmax(dim=1) == task.val[1]
        curves["val_accuracy"].append(float(right.double().mean()))
    return curves


@pytest.mark.parametrize(
    ("weight_decay", "dropout", "label_smoothing"), [(5e-4, 0.0, 0.0), (5e-3, 0.3, 0.2)]
)
def test_a_run_equals_training_in_a_hand_written_loop(weight_decay, dropout, label_smoothing):
    cell = plan_cells(SMOKE, 0)[1].cell
    run = Run(cell, 0, 7, weight_decay, dropout, label_smoothing)
    recipe = dataclasses.replace(SMOKE_RECIPE, batch_size=32, epochs=3)
    result = train_run(recipe, run)

    torch.manual_seed(7)
    network = CellNetwork(cell_at(cell), channels=4, stages=2, cells=1, dropout=dropout)
    expected = train_by_hand(run, network)
    assert result["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert result["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-3)
    assert result["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.011)
    assert result["train_loss"][-1] < result["train_loss"][0]
    assert result["parameters"] == sum(each.numel() for each in network.parameters())


def test_a_run_does_not_change_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train_run(SMOKE_RECIPE, plan_cells(SMOKE, 0)[0])
    assert torch.equal(torch.rand(4), expected)


def test_a_failed_run_is_reported_with_its_reason_and_writes_no_file(tmp_path):
    run = plan_cells(SMOKE, 0)[0]
    recipe = dataclasses.replace(SMOKE_RECIPE, task="cifar")
    job = Job(recipe, run, tmp_path / "run.json")
    failure = train_job(job)
    assert "ValueError: Expected `name` to be one of digits, mnist but got 'cifar'." in failure
    assert list(tmp_path.iterdir()) == []
    ours, theirs = Pipe()
    theirs.send(failure)
    message = f"{run} failed; start again to resume from here. {failure}"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        check_answer(ours, job)


def test_a_dead_worker_is_reported():
    job = Job(SMOKE_RECIPE, plan_cells(SMOKE, 0)[0], Path("run.json"))
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(RuntimeError, match=re.escape("The worker process died.")):
        check_answer(ours, job)


def test_splits_are_disjoint_stratified_and_always_the_same():
    task = load_task("digits", train_images=448, val_images=449)
    load_task.cache_clear()
    again = load_task("digits", train_images=448, val_images=449)
    splits = (task.train, task.val, task.test)
    assert [len(labels) for _, labels in splits] == [448, 449, 900]
    seen: set[bytes] = set()
    for (images, labels), (same, _) in zip(
        splits, (again.train, again.val, again.test), strict=True
    ):
        assert torch.equal(images, same)
        assert images.shape[1:] == (1, 8, 8)
        shares = np.bincount(labels, minlength=10) / len(labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)
        rows = {image.numpy().tobytes() for image in images}
        assert not rows & seen
        seen |= rows
    assert float(task.train[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(task.train[0].std()) == pytest.approx(1, abs=1e-5)


def test_batches_have_each_image_once_per_epoch_with_any_of_nine_shifts():
    torch.manual_seed(0)
    images = torch.rand(150, 1, 4, 4)
    images[:, :, 0] = images[:, :, -1] = images[:, :, :, 0] = images[:, :, :, -1] = 0
    batches = ShuffledBatches((images, torch.arange(150)), 64, shift=1)
    first, second = list(batches), list(batches)
    assert [len(labels) for _, labels in first] == [64, 64, 22]
    assert len(batches) == 3
    assert not torch.equal(first[0][1], second[0][1])
    shifts = set()
    seen = []
    for moved, label in (pair for batch in first for pair in zip(*batch, strict=True)):
        # The border is zero, so rolling an image is the same as shifting it.
        ways = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        original = images[label, 0]
        fits = [way for way in ways if torch.equal(original.roll(way, (0, 1)), moved[0])]
        assert len(fits) == 1
        shifts |= set(fits)
        seen.append(int(label))
    assert len(shifts) == 9
    assert sorted(seen) == list(range(150))


def test_the_full_plan_has_distinct_networks_and_three_seeds_of_the_first():
    runs = plan_cells(FULL, 0)
    first, again = runs[: FULL.networks], runs[FULL.networks :]
    assert len({run.cell for run in first}) == FULL.networks >= 600
    assert [run.cell for run in again[::2]] == [run.cell for run in first[:60]]
    assert [run.repeat for run in again[:4]] == [1, 2, 1, 2]
    assert len({run.seed for run in runs}) == len(runs) == 720
    assert {(run.weight_decay, run.dropout, run.label_smoothing) for run in runs} == {(5e-4, 0, 0)}


def test_the_regularized_plan_has_the_same_networks_under_every_setting():
    runs = plan_regularized(FULL, 0)
    plain = plan_cells(FULL, 0)[: len(runs)]
    assert [(run.cell, run.seed) for run in runs] == [(run.cell, run.seed) for run in plain]
    settings = {(run.weight_decay, run.dropout, run.label_smoothing) for run in runs}
    assert len(settings) == 3 * 3 * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|", 3),
        ("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|", 0),
        ("|skip_connect~0|+|avg_pool_3x3~0|none~1|+|none~0|nor_conv_1x1~1|skip_connect~2|", 1),
    ],
)
def test_depth_counts_the_convolutions_of_the_longest_path(text, expected):
    assert depth(parse_cell(text)) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["step_overhead"],
            "Over 2 networks, a step takes .* ms in a bare loop, .* the monitor adds .*",
        ),
        pytest.param(
            ["pilot", "--workers", "1"],
            "Of 1 candidates with 2 networks each, .* highest median accuracy of these has .*",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_small_measurements_end_in_a_sentence_with_numbers(
    arguments, sentence, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", [*arguments, "--smoke"])
    importlib.import_module(arguments[0]).main()
    assert re.fullmatch(sentence, capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.skipif(not (TABLES / "cells.npz").exists(), reason="the table is not built")
@pytest.mark.parametrize("name", ["cells", "regularised"])
def test_the_committed_table_is_the_planned_one(name):
    plan = {"cells": plan_cells, "regularised": plan_regularized}[name](FULL, 0)
    table = LearningCurves.load(TABLES / f"{name}.npz")
    columns = np.load(TABLES / f"{name}_runs.npz", allow_pickle=False)
    story = json.loads((TABLES / f"{name}.json").read_text())
    assert columns["cell_index"].tolist() == [run.cell for run in plan]
    assert columns["seed"].tolist() == [run.seed for run in plan]
    for setting in ("weight_decay", "dropout", "label_smoothing"):
        assert columns[setting].tolist() == [getattr(run, setting) for run in plan]
    assert table.train_loss.shape == (len(plan), RECIPE.epochs)
    for curve in (*CURVES, "epoch_seconds"):
        assert np.isfinite(getattr(table, curve)).all()
    assert table.names == tuple(
        f"{cell} repeat {repeat}"
        for cell, repeat in zip(columns["cells"], columns["repeat"], strict=True)
    )
    assert len(story["features"]) == table.features.shape[1]
    assert story["recipe"] == dataclasses.asdict(RECIPE)
    assert {"command", "date", "versions", "machine", "cpu_seconds"} <= set(story)
    assert (TABLES / f"{name}.npz").stat().st_size <= 3e6
    # The task is hard enough for a ranking to matter.
    assert np.ptp(table.final_metric) >= 0.05
    assert np.mean(table.train_loss[:, -1] < 0.1) < 0.5
