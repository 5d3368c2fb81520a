"""Runs one sweep of 32 networks four times: under a fixed T, ASHA, and the adaptive policy twice.

Claim: with the adaptive policy, you need not guess T. Runs continue while the order of the runs
still changes, and stop once it has settled. Each sweep trains the same networks from the same seeds
on scikit-learn's digits, with the full budget as `max_epochs`, and uses only training losses:

- fixed T: all runs train to epoch 6 of 30, then `promote` trains the best 3 to the end;
- ASHA: Optuna's SuccessiveHalvingPruner with OptunaReporter;
- adaptive, Optuna: AdaptivePruner instead;
- adaptive, directory: runs that read each other's records, without another tool;
- full (only with `--verify`): all runs train to the end.

The validation accuracy picks one of the runs that reached the end. Only the pick is tested.

Figure: the training losses of each sweep, with a dot where a run was stopped.
Time: about 90 s on one CPU core, 2.5 minutes with `--verify`, 15 s with `--smoke`.

    python examples/adaptive_sweep.py [--seed 0] [--keep 1] [--smoke] [--verify] [--output DIR]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import torch
from _classifier import Classifier, make_loader, make_log_folder, quieten
from _digits import load_splits, seeded
from digits_sweep import ARCHITECTURES
from matplotlib.figure import Figure
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from tqdm import tqdm

from lightning_sotl import (
    AdaptivePolicy,
    EarlyRankingStopper,
    SoTLMonitor,
    Winner,
    plotting,
    promote,
)
from lightning_sotl.integrations.optuna import AdaptivePruner, OptunaReporter

LEARNING_RATES = (1e-3, 1e-2)
PROMOTED = 3


@dataclass
class Sweep:
    """The results of one policy.

    Attributes:
        losses: Network -> training losses of its epochs, in nats.
        accuracies: Network -> validation accuracy, in [0, 1], if it reached the end.
        pick: The network with the best validation accuracy.
        test: Its test accuracy, in [0, 1].
        seconds: Wall time.
    """

    losses: dict[int, list[float]] = field(default_factory=dict)
    accuracies: dict[int, float] = field(default_factory=dict)
    pick: int = -1
    test: float = float("nan")
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """The number of epochs trained."""
        return sum(map(len, self.losses.values()))


class Networks:
    """Trains and tests the networks of the sweep."""

    def __init__(self, folder: Path, *, budget: int, stop_epoch: int, seed: int) -> None:
        self.folder, self.budget, self.stop_epoch, self.seed = folder, budget, stop_epoch, seed
        digits = load_splits()
        self._train = make_loader(digits.train, 32, shuffle=True)
        self._val = make_loader(digits.val, len(digits.val))
        self._test = make_loader(digits.test, len(digits.test))
        chosen = ARCHITECTURES[::5] if stop_epoch == 2 else ARCHITECTURES
        pairs = [(rate, *architecture) for rate in LEARNING_RATES for architecture in chosen]
        # Shuffled, so that the order of the list carries no information.
        self.all = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
        self._models: dict[int, Classifier] = {}

    def name(self, number: int) -> str:
        """Return a network in one word."""
        rate, kind, widths = self.all[number]
        return "-".join([kind, *map(str, widths), f"{rate:g}"])

    def fit(
        self,
        sweep: Sweep,
        policy: str,
        number: int,
        *callbacks: Callback,
        winner: Winner | None = None,
    ) -> None:
        """Train one network until its policy or budget stops it."""
        monitor = SoTLMonitor()
        trainer = Trainer(
            max_epochs=self.budget,
            callbacks=[monitor, *callbacks],
            logger=CSVLogger(self.folder / policy, name=f"run_{number}"),
            log_every_n_steps=len(self._train),
            limit_val_batches=0,  # a search without validation
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        rate, kind, widths = self.all[number]
        with seeded(self.seed + number):
            model = Classifier(kind, widths, learning_rate=rate)
            if winner is None:
                trainer.fit(model, self._train)
            else:
                winner.fit(trainer, model, self._train)
        sweep.losses[number] = list(monitor.epoch_losses.values())
        if len(sweep.losses[number]) == self.budget:
            trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
            (result,) = trainer.validate(model, self._val, verbose=False)
            sweep.accuracies[number] = result["val_acc"]
            self._models[number] = model

    def test(self, sweep: Sweep) -> None:
        """Pick by validation, and test the pick."""
        sweep.pick = max(sweep.accuracies, key=lambda number: sweep.accuracies[number])
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        (result,) = trainer.test(self._models[sweep.pick], self._test, verbose=False)
        sweep.test = result["test_acc"]


def by_fixed_t(networks: Networks, sweep: Sweep) -> None:
    """Stop all runs at T, and promote the best."""
    for number in tqdm(range(len(networks.all)), desc="fixed T", unit="run"):
        networks.fit(sweep, "fixed", number, EarlyRankingStopper(stop_epoch=networks.stop_epoch))

    def train(winner: Winner) -> None:
        # The run ID starts with the folder of the run's logger.
        number = int(winner.run_id.split("/")[0].removeprefix("run_"))
        stopper = EarlyRankingStopper(stop_epoch=networks.stop_epoch, promoted=True)
        networks.fit(sweep, "fixed", number, stopper, winner=winner)

    promote(networks.folder / "fixed", PROMOTED, train)


def by_pruner(networks: Networks, sweep: Sweep, name: str, pruner: BasePruner) -> None:
    """Let the pruner of an Optuna study stop runs."""
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    for number in tqdm(range(len(networks.all)), desc=name, unit="run"):
        trial = study.ask()
        reporter = OptunaReporter(trial)
        networks.fit(sweep, name, number, reporter)
        try:
            study.tell(trial, reporter.finish())
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def by_directory(networks: Networks, sweep: Sweep, policy: AdaptivePolicy) -> None:
    """Let each run decide from the records of the others."""
    directory = networks.folder / "directory"
    for number in tqdm(range(len(networks.all)), desc="adaptive, directory", unit="run"):
        stopper = EarlyRankingStopper(policy=policy, directory=directory)
        networks.fit(sweep, "directory", number, stopper)


def to_the_end(networks: Networks, sweep: Sweep) -> None:
    """Train all runs to the end."""
    for number in tqdm(range(len(networks.all)), desc="full", unit="run"):
        networks.fit(sweep, "full", number)


def measured(networks: Networks, run: Callable[[Networks, Sweep], None]) -> Sweep:
    """Run a sweep, test its pick, and return both."""
    sweep, begun = Sweep(), time.perf_counter()
    run(networks, sweep)
    sweep.seconds = time.perf_counter() - begun
    networks.test(sweep)
    return sweep


def print_table(networks: Networks, sweeps: dict[str, Sweep]) -> None:
    """Print what each policy cost and picked."""
    full = networks.budget * len(networks.all)
    print(f"\n{'policy':20} {'epochs':>6} {'share':>6} {'ended':>6} {'to end':>6}  ", end="")
    print(f"{'pick':22} {'val %':>6} {'test %':>6} {'s':>4}")
    for name, sweep in sweeps.items():
        ends = len(sweep.accuracies)
        print(
            f"{name:20} {sweep.epochs:6} {sweep.epochs / full:6.0%} {len(sweep.losses) - ends:6}"
            f" {ends:6}  {networks.name(sweep.pick):22} {sweep.accuracies[sweep.pick]:6.2%}"
            f" {sweep.test:6.2%} {sweep.seconds:4.0f}"
        )


def save_picture(path: Path, networks: Networks, sweeps: dict[str, Sweep]) -> None:
    """Draw the training losses of each sweep, with a dot where a run was stopped."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharex=True, sharey=True)
    for axes, (name, sweep) in zip(panels, sweeps.items(), strict=True):
        for number, losses in sweep.losses.items():
            color = "#d55e00" if number == sweep.pick else "0.6"
            axes.plot(range(1, len(losses) + 1), losses, color=color, linewidth=1)
            if len(losses) < networks.budget:
                axes.plot(len(losses), losses[-1], ".", color="black", markersize=4)
        axes.set(title=f"{name}: {sweep.epochs} epochs", xlabel="completed epochs", yscale="log")
        axes.title.set_fontsize(8)
    panels[0].set_ylabel("training loss (nats)")
    plotting.save(figure, path)


