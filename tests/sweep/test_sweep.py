"""Sweeps whose runs take turns, with real Trainers."""

import json
import logging
import math
import re
import warnings
from pathlib import Path

import pytest
import torch

from lightning_sotl import AdaptivePolicy
from lightning_sotl.curves.logs import LogKeys, read_logs
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from tests.support.command_line import run as command
from tests.support.helpers import (
    PACKAGES,
    StatefulLoader,
    door,
    lightning,
    loader,
    scripted_model,
)
from tests.support.sweeps import (
    CANDIDATES,
    INPUTS,
    LABELS,
    Training,
    loaders,
    make_net,
    make_sweep,
    trainer,
)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"package": "lightning.pytorch"},
        {"plateau": True},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"logger": True, "enable_checkpointing": True, "log_every_n_steps": 1},
    ],
    ids=["plain", "lightning", "plateau", "accumulation", "bf16", "logger"],
)
def test_the_winner_is_bit_equal_to_an_uninterrupted_run(tmp_path, how):
    package = how.get("package", PACKAGES[0])
    training = Training(**how)
    sweep = make_sweep(tmp_path / "sweep", package=package)
    assert sweep.best is None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tensorboardX")
        best = sweep.run(training)
    weights, steps = training.alone(tmp_path / "alone", best.params)
    saved = torch.load(best.checkpoint_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], weights[name]) for name in weights)
    assert training.steps[best.run_id] == steps
    assert best == sweep.best
    assert (best.final_epochs, best.final_estimate) == (6, best.estimate)
    assert best.params in CANDIDATES
    # The steps of each run are the first steps of an uninterrupted run, without repeats.
    for number, params in enumerate(CANDIDATES):
        ours = training.steps[f"run_{number:03d}"]
        assert ours == training.alone(tmp_path / "alone", params)[1][: len(ours)]
    # The rungs are 2, 3, 4 and 6.
    assert [turn for turn in training.turns if turn[1] == 0] == [
        (f"run_{number:03d}", 0, 2) for number in range(6)
    ]
    assert {(start, stop) for _, start, stop in training.turns} == {(0, 2), (2, 3), (3, 4), (4, 6)}


def test_the_best_has_the_best_mean_of_its_last_three_validations(tmp_path):
    training = Training()
    sweep = make_sweep(tmp_path, validation="val_acc", validation_mode="max")
    best = sweep.run(training)
    means = {}
    for path in sorted(tmp_path.glob("run_*/sotl.jsonl")):
        (run,) = merge_sessions(read_record(path)[0])
        if len(run.losses) == 6:
            values = [run.metrics[e]["val_acc"] for e in (3, 4, 5)]
            means[path.parent.name] = sum(values) / 3
            assert run.losses[5] == pytest.approx(
                sum(loss for e, _, loss in training.steps[path.parent.name] if e == 5) / 4
            )
    assert means[best.run_id] == max(means.values())


def test_the_same_script_resumes_after_an_interruption(tmp_path):
    class Broken(BaseException):
        pass

    whole = Training()
    expected = make_sweep(tmp_path / "whole").run(whole)
    training, turns = Training(), 0

    def breaks(turn):
        nonlocal turns
        turns += 1
        training(turn)
        if turns % 4 == 0:
            raise Broken

    for _ in range(20):
        sweep = make_sweep(tmp_path / "broken")
        try:
            best = sweep.run(breaks)
            break
        except Broken:
            continue
    assert (best.run_id, best.estimate) == (expected.run_id, expected.estimate)
    assert training.steps == whole.steps
    assert make_sweep(tmp_path / "broken").run(pytest.fail) == best  # nothing is left to train


def test_a_loop_is_the_same_as_run(tmp_path):
    first, second = Training(), Training()
    sweep = make_sweep(tmp_path / "loop")
    for turn in sweep:
        first(turn)
    assert sweep.best.run_id == make_sweep(tmp_path / "run").run(second).run_id
    assert first.turns == second.turns


def newest_loss(folder):
    (run,) = merge_sessions(read_record(folder / "sotl.jsonl")[0])
    return run.losses[max(run.losses)]


def test_rank_prints_the_order_of_ranking(tmp_path, capsys):
    sweep = make_sweep(tmp_path)
    sweep.run(Training(logger=True, log_every_n_steps=1))
    ranking = sweep.ranking()
    epochs = [run.epochs for run in ranking]
    assert epochs == sorted(epochs, reverse=True)
    for length in set(epochs):
        losses = [newest_loss(tmp_path / run.run_id) for run in ranking if run.epochs == length]
        assert losses == sorted(losses)
    _, out, notes = command(capsys, "rank", tmp_path, "--json")
    assert "fewer than" not in notes  # a sweep is expected to pause runs early
    printed = json.loads(out)
    assert [run["run_id"] for run in printed["runs"]] == [run.run_id for run in ranking]
    assert len(ranking) == 6


