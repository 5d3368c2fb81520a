"""Builds the table of Fig. 5: many networks on all cores, going on where a kill has stopped it."""

from __future__ import annotations

import datetime
import json
import logging
import multiprocessing.connection
import os
import platform
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from _random_graphs import Setting
from _wired_networks import Recipe, train_network
from run_pool import write_whole
from tqdm import tqdm

from lightning_sotl import LearningCurves
from lightning_sotl import __version__ as own_version

PACKAGES = ("networkx", "numpy", "pytorch-lightning", "scikit-learn", "torch")
FEATURES = ("parameters", "edges", "longest path")  # the two latter summed over the cells
CURVES = ("train_loss", "val_loss", "val_metric")
PER_RUN = ("final_metric", "final_loss", "features")


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        setting: Of its random graphs.
        sample: Its number among the networks of the setting.
        seed: Of graphs, weights and batches.
    """

    setting: Setting
    sample: int
    seed: int

    @property
    def run_id(self) -> str:
        """Setting and sample, as "WS k=4 p=0.25/2"."""
        return f"{self.setting}/{self.sample}"


def list_jobs(settings: Sequence[Setting], samples: int, seed: int) -> list[Job]:
    """Return the networks of a table; a job's seed does not depend on who trains it, or when."""
    generator = np.random.default_rng(seed)
    seeds = generator.integers(2**31, size=(len(settings), samples))
    return [
        Job(setting, sample, int(seeds[row, sample]))
        for row, setting in enumerate(settings)
        for sample in range(samples)
    ]


def build(jobs: Sequence[Job], recipe: Recipe, kept: Path, *, workers: int) -> LearningCurves:
    """Train all networks that `kept` does not have yet, and return the table of all.

    Args:
        jobs: What to train.
        recipe: How.
        kept: A file of one line a finished network, written as they finish.
        workers: Processes; 1 trains in this one.

    Raises:
        RuntimeError: If `kept` is of another recipe.
    """
    seeds = {job.run_id: job.seed for job in jobs}
    old = read_kept(kept, recipe)
    rows = {name: row for name, row in old.items() if row["seed"] == seeds.get(name)}
    write_kept(kept, recipe, rows)
    missing = [job for job in jobs if job.run_id not in rows]
    with (
        kept.open("a", encoding="utf-8") as file,
        tqdm(total=len(jobs), initial=len(rows), unit="network") as bar,
    ):
        for job, found in train_all(missing, recipe, workers):
            rows[job.run_id] = {"run_id": job.run_id, "seed": job.seed, **found}
            file.write(json.dumps(rows[job.run_id]) + "\n")
            file.flush()
            bar.update()
    return to_curves([rows[job.run_id] for job in jobs])


def train_all(
    jobs: Sequence[Job], recipe: Recipe, workers: int
) -> Iterator[tuple[Job, dict[str, object]]]:
    """Train networks and yield each as it is finished, in any order."""
    if workers == 1:
        prepare()
        for job in jobs:
            yield job, train_network(job.setting, recipe, job.seed)
        return
    # Spawned: a fork of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, prepare) as pool:
        futures = {pool.submit(train_network, job.setting, recipe, job.seed): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare() -> None:
    """Take one thread, silence Lightning's notes on each of many Trainers, and end with the parent.

    Without the last, the workers of a parent that was killed would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)  # more are slower on networks this small, and change the last digits
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)  # not `sys.exit`, which would end this thread only


def read_kept(kept: Path, recipe: Recipe) -> dict[str, dict]:
    """Return the finished networks by name; a last line that a kill has torn is none.

    Raises:
        RuntimeError: If they are of another recipe.
    """
    if not kept.exists():
        return {}
    header, *lines = kept.read_text(encoding="utf-8").split("\n")
    if header != json.dumps(asdict(recipe)):
        raise RuntimeError(f"{kept.name} is of another recipe; delete it, or take another folder.")
    rows = [json.loads(line) for line in lines[:-1]]  # behind the last line end is nothing whole
    return {row["run_id"]: row for row in rows}


def write_kept(kept: Path, recipe: Recipe, rows: dict[str, dict]) -> None:
    """Write the file anew, so that the next line begins on a line of its own."""
    lines = [json.dumps(asdict(recipe)), *map(json.dumps, rows.values())]
    write_whole(kept, "".join(f"{line}\n" for line in lines).encode())


def to_curves(rows: Sequence[dict]) -> LearningCurves:
    """Return the table of finished networks."""
    fields = {name: np.array([row[name] for row in rows]) for name in (*CURVES, *PER_RUN)}
    return LearningCurves(**fields, metric_mode="max", run_ids=[row["run_id"] for row in rows])


def save(curves: LearningCurves, table: Path, recipe: Recipe, *, command: str) -> None:
    """Write the table, and beside it as JSON what has made it."""
    table.parent.mkdir(parents=True, exist_ok=True)
    curves.save(table)
    facts = {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "recipe": asdict(recipe),
        "features": FEATURES,
        "runs": curves.runs,
        "versions": {
            "python": platform.python_version(),
            "lightning-sotl": own_version,
            **{name: version(name) for name in PACKAGES},
        },
    }
    write_whole(table.with_suffix(".json"), f"{json.dumps(facts, indent=2)}\n".encode())