def main() -> None:
    """Run the sweeps, print the table, save the figure, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, shuffling and order")
    parser.add_argument("--keep", type=float, default=1.0, help="`keep` of the adaptive policy")
    parser.add_argument("--smoke", action="store_true", help="8 networks, 5 epochs")
    parser.add_argument("--verify", action="store_true", help="also train all networks to the end")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output", metavar="DIR"
    )
    options = parser.parse_args()
    quieten()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # more threads are slower on networks this small
    budget, stop_epoch = (5, 2) if options.smoke else (30, 6)
    folder = make_log_folder(options.output / "adaptive_sweep")
    networks = Networks(folder, budget=budget, stop_epoch=stop_epoch, seed=options.seed)
    policy = AdaptivePolicy(max_epochs=budget, keep=options.keep, runs=len(networks.all))
    ways: dict[str, Callable[[Networks, Sweep], None]] = {
        "fixed T": by_fixed_t,
        "ASHA": lambda n, s: by_pruner(n, s, "asha", SuccessiveHalvingPruner()),
        "adaptive, Optuna": lambda n, s: by_pruner(n, s, "pruner", AdaptivePruner(policy)),
        "adaptive, directory": lambda n, s: by_directory(n, s, policy),
    }
    if options.verify:
        ways["full"] = to_the_end
    sweeps = {name: measured(networks, way) for name, way in ways.items()}
    print_table(networks, sweeps)
    picture = options.output / "adaptive_sweep.png"
    save_picture(picture, networks, sweeps)
    print(f"\nlogs in {os.path.relpath(folder)}, picture in {os.path.relpath(picture)}\n")
    print(sentence(sweeps, budget * len(networks.all)))


def sentence(sweeps: dict[str, Sweep], full: int) -> str:
    """Return what the policies cost and picked; `full` is the epochs of full training."""
    parts = [
        f"{name} took {sweep.epochs / full:.0%} of the epochs of full training and picked a "
        f"network with a test accuracy of {sweep.test:.2%}"
        for name, sweep in sweeps.items()
        if name != "adaptive, Optuna"  # in one process, it decides as "adaptive, directory" does
    ]
    return "; ".join(parts) + "."


if __name__ == "__main__":
    main()