def test_new_candidates_train_through_the_earlier_rungs(tmp_path):
    make_sweep(tmp_path, CANDIDATES[:4]).run(Training())
    training = Training()
    sweep = make_sweep(tmp_path, [CANDIDATES[0], CANDIDATES[5]])  # the others remain
    sweep.run(training)
    assert training.turns[0] == ("run_004", 0, 2)
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["candidates"] == [*CANDIDATES[:4], CANDIDATES[5]]


def test_equal_candidates_count_once(tmp_path):
    make_sweep(tmp_path, [CANDIDATES[0], dict(reversed(CANDIDATES[0].items())), CANDIDATES[1]])
    assert json.loads((tmp_path / "sweep.json").read_text())["candidates"] == CANDIDATES[:2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"candidates": [{"a": (1, 2)}]},
            ValueError,
            r"^Expected `candidates\[0\]` to survive JSON unchanged but "
            r"`candidates\[0\]\['a'\]` is the tuple \(1, 2\)\.$",
        ),
        ({"candidates": []}, ValueError, r"^Expected `candidates` to have at least one entry"),
        (
            {"max_total_epochs": 5},
            ValueError,
            r"^Expected `max_total_epochs` to be at least the policy's `max_epochs`, 6, but got "
            r"5\.$",
        ),
        ({"growth": 1.0}, ValueError, r"^Expected `growth` to be above 1 and finite but got 1\.0"),
        ({"growth": "2"}, TypeError, r"^Expected `growth` to be a number but got '2'\.$"),
        (
            {"validation": "val_acc"},
            ValueError,
            r"^Expected `validation` and `validation_mode` to be given together",
        ),
        (
            {"monitor_args": {"directory": "x"}},
            ValueError,
            r"^Expected `monitor_args` to leave 'name', 'params', 'directory', 'record' to the "
            r"sweep but got 'directory'\.$",
        ),
        (
            {"monitor_args": {"window": [5]}},
            ValueError,
            r"^Expected `monitor_args\['window'\]` to contain 1, because the runs are ranked by "
            r"E = 1, but got \[5\]\.$",
        ),
        (
            {"monitor_args": {"record_metrics": "val_acc"}},
            TypeError,
            r"^Expected `record_metrics` to be a sequence of names but got 'val_acc'\.$",
        ),
        (
            {"monitor_args": ["prefix"]},
            TypeError,
            r"^Expected `monitor_args` to be a mapping but got \['prefix'\]\.$",
        ),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make_sweep(tmp_path / "sweep", **{"candidates": CANDIDATES, **options})
    assert not (tmp_path / "sweep/sweep.json").exists()


def test_changed_settings_are_refused_but_a_larger_budget_is_allowed(tmp_path):
    make_sweep(tmp_path, max_total_epochs=20)
    make_sweep(tmp_path, max_total_epochs=30)
    with pytest.raises(
        ValueError, match=r"^Expected `growth` to be 1\.5, as at the start of the sweep in '.*', "
    ):
        make_sweep(tmp_path, growth=2.0)
    with pytest.raises(ValueError, match=r"^Expected `policy` to be \{'max_epochs': 6, .* but got"):
        door().Sweep(tmp_path, CANDIDATES, policy=AdaptivePolicy(max_epochs=8, first=2))


def test_a_candidate_that_raises_is_set_aside_and_tried_again(tmp_path, caplog):
    training, fails = Training(), True

    def train(turn):
        if fails and turn.params == CANDIDATES[1]:
            raise ZeroDivisionError("mine")
        training(turn)

    best = make_sweep(tmp_path).run(train)
    assert best is not None
    assert [entry.message for entry in caplog.records if "Set aside" in entry.message] == [
        f"Set aside candidate run_001: {CANDIDATES[1]}"
    ]
    assert "ZeroDivisionError: mine" in caplog.text
    fails = False
    training.turns.clear()
    make_sweep(tmp_path).run(train)
    assert training.turns[0] == ("run_001", 0, 2)


def test_a_sweep_raises_if_every_candidate_failed(tmp_path):
    def train(turn):
        raise ZeroDivisionError("mine")

    with pytest.raises(RuntimeError, match="trained to the end") as caught:
        make_sweep(tmp_path, CANDIDATES[:2]).run(train)
    assert str(caught.value.__cause__) == "mine"
    assert str(caught.value) == (
        f"No candidate of '{tmp_path}' was trained to the end: `train` raised for 'run_000', "
        "'run_001'."
    )


