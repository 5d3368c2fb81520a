from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import SHA256, checksum, cut, read_corpus, read_files, split_files
from networks import RecurrentNetwork, Transformer
from results_file import read_results, train_missing
from run_plan import SMOKE, SMOKE_RECIPE, Plan, plan_runs
from training import LanguageModel, rate_at, train_run, training_text

from lightning_sotl import LearningCurves
from tests.support.paths import LANGUAGE

RUNS = plan_runs(SMOKE)
SMALL_PLAN = Plan(10, 15, 5, 20, wide_rates=(1e-4, 1e-1), close_rates=(1e-3, 4e-3))


def build(output: Path, *options: str) -> subprocess.Popen[str]:
    """Start the builder on two tiny runs in a process group of its own."""
    command = [sys.executable, str(LANGUAGE / "build_table.py"), "--smoke", "--output", str(output)]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_build_resumes_with_the_missing_runs_only(tmp_path):
    killed = build(tmp_path)
    while not (line := killed.stdout.readline()).startswith(RUNS[0].name):
        assert line, killed.stderr.read()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    data = tmp_path / "language_smoke" / "runs.jsonl"
    before = data.read_bytes().splitlines(keepends=True)[:1]
    # A kill can also leave a part of the next line.
    data.write_bytes(before[0] + b'{"recipe": "12')

    resumed = build(tmp_path)
    output, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert output.startswith("1 of 2 runs are finished.")
    after = data.read_bytes().splitlines(keepends=True)
    assert after[0] == before[0]
    assert [json.loads(line)["name"] for line in after] == [run.name for run in RUNS]

    table = LearningCurves.load(tmp_path / "language_smoke" / "tables" / "main.npz")
    expected = [train_run(SMOKE_RECIPE, run) for run in RUNS]
    assert list(table.run_ids) == [run.name for run in RUNS]
    np.testing.assert_array_equal(table.train_loss, [each["train_loss"] for each in expected])
    np.testing.assert_array_equal(table.val_loss, [each["val_loss"] for each in expected])
    np.testing.assert_array_equal(table.final_metric, [each["test_loss"] for each in expected])
    assert table.final_mode == "min"

    again = build(tmp_path, "--most", "0")
    assert again.communicate(timeout=200)[0].startswith("2 of 2 runs are finished.")
    assert data.read_bytes().splitlines(keepends=True) == after


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.architecture)
def test_the_curve_is_the_block_means_of_the_losses_that_the_model_returned(run, monkeypatch):
    returned = []
    original = LanguageModel.training_step

    def training_step(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        returned.append(loss.item())
        return loss

    monkeypatch.setattr(LanguageModel, "training_step", training_step)
    result = train_run(SMOKE_RECIPE, run)
    steps = SMOKE_RECIPE.block_sequences // run.batch_size
    assert len(returned) == SMOKE_RECIPE.blocks * steps
    means = np.array(returned).reshape(SMOKE_RECIPE.blocks, steps).mean(axis=1)
    np.testing.assert_allclose(result["train_loss"], means, rtol=0, atol=5.1e-8)
    assert len(result["val_loss"]) == SMOKE_RECIPE.blocks


def test_a_diverged_run_stays_in_the_file(tmp_path):
    run = dataclasses.replace(RUNS[1], learning_rate=1e30)
    path = tmp_path / "runs.jsonl"
    list(train_missing(path, SMOKE_RECIPE, [run], train=train_run, locks=tmp_path / "locks"))
    (result,) = read_results(path, SMOKE_RECIPE, [run])
    assert result["test_loss"] is None
    assert result["train_loss"][-1] is None
    assert result["train_loss"][0] is None or result["train_loss"][0] > 0


@pytest.mark.parametrize(
    ("recipe", "runs", "reason"),
    [
        (dataclasses.replace(SMOKE_RECIPE, context=8), RUNS, "differs in recipe"),
        (SMOKE_RECIPE, [dataclasses.replace(RUNS[0], width=7)], "differs in width"),
        (SMOKE_RECIPE, RUNS[1:], "is not in the plan"),
    ],
)
def test_results_of_another_plan_are_refused(recipe, runs, reason, tmp_path):
    path = tmp_path / "runs.jsonl"
    finished = train_missing(
        path, SMOKE_RECIPE, RUNS, train=train_run, locks=tmp_path / "locks", most=1
    )
    assert len(list(finished)) == 1
    with pytest.raises(ValueError, match=f"run '{RUNS[0].name}' {reason}"):
        read_results(path, recipe, runs)


def test_no_file_is_in_two_parts_and_no_sequence_is_seen_twice():
    files = read_files()
    parts = split_files(files)
    assert sorted(name for part in parts for name in part) == sorted(files)
    sizes = [sum(len(files[name]) for name in part) for part in parts]
    assert sizes[0] > 0.75 * sum(sizes)
    assert min(sizes[1:]) > 0.08 * sum(sizes)

    recipe = dataclasses.replace(SMOKE_RECIPE, context=128, block_sequences=256, blocks=40)
    whole = cut(files, parts[0], 128)
    place = {row.tobytes(): [] for row in whole}
    for row in whole:
        place[row.tobytes()].append(row)
    read = [row.tobytes() for row in training_text(recipe, RUNS[0])]
    assert len(read) == 40 * 256
    assert all(read.count(row) <= len(place[row]) for row in set(read) if len(place[row]) > 1)
    assert len(set(read)) > 0.99 * len(read)
    held_out = read_corpus(128, validation=128, test=1024)
    assert held_out.validation.shape == (128, 128)
    assert held_out.test.shape == (1024, 128)
    assert not {row.tobytes() for row in held_out.test} & set(read)


def test_the_order_of_the_text_depends_on_the_repeat_alone():
    first, second = RUNS
    again = dataclasses.replace(first, repeat=1)
    assert np.array_equal(training_text(SMOKE_RECIPE, first), training_text(SMOKE_RECIPE, second))
    assert not np.array_equal(
        training_text(SMOKE_RECIPE, first), training_text(SMOKE_RECIPE, again)
    )


def test_a_changed_text_is_refused(monkeypatch):
    files = read_files()
    assert checksum({**files, "new.py": b""}) != checksum(files)
    monkeypatch.setattr("corpus.SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"Expected the sources of mpmath 1\.3\.0 .* but got"):
        read_files()


@pytest.mark.parametrize(
    "network",
    [
        Transformer(context=12, depth=2, width=16, heads=4),
        RecurrentNetwork(depth=2, width=16),
    ],
    ids=["transformer", "gru"],
)
def test_a_prediction_depends_on_earlier_bytes_only(network):
    sequences = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = sequences.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 256
    with torch.inference_mode():
        before, after = network(sequences), network(changed)
    assert before.shape == (1, 12, 256)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-6)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(dim=-1).gt(1e-6).all()


def test_the_rate_rises_to_1_and_falls_to_0():
    rates = [rate_at(step, 1000, 0.1) for step in range(1000)]
    assert np.argmax(rates) in (99, 100)
    assert max(rates) == 1
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] < 1e-5
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()


