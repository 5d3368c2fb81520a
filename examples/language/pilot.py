"""Chooses the length of a run and the learning rates of the benchmark.

The rule was written and committed before any pilot was run. It looks at seconds and at final test
losses, and at no correlation.

1. Length. 10 drawn runs of each candidate train one block with its validation. The expected time of
   a run is the mean over the 10, times 40, plus the test's. Of the candidates below 50 s of
   processor time, take the one with the most text.
2. Learning rates. Three reference networks train 10 blocks with each of 5 learning rates. The
   center c is the rate with the lowest test loss, averaged over the three. If c is the lowest or
   highest of the five, the grid is extended by the same factor and the new rate trained. The close
   range is c/2 to 2c, the wide range c/20 to 10c.
3. Spread. The first 5 close runs of the benchmark train to the end, each with two of its three
   seeds. The benchmark is accepted if the standard deviation of the final test losses over the 5
   runs (means of two seeds) is at least 3 times the pooled standard deviation over seeds. Otherwise
   widths go up by a factor of 2, and the pilot starts again. These 10 runs are runs of the
   benchmark, so `build_table.py` does not train them again.

The rule named 256 sequences a block, 1.3 MB of text (48 s a run; 53 s with 288 sequences), and a
center of 3e-3, so 1.5e-3 to 6e-3 and 1.5e-4 to 3e-2. The transformers alone have their best rate
there too, the GRU at 3e-2. The spread over runs is 6.3 times that over seeds, mostly because the
two GRUs are better than the three transformers: the rule does not ask for a spread within a family.

    python examples/language/pilot.py --step 1 | 2 | 3 [--output FILE]

Time: 2, 4 and 8 minutes of processor time. Each step writes what it found into `tables/pilot.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_table import DATA, HERE, LOCKS, PLAN, RECIPE
from results_file import read_results, train_missing, write_whole
from run_plan import Plan, Recipe, Run, draw_runs, plan_runs
from training import quieten, train_run

CANDIDATES = {
    f"{sequences}-sequences": Recipe(context=128, block_sequences=sequences)
    for sequences in (288, 256, 192, 128)
}
MOST_SECONDS = 50.0
DRAWN = 10
TIMING = Plan(0, DRAWN, 0, 0, wide_rates=(1e-3, 1e-3), close_rates=(1e-3, 1e-3))
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SHORT = 10  # blocks
SPREAD_RUNS = 5
LEAST_RATIO = 3.0
SEED = 1000  # of step 1's draws; the benchmark's is 0


def measure_seconds(recipe: Recipe) -> list[float]:
    """Return the expected seconds of processor time of drawn runs, from their first blocks."""
    expected = []
    for run in draw_runs("close", TIMING, DRAWN, SEED):
        seconds = train_run(dataclasses.replace(recipe, blocks=1), run)["seconds"]
        per_block = seconds["train"] + seconds["validation"]
        expected.append(recipe.blocks * per_block + seconds["test"])
    return expected


def choose_length(expected: dict[str, float]) -> str:
    """Return the candidate with the most text of those that are fast enough.

    Raises:
        ValueError: If none is.
    """
    fast = [name for name, seconds in expected.items() if seconds <= MOST_SECONDS]
    if not fast:
        raise ValueError(f"Expected a candidate below {MOST_SECONDS} s but got {expected}.")
    return max(fast, key=lambda name: CANDIDATES[name].block_sequences)


def reference_runs(rate: float) -> list[Run]:
    """Return the three networks that choose the learning rates."""
    run = Run("", "pilot", "transformer", 2, 64, 2, rate, 0.05, 0.01, "pilot", 0, SEED)
    return [
        run,
        dataclasses.replace(run, depth=4, width=96, heads=4),
        dataclasses.replace(run, architecture="gru", depth=1, width=96, heads=0),
    ]


def scan_rates(recipe: Recipe) -> tuple[dict[float, list[float]], float]:
    """Return the test losses of the reference networks by learning rate, and the best rate."""
    short = dataclasses.replace(recipe, blocks=SHORT)
    losses: dict[float, list[float]] = {}
    todo = list(RATES)
    while todo:
        for rate in todo:
            results = [train_run(short, run)["test_loss"] for run in reference_runs(rate)]
            losses[rate] = [np.inf if loss is None else loss for loss in results]
            print(f"learning rate {rate:g}: {losses[rate]}", flush=True)
        best = min(losses, key=lambda rate: float(np.mean(losses[rate])))
        ends = {min(losses): best / 3, max(losses): best * 3}
        todo = [ends[best]] if best in ends else []
    return losses, best


def compare_spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the standard deviations of the final test losses over runs and over seeds."""
    losses: dict[str, list[float]] = {}
    for result in results:
        losses.setdefault(result["name"].partition("-seed")[0], []).append(result["test_loss"])
    table = np.array(list(losses.values()), dtype=float)
    over_runs = float(table.mean(axis=1).std(ddof=1))
    over_seeds = float(np.sqrt(table.var(axis=1, ddof=1).mean()))
    return {
        "test_losses": losses,
        "over_runs": over_runs,
        "over_seeds": over_seeds,
        "ratio": over_runs / over_seeds,
        "accepted": over_runs >= LEAST_RATIO * over_seeds,
    }


def spread_runs() -> list[Run]:
    """Return the first close runs of the benchmark, each with its first two seeds."""
    first = {run.name for run in draw_runs("close", PLAN, SPREAD_RUNS, 0)}
    return [
        run for run in plan_runs(PLAN) if run.name.partition("-seed")[0] in first and run.repeat < 2
    ]


def run_step(step: int) -> dict[str, Any]:
    """Train what a step needs, and return what it found."""
    if step == 1:
        seconds = {name: measure_seconds(recipe) for name, recipe in CANDIDATES.items()}
        expected = {name: float(np.mean(each)) for name, each in seconds.items()}
        return {"expected_seconds": expected, "chosen": choose_length(expected)}
    if step == 2:
        losses, best = scan_rates(RECIPE)
        return {"test_losses": losses, "center": best}
    runs = spread_runs()
    for result in train_missing(DATA, RECIPE, runs, train=train_run, locks=LOCKS):
        print(f"{result['name']}: final test loss {result['test_loss']}", flush=True)
    names = {run.name for run in runs}
    every = read_results(DATA, RECIPE, plan_runs(PLAN))
    return compare_spread([result for result in every if result["name"] in names])


def main() -> None:
    """Run one step, and write and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--output", type=Path, default=HERE / "tables" / "pilot.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    found = run_step(options.step)
    path = options.output
    document = json.loads(path.read_text()) if path.exists() else {}
    document[f"step {options.step}"] = found
    write_whole(path, f"{json.dumps(document, indent=1)}\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