def test_a_turn_that_was_not_trained_is_an_error(tmp_path):
    message = (
        r"^The turn of 'run_000' to epoch 2 was not trained: its record has 0 epochs\. Call "
        r"`turn\.fit\(trainer, model, \.\.\.\)` with a Trainer that has `turn\.callbacks`\.$"
    )
    with pytest.raises(RuntimeError, match=message):
        make_sweep(tmp_path).run(lambda turn: None)
    with pytest.raises(RuntimeError, match=message):
        for _ in make_sweep(tmp_path):
            pass


def test_a_trainer_with_the_wrong_settings_for_its_turn_is_refused(tmp_path):
    turn = next(iter(make_sweep(tmp_path)))
    net = make_net(**turn.params)
    with pytest.raises(ValueError, match=r"lacks the SoTLMonitor and EarlyRankingStopper\.$"):
        turn.fit(trainer(tmp_path, []), net, *loaders())
    with pytest.raises(ValueError, match=r"`max_epochs` to be the policy's, 6, but got 9\. "):
        turn.fit(trainer(tmp_path, turn.callbacks, max_epochs=9), net, *loaders())
    with pytest.raises(ValueError, match=r"to have 1 process but got 2\. The runs of a sweep take"):
        turn.fit(trainer(tmp_path, turn.callbacks, devices=2, strategy="ddp_fork"), net, *loaders())


