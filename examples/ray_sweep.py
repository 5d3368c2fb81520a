"""The digits sweep on Ray Tune: 16 networks stop at epoch 6 of 30, and the best 3 are promoted.

Claim: what `digits_sweep.py --stop-at 6` does in one process works unchanged on Ray, on one machine
or many. Each trial reports `sotl_e1` once per epoch, with a checkpoint, and stops at T. One call
then ranks the trials and trains the best 3 to the end as a second sweep. These trials resume from
their checkpoints in Ray's storage, on any machine with free resources. The validation accuracy at
the end picks one of them, and only the pick sees the test split.

With `--pause`, the trials take turns instead, by the policy of `digits_sweep.py`. The best continue
from their checkpoints, and the table is that of `digits_sweep.py`.

Figure: the training loss of each run up to where it was stopped, promoted runs in color.
Time: about 40 s on 2 CPU cores, more than half of it to start Ray and for its workers' imports.

    python examples/ray_sweep.py [--seed 0] [--pause] [--smoke] [--output DIR]
                                 [--address ADDRESS] [--storage PATH]

On a cluster, pass `--address auto` and a `--storage` that all machines can reach, such as a folder
on a shared file system or `s3://bucket/folder`. Install lightning-sotl on each machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Ray's own table would break the progress bar

import numpy as np
import ray
import torch
from _classifier import Classifier, make_loader, make_log_folder, quieten
from _digits import build_network, load_splits, seeded
from _sweep_report import Outcome, Run, print_table, save_picture, summarize
from digits_sweep import ARCHITECTURES, BATCH_SIZE, FINALISTS, PROMOTED
from pytorch_lightning import Trainer
from ray import tune
from tqdm import tqdm

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations.ray import (
    AdaptiveScheduler,
    RayReporter,
    promote,
    starting_point,
)
from lightning_sotl.policies.rungs import final_score, rungs

EXAMPLES = Path(__file__).resolve().parent


def train_trial(config: dict[str, Any]) -> None:
    """Train one network on a worker: to T or to a pause, or to the end."""
    quieten()
    torch.set_num_threads(1)
    digits = load_splits()
    with starting_point() as start, seeded(config["seed"]):
        callbacks = [SoTLMonitor(), RayReporter(metrics=["val_acc"])]
        if config["stop_epoch"] is not None:
            stopper = EarlyRankingStopper(stop_epoch=config["stop_epoch"], promoted=start.promoted)
            callbacks.append(stopper)
        trainer = Trainer(
            max_epochs=config["budget"],
            callbacks=callbacks,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,  # the reporter saves into Ray's storage
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            Classifier(config["kind"], tuple(config["widths"])),
            make_loader(digits.train, BATCH_SIZE, shuffle=True),
            make_loader(digits.val, len(digits.val)),
            ckpt_path=start.checkpoint_path,
            weights_only=True,
        )


class EpochBar(tune.Callback):
    """Shows the epochs that the trials report on a progress bar."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.bar.update()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its callbacks, and a bar cannot be pickled


def run_config(storage: str, name: str, bar: tqdm) -> tune.RunConfig:
    """Return where to store a sweep; a trial is tried again once if its worker dies."""
    return tune.RunConfig(
        name=name,
        storage_path=storage,
        verbose=0,
        callbacks=[EpochBar(bar)],
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        failure_config=tune.FailureConfig(max_failures=1),
    )


def run_sweep(runs: list[Run], storage: str, *, stop_epoch: int, budget: int) -> Outcome:
    """Stop all runs at T, train the best to the end, in parallel, and test the pick."""
    by_name = {run.name: run for run in runs}
    space = param_space(by_name, stop_epoch=stop_epoch, budget=budget)
    epochs = len(runs) * stop_epoch + PROMOTED * (budget - stop_epoch)
    workers = tune.TuneConfig(reuse_actors=True)  # a new one takes seconds to import torch
    with tqdm(total=epochs, unit="epoch", desc=f"to epoch {stop_epoch}") as bar:
        stopped = tune.Tuner(
            train_trial,
            param_space=space,
            tune_config=workers,
            run_config=run_config(storage, "to_stop", bar),
        ).fit()
        bar.set_description("to the end")
        promoted = promote(
            stopped,
            PROMOTED,
            train_trial,
            tune_config=workers,
            run_config=run_config(storage, "to_end", bar),
        )
    ends = results_by_name(promoted)
    for result in (*results_by_name(stopped).values(), *ends.values()):
        run = by_name[result.config["name"]]
        run.epoch_losses |= by_epoch(result, "sotl_e1")
        run.accuracies |= by_epoch(result, "val_acc")
    ranking = sorted(runs, key=lambda run: run.epoch_losses[stop_epoch - 1])
    pick = max(ranking[:PROMOTED], key=lambda run: run.accuracies[budget - 1])
    pick.test_at_end = test_accuracy(ends[pick.name])
    return Outcome(runs, pick, (stop_epoch, budget))


