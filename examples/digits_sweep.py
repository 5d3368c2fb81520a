"""Trains 16 small networks in turns, pauses most of them early, and trains the best to the end.

Claim: one process picks a network about as good as full training does, for part of the epochs.
Each network trains on scikit-learn's digits. The `max_epochs` of its Trainer is the full budget, so
the cosine schedule is that of full training. `Sweep` trains all networks to the first rung and
pauses them. The adaptive policy then decides from training losses and validation accuracies which
networks continue to the next rung, and so on. Of the networks trained to the end, the sweep picks
the one with the best mean of its last three validation accuracies. Only the pick sees the test
split.

The sweep's state is in its directory. Run the same command again to resume a killed sweep, or to
print the results of a complete one.

`--stop-at T` uses a fixed rule instead: it stops all runs at epoch T, trains the best 3 by training
loss (`sotl_e1`) to the end, and picks one by its last validation accuracy. Each start is a new
sweep in a new folder, which `tensorboard --logdir` can show.

`--verify` also trains all other networks to the end and reports what the sweep missed. They resume
from their checkpoints and are bit-equal to runs that were never stopped, so this is the outcome of
full training.

Figure: the training loss of each run up to where it was paused, with the rungs.
Time: about 35 s on 2 CPU cores, 50 s with `--verify`, 8 s with `--smoke`.

    python examples/digits_sweep.py [--seed 0] [--stop-at T] [--smoke] [--verify] [--output DIR]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _classifier import Classifier, make_loader, make_log_folder, quieten
from _digits import Digits, build_network, load_splits, seeded
from _sweep_report import Outcome, Run, print_table, save_picture, summarize
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tqdm import tqdm

from lightning_sotl import (
    AdaptivePolicy,
    EarlyRankingStopper,
    LearningCurves,
    SoTLMonitor,
    Sweep,
)
from lightning_sotl.sweep.turn import Turn

# Some are clearly bad, and several are close. Their numbers of weights differ by a factor of 140.
ARCHITECTURES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("mlp", ()),
    ("mlp", (8,)),
    ("mlp", (32,)),
    ("mlp", (128,)),
    ("mlp", (512,)),
    ("mlp", (32, 32)),
    ("mlp", (128, 128)),
    ("mlp", (256, 256)),
    ("mlp", (8, 8, 8, 8)),
    ("mlp", (64, 64, 64, 64)),
    ("conv", (4,)),
    ("conv", (16,)),
    ("conv", (64,)),
    ("conv", (8, 16)),
    ("conv", (16, 32)),
    ("conv", (32, 64)),
)
FINALISTS = 3  # least number of runs to train to the end, if runs take turns
PROMOTED = 3  # runs to train to the end after a fixed T
BATCH_SIZE = 32


class Training:
    """Trains and tests the networks on the digits."""

    def __init__(self, digits: Digits, *, budget: int) -> None:
        self.budget = budget
        self.train_loader = make_loader(digits.train, BATCH_SIZE, shuffle=True)
        self.loaders = self.train_loader, make_loader(digits.val, len(digits.val))
        self._test_loader = make_loader(digits.test, len(digits.test))

    def __call__(self, turn: Turn) -> None:
        """Train one run from where it was paused to the next rung."""
        params = turn.params
        with seeded(params["seed"]):  # a resumed run has its random state from the checkpoint
            model = Classifier(params["kind"], tuple(params["widths"]))
            turn.fit(self.trainer(*turn.callbacks), model, *self.loaders)

    def train(self, run: Run, stopper: EarlyRankingStopper, logs: Path | None = None) -> Classifier:
        """Train a run, from its checkpoint if any, until its stopper or its budget ends it."""
        monitor = SoTLMonitor(record=logs is not None)
        logger = None
        if logs is not None:
            logger = TensorBoardLogger(logs, name=run.name, version="", default_hp_metric=False)
        trainer = self.trainer(monitor, stopper, logger=logger)
        with seeded(run.seed):
            model = Classifier(run.kind, run.widths)
            trainer.fit(model, *self.loaders, ckpt_path=run.checkpoint_path, weights_only=True)
        if logs is not None:
            run.epoch_losses = monitor.epoch_losses
            run.accuracies[run.epochs - 1] = float(trainer.callback_metrics["val_acc"])
            run.checkpoint_path = stopper.checkpoint_path
            if run.epochs == self.budget:
                run.checkpoint_path = trainer.checkpoint_callback.best_model_path
        return model

    def test(self, run: Run) -> None:
        """Measure the test accuracy at the end of training; finish a stopped run first."""
        if run.epochs == self.budget:
            model = Classifier.load_from_checkpoint(run.checkpoint_path, weights_only=True)
        else:
            model = self.train(run, EarlyRankingStopper(stop_epoch=run.epochs, promoted=True))
        (result,) = self.trainer().test(model, self._test_loader, verbose=False)
        run.test_at_end = result["test_acc"]

    def trainer(self, *callbacks: Any, logger: TensorBoardLogger | None = None) -> Trainer:
        """Return a Trainer with the full budget."""
        return Trainer(
            max_epochs=self.budget,
            callbacks=list(callbacks),
            logger=logger or False,
            log_every_n_steps=len(self.train_loader),
            accelerator="cpu",
            devices=1,
            enable_checkpointing=logger is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def take_turns(training: Training, runs: list[Run], folder: Path) -> Outcome:
    """Train all runs in turns, then read their curves from the records."""
    candidates = [{"kind": run.kind, "widths": list(run.widths), "seed": run.seed} for run in runs]
    sweep = Sweep(
        folder,
        candidates,
        policy=AdaptivePolicy(max_epochs=training.budget, finalists=FINALISTS),
        validation="val_acc",
        validation_mode="max",
    )
    best = sweep.run(training)
    curves = LearningCurves.from_logs(folder, val_metric="val_acc")
    by_id = dict(zip((f"run_{number:03d}" for number in range(len(runs))), runs, strict=True))
    for row, run_id in enumerate(curves.run_ids):
        run = by_id[run_id]
        epochs = int(np.isfinite(curves.train_loss[row]).sum())
        run.epoch_losses = dict(enumerate(curves.train_loss[row, :epochs].tolist()))
        run.accuracies = dict(enumerate(curves.val_metric[row, :epochs].tolist()))
        run.checkpoint_path = curves.checkpoints[row]
    return Outcome(runs, by_id[best.run_id], sweep.rungs)


def stop_at(training: Training, runs: list[Run], folder: Path, stop_epoch: int) -> Outcome:
    """Stop all runs at a fixed T, and train the best to the end."""
    rest = training.budget - stop_epoch
    with tqdm(total=len(runs) * stop_epoch + PROMOTED * rest, unit="epoch") as bar:
        for run in runs:
            bar.set_description(f"to epoch {stop_epoch}: {run.name}")
            training.train(run, EarlyRankingStopper(stop_epoch=stop_epoch), folder)
            bar.update(stop_epoch)
        promoted = sorted(runs, key=lambda run: run.epoch_losses[stop_epoch - 1])[:PROMOTED]
        for run in promoted:
            bar.set_description(f"to the end: {run.name}")
            stopper = EarlyRankingStopper(stop_epoch=stop_epoch, promoted=True)
            training.train(run, stopper, folder)
            bar.update(rest)
        bar.set_description("trained")
    # Among equally accurate runs, `max` returns the one that ranked first at T.
    pick = max(promoted, key=lambda run: run.accuracies[training.budget - 1])
    return Outcome(runs, pick, (stop_epoch, training.budget))


def main() -> None:
    """Run the sweep, print the table, save the picture and report its cost and pick."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, dropout and shuffling"
    )
    parser.add_argument("--stop-at", type=int, metavar="T", help="stop all runs at epoch T instead")
    parser.add_argument("--smoke", action="store_true", help="4 networks, 5 epochs")
    parser.add_argument("--verify", action="store_true", help="also train all others to the end")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output", metavar="DIR"
    )
    options = parser.parse_args()
    chosen, budget = (ARCHITECTURES[::5], 5) if options.smoke else (ARCHITECTURES, 30)
    if options.stop_at is not None and not 1 <= options.stop_at < budget:
        parser.error(f"Expected T to be from 1 to {budget - 1} but got {options.stop_at}.")
    quieten()
    torch.set_num_threads(1)  # more threads are slower on networks this small

    generator = np.random.default_rng(options.seed)
    runs = [Run(kind, widths, seed=int(generator.integers(2**31))) for kind, widths in chosen]
    for run in runs:
        network = build_network(run.kind, run.widths)
        run.parameters = sum(parameter.numel() for parameter in network.parameters())
    training = Training(load_splits(), budget=budget)
    parent = options.output / "digits_sweep"
    if options.stop_at is None:
        folder = parent / f"seed_{options.seed}{'_smoke' if options.smoke else ''}"
        outcome = take_turns(training, runs, folder)
    else:
        folder = make_log_folder(parent / f"stop_at_{options.stop_at}")
        outcome = stop_at(training, runs, folder, options.stop_at)
    for run in tqdm(runs, desc="verify", unit="run") if options.verify else [outcome.pick]:
        training.test(run)

    print_table(outcome)
    picture = options.output / "digits_sweep.png"
    save_picture(picture, outcome)
    print(f"\nsweep in {os.path.relpath(folder)}, picture in {os.path.relpath(picture)}\n")
    print(summarize(outcome, verify=options.verify))


if __name__ == "__main__":
    main()
