"""Compares stopping policies on recorded learning curves: which run they pick, and at what cost.

Replays all policies, Optuna's and Ray's own code among them, on the same draws of runs from each
table, with 1 worker and with one worker per run. Prints a table for each data set and for their
average, with and without a cost of a validation pass. Then it prints paired differences between
each adaptive policy and the others, and saves a picture of rank regret against cost. The rows
"picked by training loss" show what a policy picks without any validation.

Claim: an adaptive policy picks better for its cost than any scheduler. A policy dominates another
if it is better in cost or rank regret and not worse in the other.

    python examples/benchmarks/selection.py                        the project's own two tables
    python examples/benchmarks/selection.py a.npz b.npz logs.zip   LearningCurves, NAS-Bench-NLP
    python examples/benchmarks/selection.py --repeats 50 --workers 8 --policy halving ray-asha
    python examples/benchmarks/selection.py --runs 12 --workers 1  a small sweep on one device

Time: about 10 minutes on one core for the two tables, most of it in Optuna's code; 3 s with
`--smoke`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from lightning_sotl import LearningCurves
from lightning_sotl.cli.output import progress_bar, show_replay, show_table, show_warnings
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.plotting import draw_replay, save
from lightning_sotl.replay.experiment import (
    Difference,
    PolicyScores,
    Replay,
    paired_difference,
    replay,
    undominated,
)
from lightning_sotl.replay.policies import all_names, named_policy
from lightning_sotl.replay.recorded import replayable

TABLES = Path(__file__).resolve().parents[1] / "paper" / "tables"
# The other 120 rows of this table are two more seeds of its first 60 networks.
CELLS, NETWORKS = TABLES / "cells.npz", 600
OURS = "adaptive"  # prefix of the policies that are compared with all others
# Policies that are also shown without validations, and the suffix of these rows.
WITHOUT_VALIDATIONS, ENDING = ("full", "adaptive-pause"), ", picked by training loss"


def main() -> None:
    """Replay, print the tables, and save a picture."""
    options = parse()
    begun = time.perf_counter()
    curves = {path.stem: read(path) for path in options.tables}
    for workers in options.workers:
        size = options.runs if workers == 0 else workers
        found = {name: replayed(name, one, size, options) for name, one in curves.items()}
        for cost in options.validation_cost:
            print(f"\n=== {size} workers, a validation pass costs {cost:g} epochs ===")
            show({name: result.at_validation_cost(cost) for name, result in found.items()})
        pooled = average(list(found.values()))
        path = options.output / f"selection_{size}_workers.png"
        save(draw_replay(pooled), path)
        print(f"\nsaved {path}")
    print(f"\n{sentence(pooled)} {time.perf_counter() - begun:.0f} s in all.")


def parse() -> argparse.Namespace:
    """Return the options; 0 in `workers` means one worker per run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", type=Path, default=[CELLS, TABLES / "regularised.npz"])
    parser.add_argument(
        "--policy", nargs="+", metavar="NAME", help="policies to compare (default: all)"
    )
    parser.add_argument("--runs", type=int, default=81)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 0])
    parser.add_argument("--validation-cost", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="few repeats, for a quick check")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parents[1] / "output"
    )
    options = parser.parse_args()
    if options.smoke:
        options.repeats, options.runs, options.workers = 3, 27, [8]
    return options


def read(path: Path) -> LearningCurves:
    """Return a table, from an `.npz` of LearningCurves or from NAS-Bench-NLP's zip."""
    if path.suffix == ".zip":
        return read_nas_bench_nlp(path)[0]
    curves = LearningCurves.load(path)
    return curves.select(range(NETWORKS)) if path == CELLS else curves