def take_turns(runs: list[Run], storage: str, *, budget: int) -> Outcome:
    """Train all runs in turns, the best to the end, and test the pick."""
    by_name = {run.name: run for run in runs}
    policy = AdaptivePolicy(max_epochs=budget, runs=len(runs), finalists=FINALISTS)
    scheduler = AdaptiveScheduler(policy, validation="val_acc", validation_mode="max", pause=True)
    with tqdm(unit="epoch", desc="in turns") as bar:
        trained = tune.Tuner(
            train_trial,
            param_space=param_space(by_name, stop_epoch=None, budget=budget),
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
            run_config=run_config(storage, "in_turns", bar),
        ).fit()
    ends = results_by_name(trained)
    for name, run in by_name.items():
        run.epoch_losses = by_epoch(ends[name], "sotl_e1")
        run.accuracies = by_epoch(ends[name], "val_acc")
    finished = [run for run in runs if run.epochs == budget]
    pick = min(finished, key=lambda run: final_score([-a for a in run.accuracies.values()]))
    pick.test_at_end = test_accuracy(ends[pick.name])
    return Outcome(runs, pick, rungs(policy.first, budget))


def param_space(by_name: dict[str, Run], *, stop_epoch: int | None, budget: int) -> dict[str, Any]:
    """Return a search space of exactly these runs."""
    return {
        "name": tune.grid_search(list(by_name)),
        "kind": tune.sample_from(lambda config: by_name[config["name"]].kind),
        "widths": tune.sample_from(lambda config: list(by_name[config["name"]].widths)),
        "seed": tune.sample_from(lambda config: by_name[config["name"]].seed),
        "stop_epoch": stop_epoch,
        "budget": budget,
    }


def results_by_name(results: tune.ResultGrid) -> dict[str, tune.Result]:
    """Return name of the run -> result of its trial.

    Raises:
        RuntimeError: If a trial failed.
    """
    if results.errors:
        raise RuntimeError(f"{results.num_errors} trials failed.") from results.errors[0]
    return {results[i].config["name"]: results[i] for i in range(len(results))}


def by_epoch(result: tune.Result, metric: str) -> dict[int, float]:
    """Return epoch (from 0) -> the reported value of a metric."""
    reports = result.metrics_dataframe
    epochs = (int(completed) - 1 for completed in reports["epochs_completed"])
    return dict(zip(epochs, map(float, reports[metric]), strict=True))


def test_accuracy(result: tune.Result) -> float:
    """Return the test accuracy of a promoted trial, from its last checkpoint."""
    digits = load_splits()
    with result.checkpoint.as_directory() as folder:
        path = Path(folder) / "checkpoint.ckpt"
        model = Classifier.load_from_checkpoint(path, weights_only=True)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    (measured,) = trainer.test(model, make_loader(digits.test, len(digits.test)), verbose=False)
    return measured["test_acc"]


def main() -> None:
    """Start or join Ray, run the sweep, print the table and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, dropout and shuffling"
    )
    parser.add_argument("--pause", action="store_true", help="let the trials take turns")
    parser.add_argument("--smoke", action="store_true", help="4 networks, 2 of 5 epochs")
    parser.add_argument("--output", type=Path, default=EXAMPLES / "output", metavar="DIR")
    parser.add_argument(
        "--address", help="address of a running Ray cluster (default: start one here)"
    )
    parser.add_argument(
        "--storage", help="storage that all machines can reach (default: in --output)"
    )
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
    torch.set_num_threads(1)

    generator = np.random.default_rng(options.seed)
    chosen = ARCHITECTURES[::5] if options.smoke else ARCHITECTURES
    runs = [Run(kind, widths, seed=int(generator.integers(2**31))) for kind, widths in chosen]
    for run in runs:
        network = build_network(run.kind, run.widths)
        run.parameters = sum(parameter.numel() for parameter in network.parameters())
    stop_epoch, budget = (2, 5) if options.smoke else (6, 30)
    storage = make_log_folder((options.output / "ray_sweep").absolute())
    ray.init(
        address=options.address or "local",  # never join a cluster that happens to run here
        runtime_env={"working_dir": str(EXAMPLES), "excludes": ["output", "__pycache__"]},
        include_dashboard=None if options.address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    place = options.storage or str(storage)
    if options.pause:
        outcome = take_turns(runs, place, budget=budget)
    else:
        outcome = run_sweep(runs, place, stop_epoch=stop_epoch, budget=budget)
    ray.shutdown()

    print_table(outcome)
    picture = options.output / "ray_sweep.png"
    save_picture(picture, outcome)
    print(f"\nresults in {options.storage or storage}, picture in {picture}\n")
    print(summarize(outcome, verify=False))


if __name__ == "__main__":
    main()
