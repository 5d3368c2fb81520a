"""Builds the benchmark of one-pass trainings: trains language models and writes two tables.

`main` has 100 runs that differ in architecture, learning rate, warm-up and weight decay, and 15 of
them with 2 more seeds; in `varied` 40 runs differ in dropout and batch size too (`run_plan.py`).
Each run reads the text (`corpus.py`) once, in 40 blocks, by a Lightning Trainer with
`SoTLMonitor(every_n_train_batches=...)`. So L(e) times the bytes of a block is the code length of
text that the model has not seen before, in nats; with dropout, that of a noisy model.

A finished run is a line of `data/runs.jsonl`. The same command continues after a kill, or in a
later session, with the runs that the file lacks; it trains only the one that was in training again.
Start it once a core to use several. With `--most 0` it only writes the tables of the runs so far.

    python examples/language/build_table.py [--most N] [--smoke] [--data FILE] [--tables DIR]
        [--output DIR]

Time: 2 to 3 hours of processor time for all 170 runs; with `--smoke` 10 seconds.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corpus
import numpy as np
from results_file import read_results, train_missing, write_whole
from run_plan import SMOKE, SMOKE_RECIPE, Plan, Recipe, Run, plan_runs

from lightning_sotl import LearningCurves

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "output"
DATA = HERE / "data" / "runs.jsonl"
LOCKS = OUTPUT / "language_locks"
# Chosen in pilot.py, before any correlation was computed.
RECIPE = Recipe(context=128, block_sequences=256)
PLAN = Plan(40, 60, 15, 40, wide_rates=(1.5e-4, 3e-2), close_rates=(1.5e-3, 6e-3))
TABLES = {"main": ("main", "seeds"), "varied": ("varied",)}
FEATURES = (
    "parameters",
    "depth",
    "width",
    "heads",
    "learning_rate",
    "warmup",
    "weight_decay",
    "dropout",
    "batch_size",
    "repeat",
)
CURVES = ("train_loss", "val_loss")
PARTS = ("train", "validation", "test")
PACKAGES = ("lightning-sotl", "pytorch-lightning", "torch", "numpy", corpus.PACKAGE)


def learning_curves(results: list[dict[str, Any]]) -> LearningCurves:
    """Return the results as a table, a row a run, with a block as the epoch.

    The target is the final test loss. A loss that was not finite is `+inf`. `features` are the
    FEATURES. `epoch_seconds` is the processor time of a block's training, without validation.
    """
    losses = {name: np.array([_finite(each[name]) for each in results]) for name in CURVES}
    return LearningCurves(
        losses["train_loss"],
        val_loss=losses["val_loss"],
        final_metric=np.array([_finite([each["test_loss"]])[0] for each in results]),
        features=np.array([[each[name] for name in FEATURES] for each in results]),
        epoch_seconds=np.array(
            [each["seconds"]["train"] / len(each["train_loss"]) for each in results]
        ),
        metric_mode="min",
        run_ids=[each["name"] for each in results],
    )


def run_table(results: list[dict[str, Any]]) -> str:
    """Return the settings, the final test loss and the seconds of each run as CSV."""
    settings = [field.name for field in dataclasses.fields(Run)]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([*settings, "parameters", "test_loss", *(f"{part}_seconds" for part in PARTS)])
    for each in results:
        seconds = [each["seconds"][part] for part in PARTS]
        row = [each[name] for name in settings]
        writer.writerow([*row, each["parameters"], _finite([each["test_loss"]])[0], *seconds])
    return content.getvalue()


def save_tables(
    folder: Path, results: list[dict[str, Any]], recipe: Recipe, runs: list[Run]
) -> list[str]:
    """Write each table that has a run, and return a sentence about each."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = []
    for name, groups in TABLES.items():
        rows = [each for each in results if each["group"] in groups]
        if not rows:
            continue
        planned = sum(run.group in groups for run in runs)
        learning_curves(rows).save(folder / f"{name}.npz")
        write_whole(folder / f"{name}.csv", run_table(rows))
        seconds = {part: round(sum(each["seconds"][part] for each in rows)) for part in PARTS}
        document = {
            "runs": len(rows),
            "planned": planned,
            "features": FEATURES,
            "processor_seconds": seconds,
            "recipe": dataclasses.asdict(recipe),
            "text": {"package": corpus.PACKAGE, "version": corpus.VERSION, "sha256": corpus.SHA256},
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        }
        write_whole(folder / f"{name}.json", f"{json.dumps(document, indent=1)}\n")
        final = np.array([_finite([each["test_loss"]])[0] for each in rows])
        sentences.append(
            f"{name}: {len(rows)} of {planned} runs in {sum(seconds.values())} processor seconds; "
            f"final test losses from {final.min():.3f} to {final.max():.3f} nats a byte (median "
            f"{np.median(final):.3f}). Written to {folder / name}.npz."
        )
    return sentences


def main() -> None:
    """Train the runs that are missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--most", type=int, metavar="N", help="train at most N runs")
    parser.add_argument("--smoke", action="store_true", help="2 tiny runs")
    parser.add_argument("--data", type=Path, metavar="FILE", help="default: data/runs.jsonl")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="default: tables/")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="for locks")
    options = parser.parse_args()
    recipe, runs = (SMOKE_RECIPE, plan_runs(SMOKE)) if options.smoke else (RECIPE, plan_runs(PLAN))
    smoke = options.output / "language_smoke"
    data = options.data or (smoke / "runs.jsonl" if options.smoke else DATA)
    tables = options.tables or (smoke / "tables" if options.smoke else HERE / "tables")
    done = len(read_results(data, recipe, runs))
    print(f"{done} of {len(runs)} runs are finished.", flush=True)
    if options.most != 0:
        # Here, because the tables alone need neither torch nor Lightning.
        import torch
        from training import quieten, train_run

        torch.set_num_threads(1)
        quieten()
        for result in train_missing(
            data,
            recipe,
            runs,
            train=train_run,
            locks=options.output / LOCKS.name,
            most=options.most,
        ):
            seconds = sum(result["seconds"].values())
            print(f"{result['name']}: {result['test_loss']} nats in {seconds:.0f} s", flush=True)
    for sentence in save_tables(tables, read_results(data, recipe, runs), recipe, runs):
        print(sentence)


def _finite(losses: list[float | None]) -> list[float]:
    return [np.inf if loss is None else loss for loss in losses]


if __name__ == "__main__":
    main()