def replayed(
    name: str, curves: LearningCurves, workers: int, options: argparse.Namespace
) -> Replay:
    """Return all policies on one table, and some of them also without its validations."""
    recorded = replayable(curves)
    has_validation = recorded.validation is not None
    names = options.policy or all_names(curves.epochs, has_validation=has_validation)
    drawn = {
        "runs": options.runs,
        "repeats": options.repeats,
        "workers": workers,
        "seed": options.seed,
    }
    with progress_bar(f"{name}, {workers} workers", unit="repeat") as progress:
        result = replay(curves, [named_policy(one) for one in names], **drawn, progress=progress)
    sys.stdout.flush()
    show_warnings([f"{name}: {note}" for note in result.notes])
    bare = [one for one in names if one in WITHOUT_VALIDATIONS]
    if not (has_validation and bare):
        return result
    # The same rows, so that the draws are the same.
    losses = LearningCurves(recorded.train, final_metric=recorded.target, final_mode="min")
    blind = replay(losses, [named_policy(one) for one in bare], **drawn)
    added = {f"{one}{ENDING}": scores for one, scores in blind.policies.items()}
    return dataclasses.replace(result, policies={**result.policies, **added})


def average(results: list[Replay]) -> Replay:
    """Return the policies that all tables have, with each repeat averaged over the tables.

    The draws from different tables are independent, so standard errors and paired differences of
    these averages are valid. Metric regrets are averaged even if their units differ.
    """
    first = results[0]
    common = [name for name in first.policies if all(name in one.policies for one in results)]
    policies = {name: averaged([one.policies[name] for one in results]) for name in common}
    left_out = sum(one.left_out for one in results)
    return Replay(first.runs, first.repeats, first.workers, left_out, policies)


def averaged(scores: list[PolicyScores]) -> PolicyScores:
    """Return one policy's mean over the tables."""
    fields = ("trained", "validated", "rank_regret", "metric_regret")
    means = [np.mean([getattr(one, field) for one in scores], axis=0) for field in fields]
    return PolicyScores(*means, scores[0].validation_cost)


def show(found: dict[str, Replay]) -> None:
    """Print the results of each table, their average, and the gains of the adaptive policies."""
    for name, result in found.items():
        print(f"\n{name}")
        show_replay(result)
    pooled = average(list(found.values()))
    if len(found) > 1:
        print(f"\naverage of {len(found)} tables")
        show_replay(pooled)
    compared = [name for name in pooled.policies if not name.endswith(ENDING)]
    for ours in (name for name in compared if name.startswith(OURS)):
        print(f"\n{ours} minus the others, averaged, with 95% intervals of paired differences")
        show_differences(ours, pooled, found)


def show_differences(ours: str, pooled: Replay, found: dict[str, Replay]) -> None:
    """Print how one policy differs from the others, and which tables it loses in both."""
    rows = []
    for other, scores in pooled.policies.items():
        if not other.startswith(OURS):
            cost, regret = differences(pooled.policies[ours], scores)
            beaten = [
                name
                for name, one in found.items()
                if all(gap.low > 0 for gap in differences(one.policies[ours], one.policies[other]))
            ]
            is_dominated = cost.mean > 0 and regret.mean > 0
            rows.append(
                [other, str(cost), str(regret), "yes" if is_dominated else "no", ", ".join(beaten)]
            )
    show_table(
        ["policy", "cost", "rank regret", "dominates it", "clearly on"], rows, left={0, 3, 4}
    )


def differences(ours: PolicyScores, other: PolicyScores) -> tuple[Difference, Difference]:
    """Return how much higher cost and rank regret are than another policy's."""
    return (
        paired_difference(ours.cost, other.cost),
        paired_difference(ours.rank_regret, other.rank_regret),
    )


def sentence(pooled: Replay) -> str:
    """Return one sentence on the policies that no other dominates."""
    means = {name: scores.means() for name, scores in pooled.policies.items()}
    best = sorted(undominated(means), key=lambda name: means[name]["cost"])
    points = [
        f"{name} ({means[name]['cost']:.3f} of full training, rank regret "
        f"{means[name]['rank_regret']:.4f})"
        for name in best
    ]
    return f"With {pooled.workers} workers no policy dominates {', '.join(points)}."


if __name__ == "__main__":
    main()