def test_the_plan_has_its_sets_in_order_and_repeats_differ_in_seed_only():
    runs = plan_runs(SMALL_PLAN)
    assert [run.group for run in runs] == ["main"] * 25 + ["seeds"] * 10 + ["varied"] * 20
    assert len({run.name for run in runs}) == len(runs)
    named = {run.name: run for run in runs}
    for run in runs[25:35]:
        first = named[run.name.partition("-seed")[0]]
        changed = {"name": run.name, "group": "seeds", "repeat": run.repeat, "seed": run.seed}
        assert run == dataclasses.replace(first, **changed)
        assert run.seed != first.seed
    for run in runs:
        lowest, highest = {"wide": (1e-4, 1e-1), "close": (1e-3, 4e-3)}[run.rates]
        assert lowest <= run.learning_rate <= highest
        assert (run.heads == 0) == (run.architecture == "gru")
    assert all((run.dropout, run.batch_size) == (0.0, 8) for run in runs[:35])
    assert len({run.dropout for run in runs[35:]}) > 2
    assert len({run.batch_size for run in runs[35:]}) > 2
    assert runs == plan_runs(SMALL_PLAN)


@pytest.mark.parametrize("path", sorted((LANGUAGE / "tables").glob("*.npz")), ids=lambda p: p.stem)
def test_the_committed_tables_are_those_of_the_committed_results(path):
    groups = {"main": {"main", "seeds"}, "varied": {"varied"}}[path.stem]
    curves = LearningCurves.load(path)
    lines = (LANGUAGE / "data" / "runs.jsonl").read_text().splitlines()
    results = {each["name"]: each for each in map(json.loads, lines)}
    of_table = {name for name, each in results.items() if each["group"] in groups}
    assert set(curves.run_ids) == of_table
    for row, name in enumerate(curves.run_ids):
        result = results[name]
        losses = [np.inf if loss is None else loss for loss in result["train_loss"]]
        np.testing.assert_array_equal(curves.train_loss[row], losses)
        assert curves.final_metric[row] == (result["test_loss"] or np.inf)
    document = json.loads(path.with_suffix(".json").read_text())
    assert (document["runs"], document["text"]["sha256"]) == (curves.runs, SHA256)
