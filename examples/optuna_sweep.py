"""Searches for a digits network with Optuna: stops trials at epoch 6 of 30, promotes the best 3.

Claim: an Optuna study needs no validation pass and no full training to find a good network. The
`max_epochs` of each trial's Trainer is the full budget. Optuna's MedianPruner sees `sotl_e1` after
each epoch and may prune the trial. All other trials end at T as complete trials with the estimate
as their value. The best 3 resume from their checkpoints and train to the end, the validation
accuracy picks one of them, and only the pick sees the test split.

The study is a journal file, and each epoch saves a checkpoint. After a crash or a `kill -9`,
`--resume FOLDER` continues the search. It keeps finished trials, the interrupted trial resumes
under its own number, and no epoch counts twice.

Figure: `sotl_e1` of each trial over its epochs, promoted trials in color, pruned ones dotted.
Time: about 40 s on 2 CPU cores, 10 s with `--smoke`.

    python examples/optuna_sweep.py [--seed 0] [--smoke] [--sampler tpe|evolution|random]
        [--resume FOLDER] [--output DIR]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _classifier import Classifier, make_loader, make_log_folder, quieten
from _digits import load_splits, seeded
from _study_report import count_epochs, print_trials, save_picture, summarize
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from tqdm import tqdm

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, Winner
from lightning_sotl.integrations.optuna import (
    OptunaReporter,
    RegularizedEvolutionSampler,
    promote,
    requeue_interrupted,
)

PROMOTED = 3
SAMPLERS = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
    "evolution": lambda seed: RegularizedEvolutionSampler(
        population_size=10, tournament_size=3, seed=seed
    ),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


class Search:
    """Trains trials to T and winners to the end."""

    def __init__(self, folder: Path, *, stop_epoch: int, budget: int, seed: int) -> None:
        self.folder, self.stop_epoch, self.budget, self.seed = folder, stop_epoch, budget, seed
        digits = load_splits()
        self._train_loader = make_loader(digits.train, 32, shuffle=True)
        self._val_loader = make_loader(digits.val, len(digits.val))
        self._test_loader = make_loader(digits.test, len(digits.test))

    def objective(self, trial: optuna.Trial) -> float:
        """Train a trial to T, from its newest checkpoint if any, and return `sotl_e1` at T."""
        params = {
            "kind": trial.suggest_categorical("kind", ["mlp", "conv"]),
            "width": trial.suggest_categorical("width", [4, 8, 16, 32, 64]),
            "depth": trial.suggest_int("depth", 1, 3),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        }
        reporter = OptunaReporter(trial)
        stopper = EarlyRankingStopper(stop_epoch=self.stop_epoch)
        trainer = self._trainer(str(trial.number), "trial", stopper, reporter)
        newest = self._home(str(trial.number)) / "newest.ckpt"
        with seeded(self.seed + trial.number):
            model = build_model(params)
            resume = newest if newest.exists() else None
            # A search without validation: the estimate comes from the training losses.
            trainer.fit(model, self._train_loader, ckpt_path=resume, weights_only=True)
        return reporter.finish()

    def train_to_end(self, winner: Winner) -> tuple[Trainer, float]:
        """Train a stopped trial to the end; return its Trainer and its validation accuracy."""
        stopper = EarlyRankingStopper(stop_epoch=self.stop_epoch, promoted=True)
        trainer = self._trainer(winner.run_id, "promoted", stopper)
        model = build_model(winner.params)
        winner.fit(trainer, model, self._train_loader)
        (result,) = trainer.validate(model, self._val_loader, verbose=False)
        return trainer, result["val_acc"]

    def test(self, trainer: Trainer) -> float:
        """Return the test accuracy of a network that was trained to the end."""
        (result,) = trainer.test(trainer.lightning_module, self._test_loader, verbose=False)
        return result["test_acc"]

    def _home(self, trial: str) -> Path:
        return self.folder / f"trial_{trial}"

    def _trainer(self, trial: str, logs: str, *callbacks: Callback) -> Trainer:
        home = self._home(trial)
        saves = ModelCheckpoint(home, "newest", enable_version_counter=False)
        return Trainer(
            max_epochs=self.budget,
            callbacks=[SoTLMonitor(), *callbacks, saves],
            logger=CSVLogger(home, name=logs),  # each start is a new version
            log_every_n_steps=len(self._train_loader),
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def build_model(params: dict[str, Any]) -> Classifier:
    """Return the network of a trial."""
    widths = (params["width"],) * params["depth"]
    return Classifier(params["kind"], widths, learning_rate=params["learning_rate"])


def run_trials(search: Search, study: optuna.Study, trials: int) -> None:
    """Run the remaining trials of the study, the interrupted ones first."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    with tqdm(total=trials, initial=len(finished), unit="trial", desc="to T") as bar:
        study.optimize(
            search.objective,
            n_trials=trials - len(finished),
            callbacks=[lambda _study, _trial: bar.update()],
        )


