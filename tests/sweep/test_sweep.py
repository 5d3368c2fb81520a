"""Sweeps whose runs take turns, with real Trainers."""

import json
import logging
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_sotl import AdaptivePolicy
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from tests.support.command_line import run as command
from tests.support.helpers import PACKAGES, StatefulLoader, door, lightning

POLICY = AdaptivePolicy(max_epochs=6, first=2)
CANDIDATES = [{"width": width, "lr": lr} for width in (2, 8) for lr in (0.01, 0.1, 0.5)]
INPUTS = torch.linspace(-1, 1, 96).reshape(24, 4)
LABELS = (INPUTS.sum(dim=1) > 0).long()


def module(package="pytorch_lightning", *, width, lr, steps=None, plateau=False):
    pl = lightning(package)

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": width, "lr": lr})
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(4, width),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.2),
                torch.nn.Linear(width, 2),
            )

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
            if steps is not None:
                steps.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
            return loss

        def validation_step(self, batch, batch_idx):
            correct = self.layers(batch[0]).argmax(dim=1) == batch[1]
            self.log("val_acc", correct.float().mean())
            self.log("val_loss", torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)
            if plateau:
                schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
                return {
                    "optimizer": optimizer,
                    "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
                }
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
            return [optimizer], [schedule]

    return Net()


def loaders():
    data = TensorDataset(INPUTS, LABELS)
    return DataLoader(data, batch_size=6, shuffle=True), DataLoader(data, batch_size=24)


def trainer(folder, callbacks, package="pytorch_lightning", **options):
    return lightning(package).Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        **{
            "max_epochs": 6,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
            **options,
        },
    )


class Training:
    """A `train` function that records each step of each run."""

    def __init__(self, package="pytorch_lightning", *, plateau=False, loaders=loaders, **options):
        self.loaders = loaders
        self.package, self.plateau, self.options = package, plateau, options
        self.steps = {}
        self.turns = []

    def __call__(self, turn):
        self.turns.append((turn.run_id, turn.start_epoch, turn.stop_epoch))
        steps = self.steps.setdefault(turn.run_id, [])
        lightning(self.package).seed_everything(7, verbose=False)
        net = module(self.package, **turn.params, steps=steps, plateau=self.plateau)
        run = trainer(turn.directory, turn.callbacks, self.package, **self.options)
        turn.fit(run, net, *self.loaders())

    def alone(self, folder, params):
        """Return the weights and steps of an uninterrupted run without our callbacks."""
        steps = []
        lightning(self.package).seed_everything(7, verbose=False)
        net = module(self.package, **params, steps=steps, plateau=self.plateau)
        trainer(folder, [], self.package, **self.options).fit(net, *self.loaders())
        return net.state_dict(), steps


def make(folder, candidates=CANDIDATES, package="pytorch_lightning", **options):
    return door(package).Sweep(folder, candidates, policy=POLICY, **options)


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
    sweep = make(tmp_path / "sweep", package=package)
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
    sweep = make(tmp_path, validation="val_acc", validation_mode="max")
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
    expected = make(tmp_path / "whole").run(whole)
    training, turns = Training(), 0

    def breaks(turn):
        nonlocal turns
        turns += 1
        training(turn)
        if turns % 4 == 0:
            raise Broken

    for _ in range(20):
        sweep = make(tmp_path / "broken")
        try:
            best = sweep.run(breaks)
            break
        except Broken:
            continue
    assert (best.run_id, best.estimate) == (expected.run_id, expected.estimate)
    assert training.steps == whole.steps
    assert make(tmp_path / "broken").run(pytest.fail) == best  # nothing is left to train


def test_a_loop_is_the_same_as_run(tmp_path):
    first, second = Training(), Training()
    sweep = make(tmp_path / "loop")
    for turn in sweep:
        first(turn)
    assert sweep.best.run_id == make(tmp_path / "run").run(second).run_id
    assert first.turns == second.turns


def newest_loss(folder):
    (run,) = merge_sessions(read_record(folder / "sotl.jsonl")[0])
    return run.losses[max(run.losses)]


def test_rank_prints_the_order_of_ranking(tmp_path, capsys):
    sweep = make(tmp_path)
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
    make(tmp_path, CANDIDATES[:4]).run(Training())
    training = Training()
    sweep = make(tmp_path, [CANDIDATES[0], CANDIDATES[5]])  # the others stay
    sweep.run(training)
    assert training.turns[0] == ("run_004", 0, 2)
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["candidates"] == [*CANDIDATES[:4], CANDIDATES[5]]


def test_the_same_candidate_counts_once(tmp_path):
    make(tmp_path, [CANDIDATES[0], dict(reversed(CANDIDATES[0].items())), CANDIDATES[1]])
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
        make(tmp_path / "sweep", **{"candidates": CANDIDATES, **options})
    assert not (tmp_path / "sweep/sweep.json").exists()


