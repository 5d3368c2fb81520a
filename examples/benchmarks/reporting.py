"""Measures the cost of reporting to an Optuna study per epoch, with all hooks and the pruner.

For each storage, a Trainer trains 100 epochs of one step each, and the times of all hooks of the
reporter are summed. For comparison, a second trial of the same study makes only the two calls that
are always needed, Optuna's `report` and `should_prune`. The study has 50 finished trials, which the
MedianPruner reads each time. The storages are in a temporary folder on the local disk. With SQLite,
most of the time is disk time, so the load of other programs matters.

Claim: less than 1 ms per epoch in memory, and less than 10 ms with SQLite.
Time: about 20 s, 10 s with `--smoke`.

    python examples/benchmarks/reporting.py [--smoke] [--seed 0]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytorch_lightning as pl
import torch
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_sotl import SoTLMonitor
from lightning_sotl.integrations.optuna import OptunaReporter

HOOKS = ("setup", "on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_train_end")
WHERE = ("in memory", "with a journal file", "with SQLite")


class Net(pl.LightningModule):
    """A single weight whose loss falls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def watch(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function, timed: each call appends its time to `seconds`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - begin)

    return call


class BareReports(pl.Callback):
    """Reports to its own trial with only Optuna's two calls."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trial.report(float(trainer.callback_metrics["sotl_e1"]), trainer.current_epoch)
        self.trial.should_prune()


def add_finished_trials(study: optuna.Study, epochs: int, generator: np.random.Generator) -> None:
    """Add 50 complete but worse trials, which the pruner reads without pruning anything."""
    for _ in range(50):
        values = dict(enumerate(2 + generator.random(epochs)))
        study.add_trial(optuna.create_trial(value=3.0, intermediate_values=values))


def measure(
    storage: BaseStorage | str, epochs: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Return milliseconds per epoch: all hooks, the median report, and Optuna's median calls."""
    study = optuna.create_study(storage=storage, pruner=optuna.pruners.MedianPruner())
    add_finished_trials(study, epochs, generator)
    reporter, bare = OptunaReporter(study.ask()), BareReports(study.ask())
    hooks: dict[str, list[float]] = {name: [] for name in HOOKS}
    alone: list[float] = []
    for name, seconds in hooks.items():
        setattr(reporter, name, watch(getattr(reporter, name), seconds))
    bare.on_train_epoch_end = watch(bare.on_train_epoch_end, alone)  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[SoTLMonitor(), bare, reporter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
    )
    trainer.fit(Net(), DataLoader(TensorDataset(torch.zeros(1, 1))))
    for trial in study.get_trials(deepcopy=False)[-2:]:
        if len(trial.intermediate_values) != epochs:
            raise RuntimeError(f"Expected {epochs} reports of trial {trial.number}, one per epoch.")
    total = sum(map(sum, hooks.values())) / epochs
    reports = hooks["on_train_epoch_end"]
    return 1e3 * total, 1e3 * float(np.median(reports)), 1e3 * float(np.median(alone))


def main() -> None:
    """Measure each storage, and print one table and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="20 epochs instead of 100")
    parser.add_argument("--seed", type=int, default=0, help="seed of the finished trials")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    torch.set_num_threads(1)
    generator = np.random.default_rng(options.seed)
    epochs = 20 if options.smoke else 100
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        storages: dict[str, Callable[[], BaseStorage | str]] = {
            "in memory": InMemoryStorage,
            "journal file": lambda: JournalStorage(JournalFileBackend(str(Path(folder) / "log"))),
            # A URL, because an RDBStorage object does not cache finished trials.
            "SQLite": lambda: f"sqlite:///{folder}/study.db",
        }
        for name, make in tqdm(storages.items(), unit="storage"):
            results[name] = measure(make(), epochs, generator)
    columns = ("all hooks, mean", "report, median", "Optuna alone, median")
    print(f"\n{'ms per epoch':14}" + "".join(f"{column:>22}" for column in columns))
    for name, numbers in results.items():
        print(f"{name:14}" + "".join(f"{number:22.3f}" for number in numbers))
    means = [
        f"{numbers[0]:.2f} ms {where}"
        for where, numbers in zip(WHERE, results.values(), strict=True)
    ]
    print(
        f"\nPer epoch, reporting to a study of 50 finished trials takes {means[0]}, {means[1]} and "
        f"{means[2]} (all hooks, mean of {epochs} epochs)."
    )


if __name__ == "__main__":
    main()