def promote_best(search: Search, study: optuna.Study) -> list[tuple[Winner, tuple[Trainer, float]]]:
    """Train the best trials to the end, with a progress bar."""
    with tqdm(total=PROMOTED, unit="winner", desc="to the end") as bar:

        def train_to_end(winner: Winner) -> tuple[Trainer, float]:
            result = search.train_to_end(winner)
            bar.update()
            return result

        return promote(study, PROMOTED, train_to_end)


def open_study(folder: Path, sampler: str, seed: int, trials: int) -> optuna.Study:
    """Create the study, or open it again after a crash, and print which trials resume."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        study_name="digits",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=max(PROMOTED, trials // 3)),
    )
    # With the same seed, a new sampler would propose the first trials again.
    study.sampler = SAMPLERS[sampler](seed + len(study.trials))
    print(f"study in {os.path.relpath(folder)}; after a crash: --resume {os.path.relpath(folder)}")
    # Only one process works on this study, so every running trial belongs to a dead process.
    for number in requeue_interrupted(study, alone=True):
        print(f"trial {number} resumes")
    sys.stdout.flush()
    return study


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler and of training")
    parser.add_argument("--smoke", action="store_true", help="5 trials, 2 of 5 epochs")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="folder of a killed sweep to resume"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output", metavar="DIR"
    )
    options = parser.parse_args()
    if options.resume and not (options.resume / "study.log").exists():
        parser.error(f"--resume: there is no study.log in '{options.resume}'")
    return options


def main() -> None:
    """Run the study, promote its best trials, and print the results."""
    options = parse_options()
    quieten()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # more threads are slower on networks this small

    folder = options.resume or make_log_folder(options.output / "optuna_sweep")
    trials, stop_epoch, budget = (5, 2, 5) if options.smoke else (30, 6, 30)
    study = open_study(folder, options.sampler, options.seed, trials)
    search = Search(folder, stop_epoch=stop_epoch, budget=budget, seed=options.seed)
    run_trials(search, study, trials)
    promoted = promote_best(search, study)
    pick = int(np.argmax([accuracy for _, (_, accuracy) in promoted]))
    test_accuracy = search.test(promoted[pick][1][0])

    accuracies = {winner.run_id: accuracy for winner, (_, accuracy) in promoted}
    print_trials(study, accuracies, pick=promoted[pick][0].run_id, budget=budget)
    picture = options.output / "optuna_sweep.png"
    save_picture(picture, study, list(accuracies))
    print(f"\nstudy in {os.path.relpath(folder)}, picture in {os.path.relpath(picture)}\n")
    epochs = count_epochs(study) + len(promoted) * (budget - stop_epoch)
    print(summarize(study, stop_epoch, budget, len(promoted), epochs, test_accuracy))


if __name__ == "__main__":
    main()
