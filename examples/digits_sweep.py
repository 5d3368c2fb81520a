"""Ranks 16 small networks by their training losses at epoch 6 of 30, trains only the best 3 on.

Claim: the sum of training losses (SoTL-E, here of the last epoch: `sotl_e1`) at an early epoch T
ranks architectures well enough to stop all of them at T and to promote the few best. Each network
is trained on scikit-learn's digits by a real Trainer whose `max_epochs` is the full budget, so that
the cosine schedule is the one of full training; the EarlyRankingStopper ends the run at T. The best
3 go on from the stopper's checkpoints, the validation accuracy at the end picks one of them, and
only the pick sees the test split.

`--verify` then trains all others to the end, too, and says what the early stop has missed. They go
on from their checkpoints as well: promoted runs are bit-equal to runs that were never stopped, so
this is the outcome of full training.

Figure: the training loss of each run over its epochs, the promoted ones in colour, T marked.
Time: about 20 s on 2 CPU cores, 35 s with `--verify`, 8 s with `--smoke`.

    python examples/digits_sweep.py [--seed 0] [--smoke] [--verify] [--output DIR]

Each sweep logs into a new folder, `DIR/digits_sweep/sweep_0` and so on, for
`tensorboard --logdir`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from _classifier import Classifier, make_loader, make_log_folder, quieten
from _digits import Digits, load_splits, seeded
from _sweep_report import Outcome, Run, print_table, save_picture, summarise
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tqdm import tqdm

from lightning_sotl import EarlyRankingStopper, SoTLMonitor

# Some clearly bad, several close to each other; the largest has 140 times the smallest's weights.
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
PROMOTED = 3
BATCH_SIZE = 32


class Sweep:
    """Trains runs to T, goes on with some to the end, and tests them."""

    def __init__(self, digits: Digits, logs: Path, *, stop_epoch: int, budget: int) -> None:
        self.logs, self.stop_epoch, self.budget = logs, stop_epoch, budget
        self._train_loader = make_loader(digits.train, BATCH_SIZE, shuffle=True)
        self._val_loader = make_loader(digits.val, len(digits.val))
        self._test_loader = make_loader(digits.test, len(digits.test))
        self._trainers: dict[str, Trainer] = {}

    def train_to_stop(self, run: Run) -> None:
        """Train a run until the stopper ends it at T."""
        stopper = EarlyRankingStopper(stop_epoch=self.stop_epoch)
        with seeded(run.seed):
            model = Classifier(run.kind, run.widths)
            trainer = self._fit(run, model, stopper)
        run.parameters = sum(parameter.numel() for parameter in model.parameters())
        run.sotl_e1 = stopper.estimate
        run.val_at_stop = float(trainer.callback_metrics["val_acc"])
        run.checkpoint_path = stopper.checkpoint_path

    def train_to_end(self, run: Run) -> None:
        """Go on with a stopped run in a new Trainer; the checkpoint has its random state, too."""
        stopper = EarlyRankingStopper(stop_epoch=self.stop_epoch, promoted=True)
        model = Classifier(run.kind, run.widths)
        trainer = self._fit(run, model, stopper, ckpt_path=run.checkpoint_path)
        run.val_at_end = float(trainer.callback_metrics["val_acc"])

    def test(self, run: Run) -> None:
        """Measure the test accuracy of a run that was trained to the end."""
        trainer = self._trainers[run.name]
        (result,) = trainer.test(trainer.lightning_module, self._test_loader, verbose=False)
        run.test_at_end = result["test_acc"]

    def _fit(
        self,
        run: Run,
        model: Classifier,
        stopper: EarlyRankingStopper,
        ckpt_path: str | None = None,
    ) -> Trainer:
        monitor = SoTLMonitor(window=1)
        trainer = self._trainers[run.name] = Trainer(
            max_epochs=self.budget,
            callbacks=[monitor, stopper],
            logger=TensorBoardLogger(self.logs, name=run.name, version="", default_hp_metric=False),
            log_every_n_steps=len(self._train_loader),
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loaders = self._train_loader, self._val_loader
        trainer.fit(model, *loaders, ckpt_path=ckpt_path, weights_only=True)
        run.epoch_losses = monitor.epoch_losses
        return trainer


def run_sweep(sweep: Sweep, runs: list[Run], *, verify: bool) -> Outcome:
    """Stop all runs at T, train the best to the end and test the pick; with `verify`, all."""
    rest = sweep.budget - sweep.stop_epoch
    continued = len(runs) if verify else PROMOTED
    with tqdm(total=len(runs) * sweep.stop_epoch + continued * rest, unit="epoch") as bar:
        for run in runs:
            bar.set_description(f"to epoch {sweep.stop_epoch}: {run.name}")
            sweep.train_to_stop(run)
            bar.update(sweep.stop_epoch)
        ranking = sorted(runs, key=lambda run: run.sotl_e1)
        for run in ranking[:continued]:
            bar.set_description(f"to the end: {run.name}")
            sweep.train_to_end(run)
            bar.update(rest)
        bar.set_description("trained")
    # Of equally accurate ones the one that is ranked first.
    pick = max(ranking[:PROMOTED], key=lambda run: run.val_at_end)
    for run in ranking if verify else [pick]:
        sweep.test(run)
    return Outcome(ranking, PROMOTED, pick, sweep.stop_epoch, sweep.budget)


def main() -> None:
    """Run the sweep, print the table, save the picture and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout and shuffling")
    parser.add_argument("--smoke", action="store_true", help="4 networks, 2 of 5 epochs")
    parser.add_argument("--verify", action="store_true", help="train all others to the end, too")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output", metavar="DIR"
    )
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)  # more are slower on networks this small

    generator = np.random.default_rng(options.seed)
    chosen = ARCHITECTURES[::5] if options.smoke else ARCHITECTURES
    runs = [Run(kind, widths, seed=int(generator.integers(2**31))) for kind, widths in chosen]
    stop_epoch, budget = (2, 5) if options.smoke else (6, 30)
    logs = make_log_folder(options.output / "digits_sweep")
    sweep = Sweep(load_splits(), logs, stop_epoch=stop_epoch, budget=budget)
    outcome = run_sweep(sweep, runs, verify=options.verify)

    print_table(outcome)
    picture = options.output / "digits_sweep.png"
    save_picture(picture, outcome)
    print(f"\nlogs in {os.path.relpath(logs)}, picture in {os.path.relpath(picture)}\n")
    print(summarise(outcome, verify=options.verify))


if __name__ == "__main__":
    main()