def test_changed_settings_are_refused_but_a_larger_budget_is_allowed(tmp_path):
    make(tmp_path, max_total_epochs=20)
    make(tmp_path, max_total_epochs=30)
    with pytest.raises(
        ValueError, match=r"^Expected `growth` to be 1\.5, as at the start of the sweep in '.*', "
    ):
        make(tmp_path, growth=2.0)
    with pytest.raises(ValueError, match=r"^Expected `policy` to be \{'max_epochs': 6, .* but got"):
        door().Sweep(tmp_path, CANDIDATES, policy=AdaptivePolicy(max_epochs=8, first=2))


def test_a_candidate_that_raises_is_set_aside_and_tried_again(tmp_path, caplog):
    training, fails = Training(), True

    def train(turn):
        if fails and turn.params == CANDIDATES[1]:
            raise ZeroDivisionError("mine")
        training(turn)

    best = make(tmp_path).run(train)
    assert best is not None
    assert [entry.message for entry in caplog.records if "Set aside" in entry.message] == [
        f"Set aside candidate run_001: {CANDIDATES[1]}"
    ]
    assert "ZeroDivisionError: mine" in caplog.text
    fails = False
    training.turns.clear()
    make(tmp_path).run(train)
    assert training.turns[0] == ("run_001", 0, 2)


def test_a_sweep_raises_if_every_candidate_failed(tmp_path):
    def train(turn):
        raise ZeroDivisionError("mine")

    with pytest.raises(RuntimeError, match="trained to the end") as caught:
        make(tmp_path, CANDIDATES[:2]).run(train)
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
        make(tmp_path).run(lambda turn: None)
    with pytest.raises(RuntimeError, match=message):
        for _ in make(tmp_path):
            pass


def test_a_trainer_that_does_not_fit_the_turn_is_refused(tmp_path):
    turn = next(iter(make(tmp_path)))
    net = module(**turn.params)
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
            module(**turn.params),
            *loaders(),
        )

    candidates = [CANDIDATES[2], CANDIDATES[0]]
    sweep = make(tmp_path, candidates)
    sweep.run(train)
    ended = next(run for run in sweep.ranking() if run.run_id == "run_000")
    assert ended.epochs == 5
    assert Path(ended.checkpoint).exists()


def test_a_budget_that_is_too_small_for_all_starts_the_first_candidates(tmp_path):
    sweep, training = make(tmp_path, max_total_epochs=11), Training()
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
    sweep = make(tmp_path)
    sweep.run(Training())
    for folder in tmp_path.glob("run_*"):
        assert len(list(folder.glob("*.ckpt"))) == 1


class ResumableLoader(StatefulLoader):
    """A loader with four batches per epoch that can be resumed within an epoch."""

    def __iter__(self):
        for batch in super().__iter__():
            rows = slice(6 * int(batch), 6 * int(batch) + 6)
            yield INPUTS[rows], LABELS[rows]


def test_a_sweep_can_count_blocks_instead_of_epochs(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    training = Training(max_epochs=5, loaders=lambda: (ResumableLoader(4), loaders()[1]))
    sweep = make(tmp_path, CANDIDATES[:3], monitor_args={"every_n_train_batches": 3})
    best = sweep.run(training)  # 6 blocks of 3 batches
    assert len(training.steps[best.run_id]) == 18
    assert (best.final_epochs, best.final_estimate) == (6, best.estimate)
    rungs = [line for line in caplog.messages if line.startswith("After ")]
    assert [re.sub(r"\d+ of", "N of", line) for line in rungs[:1]] == [
        "After 2 blocks: N of 3 runs continue to block 3."
    ]
    training.options = {"max_steps": 18}
    weights, steps = training.alone(tmp_path / "alone", best.params)
    assert training.steps[best.run_id] == steps
    saved = torch.load(best.checkpoint_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


def test_each_rung_and_the_end_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    sweep = make(tmp_path)
    best = sweep.run(Training())
    lines = [entry.message for entry in caplog.records]
    rungs = [line for line in lines if line.startswith("After ")]
    assert [line.split(":")[0] for line in rungs] == [
        "After 2 epochs",
        "After 3 epochs",
        "After 4 epochs",
    ]
    assert any(line.startswith("The sweep is complete: ") and best.run_id in line for line in lines)


def test_an_unlogged_validation_is_an_error(tmp_path):
    sweep = make(tmp_path, validation="val_ac", validation_mode="max")
    with pytest.raises(RuntimeError, match=r"needs a metric that is missing: 'val_ac' is "):
        sweep.run(Training())


def test_a_larger_budget_names_the_runs_whose_checkpoints_are_gone(tmp_path):
    make(tmp_path, max_total_epochs=20).run(Training())
    kept = {path.parent.name for path in tmp_path.rglob("*.ckpt")}
    assert len(kept) < 6
    training = Training()
    with pytest.warns(UserWarning, match="would also continue") as caught:
        make(tmp_path).run(training)
    messages = [str(entry.message) for entry in caught if "would also" in str(entry.message)]
    assert messages[0].endswith(
        "but an earlier start with a smaller budget deleted their checkpoints."
    )
    assert not {run_id for run_id, *_ in training.turns} - kept