def test_a_run_that_another_callback_ends_is_complete(tmp_path):
    pl = lightning()

    class Ends(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 4:
                trainer.should_stop = True

    def train(turn):
        pl.seed_everything(7, verbose=False)
        extra = [Ends()] if turn.params == CANDIDATES[2] else []
        turn.fit(
            trainer(turn.directory, [*turn.callbacks, *extra]),
            make_net(**turn.params),
            *loaders(),
        )

    candidates = [CANDIDATES[2], CANDIDATES[0]]
    sweep = make_sweep(tmp_path, candidates)
    sweep.run(train)
    ended = next(run for run in sweep.ranking() if run.run_id == "run_000")
    assert ended.epochs == 5
    assert Path(ended.checkpoint).exists()


def test_a_budget_that_is_too_small_for_all_starts_the_first_candidates(tmp_path):
    sweep, training = make_sweep(tmp_path, max_total_epochs=11), Training()
    with pytest.warns(UserWarning, match="is too small to start") as caught:
        best = sweep.run(training)
    # n runs need 2 epochs each, and one of them 4 more to the end: n = 3.
    assert sorted({run_id for run_id, *_ in training.turns}) == ["run_000", "run_001", "run_002"]
    message = [str(entry.message) for entry in caught if "is too small" in str(entry.message)]
    assert message == [
        "A budget of 11 epochs is too small to start the last 3 candidates in the list."
    ]
    assert sum(len(steps) for steps in training.steps.values()) / 4 <= 11
    # Only the winner keeps its checkpoint, because the rest of the budget is too small for others.
    assert [str(path) for path in tmp_path.rglob("*.ckpt")] == [best.checkpoint_path]


def test_only_the_newest_checkpoint_of_a_run_is_kept(tmp_path):
    sweep = make_sweep(tmp_path)
    sweep.run(Training())
    counts = [len(list(folder.glob("*.ckpt"))) for folder in tmp_path.glob("run_*")]
    assert counts == [1] * 6


class ResumableLoader(StatefulLoader):
    """A loader with four batches per epoch that can be resumed within an epoch."""

    def __iter__(self):
        for batch in super().__iter__():
            rows = slice(6 * int(batch), 6 * int(batch) + 6)
            yield INPUTS[rows], LABELS[rows]


def test_a_sweep_can_count_blocks_instead_of_epochs(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    training = Training(max_epochs=5, loaders=lambda: (ResumableLoader(4), loaders()[1]))
    sweep = make_sweep(tmp_path, CANDIDATES[:3], monitor_args={"every_n_train_batches": 3})
    best = sweep.run(training)  # 6 blocks of 3 batches
    assert len(training.steps[best.run_id]) == 18
    assert (best.final_epochs, best.final_estimate) == (6, best.estimate)
    rungs = [line for line in caplog.messages if line.startswith("After ")]
    assert [re.sub(r"\d+ of", "N of", line) for line in rungs[:1]] == [
        "After 2 blocks: N of 3 runs continue to block 3."
    ]
    found = read_logs(sweep.directory, LogKeys(block=3))
    finished = {run.run_id: run.epochs == 6 for run in sweep.ranking()}
    assert dict(zip(found.curves.run_ids, found.is_finished, strict=True)) == finished
    assert finished[best.run_id]
    training.options = {"max_steps": 18}
    weights, steps = training.alone(tmp_path / "alone", best.params)
    assert training.steps[best.run_id] == steps
    saved = torch.load(best.checkpoint_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


def test_a_turn_that_is_trained_without_its_checkpoint_is_an_error(tmp_path):
    sweep, trained = make_sweep(tmp_path), []

    def train_all():
        for turn in sweep:
            trained.append(turn.run_id)
            run = trainer(turn.directory, turn.callbacks)
            run.fit(make_net(**turn.params), *loaders())

    message = (
        "Expected the turn to continue from the run's checkpoint, but `fit` was called without "
        "one. Call `turn.fit(trainer, model, ...)` instead of `trainer.fit`."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        train_all()
    assert len(trained) == len(CANDIDATES) + 1  # the first turns need no checkpoint
    assert {run.epochs for run in sweep.ranking()} == {2}


def test_waiting_runs_take_the_places_of_runs_that_fail(tmp_path):
    # The first four candidates are the best until they fail. At least three runs must finish.
    policy = AdaptivePolicy(max_epochs=6, first=2, finalists=3)
    sweep = door().Sweep(tmp_path, [{"level": float(n)} for n in range(8)], policy=policy)
    turns = []

    def train(turn):
        turns.append((turn.params["level"], turn.stop_epoch))
        level = turn.params["level"]
        if level < 4 and turn.start_epoch:
            raise ValueError("fails after its first turn")
        model = scripted_model(loss=lambda epoch, batch: level + 1 / (epoch + 1))
        turn.fit(trainer(turn.directory, turn.callbacks), model, loader(2))

    assert sweep.run(train).params == {"level": 4.0}
    finished = [run.params["level"] for run in sweep.ranking() if run.epochs == 6]
    assert finished == [4.0, 5.0, 6.0]
    assert (7.0, 3) not in turns


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_run_whose_validation_diverges_does_not_win(tmp_path, mode):
    # Its last finite values are the best, and its training loss is finite.
    sign = 1.0 if mode == "min" else -1.0
    values = {0.5: [0.5, 0.4, 0.3, math.nan, math.inf, math.nan], 0.25: [0.9, 0.8, 0.7] * 2}
    sweep = make_sweep(
        tmp_path, [{"lr": lr} for lr in values], validation="val", validation_mode=mode
    )

    def train(turn):
        pl = lightning()
        net = make_net(width=4, **turn.params)

        class LogValues(pl.Callback):
            def on_validation_epoch_end(self, trainer, pl_module):
                value = sign * values[turn.params["lr"]][trainer.current_epoch]
                pl_module.log("val", value)

        run = trainer(turn.directory, [LogValues(), *turn.callbacks], num_sanity_val_steps=0)
        turn.fit(run, net, *loaders())

    assert sweep.run(train).params == {"lr": 0.25}


def test_each_rung_and_the_end_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    sweep = make_sweep(tmp_path)
    best = sweep.run(Training())
    lines = [entry.message for entry in caplog.records]
    rungs = [line for line in lines if line.startswith("After ")]
    assert [line.split(":")[0] for line in rungs] == [
        "After 2 epochs",
        "After 3 epochs",
        "After 4 epochs",
    ]
    assert any(line.startswith("The sweep is complete: ") and best.run_id in line for line in lines)
    pauses = [line.partition(" with ")[0] for line in lines if " is paused " in line]
    assert pauses[:2] == ["run_000 is paused after 2 epochs", "run_001 is paused after 2 epochs"]
    assert f"{best.run_id} ends after 6 epochs with `sotl_e1` = {best.estimate:.6g}." in lines


def test_an_unlogged_validation_is_an_error(tmp_path):
    sweep = make_sweep(tmp_path, validation="val_ac", validation_mode="max")
    with pytest.raises(RuntimeError, match=r"needs a metric that is missing: 'val_ac' is "):
        sweep.run(Training())


def test_a_larger_budget_names_the_runs_whose_checkpoints_are_gone(tmp_path):
    make_sweep(tmp_path, max_total_epochs=20).run(Training())
    kept = {path.parent.name for path in tmp_path.rglob("*.ckpt")}
    assert len(kept) < 6
    training = Training()
    with pytest.warns(UserWarning, match="would also continue") as caught:
        make_sweep(tmp_path).run(training)
    messages = [str(entry.message) for entry in caught if "would also" in str(entry.message)]
    assert messages[0].endswith(
        "but an earlier start with a smaller budget deleted their checkpoints."
    )
    assert not {run_id for run_id, *_ in training.turns} - kept
