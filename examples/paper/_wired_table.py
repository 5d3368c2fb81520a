"""Builds the table of Fig. 5 from many networks on all cores, and resumes after a kill."""

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
FEATURES = ("parameters", "edges", "longest path")  # the last two are sums over the cells
CURVES = ("train_loss", "val_loss", "val_metric")
PER_RUN = ("final_metric", "final_loss", "features")


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        setting: Setting of its random graphs.
        sample: Number of the network within its setting.
        seed: Seed of graphs, weights and batches.
    """

    setting: Setting
    sample: int
    seed: int

    @property
    def run_id(self) -> str:
        """Setting and sample, such as "WS k=4 p=0.25/2"."""
        return f"{self.setting}/{self.sample}"


def list_jobs(settings: Sequence[Setting], samples: int, seed: int) -> list[Job]:
    """Return the networks of a table; seeds do not depend on the order of training."""
    generator = np.random.default_rng(seed)
    seeds = generator.integers(2**31, size=(len(settings), samples))
    return [
        Job(setting, sample, int(seeds[row, sample]))
        for row, setting in enumerate(settings)
        for sample in range(samples)
    ]


def build(jobs: Sequence[Job], recipe: Recipe, kept: Path, *, workers: int) -> LearningCurves:
    """Train the networks that are not in `kept` yet, and return the table of all networks.

    Args:
        jobs: The networks of the table.
        recipe: The recipe of all networks.
        kept: File with one line per finished network, written when the network finishes.
        workers: Number of processes; 1 trains in this process.

    Raises:
        RuntimeError: If `kept` has networks of another recipe.
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
        for job, result in train_all(missing, recipe, workers):
            rows[job.run_id] = {"run_id": job.run_id, "seed": job.seed, **result}
            file.write(json.dumps(rows[job.run_id]) + "\n")
            file.flush()
            bar.update()
    return to_curves([rows[job.run_id] for job in jobs])


def train_all(
    jobs: Sequence[Job], recipe: Recipe, workers: int
) -> Iterator[tuple[Job, dict[str, object]]]:
    """Train networks, and yield each when it finishes, in any order."""
    if workers == 1:
        prepare()
        for job in jobs:
            yield job, train_network(job.setting, recipe, job.seed)
        return
    # A fork of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, prepare) as pool:
        futures = {pool.submit(train_network, job.setting, recipe, job.seed): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare() -> None:
    """Use one thread, silence Lightning's log lines for each Trainer, and end with the parent.

    Otherwise the workers of a killed parent would wait for work forever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)  # more threads are slower here, and change the last digits
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)  # `sys.exit` would end only this thread


def read_kept(kept: Path, recipe: Recipe) -> dict[str, dict]:
    """Return the finished networks by name, without a last line cut short by a kill.

    Raises:
        RuntimeError: If the file has networks of another recipe.
    """
    if not kept.exists():
        return {}
    header, *lines = kept.read_text(encoding="utf-8").split("\n")
    if header != json.dumps(asdict(recipe)):
        raise RuntimeError(f"{kept.name} has another recipe; delete it, or use another folder.")
    rows = [
        json.loads(line) for line in lines[:-1]
    ]  # the text after the last line end is empty or cut short
    return {row["run_id"]: row for row in rows}


def write_kept(kept: Path, recipe: Recipe, rows: dict[str, dict]) -> None:
    """Write the file again, without a line that was cut short."""
    lines = [json.dumps(asdict(recipe)), *map(json.dumps, rows.values())]
    write_whole(kept, "".join(f"{line}\n" for line in lines).encode())


def to_curves(rows: Sequence[dict]) -> LearningCurves:
    """Return the table of finished networks."""
    fields = {name: np.array([row[name] for row in rows]) for name in (*CURVES, *PER_RUN)}
    return LearningCurves(**fields, metric_mode="max", run_ids=[row["run_id"] for row in rows])


def save(curves: LearningCurves, table: Path, recipe: Recipe, *, command: str) -> None:
    """Write the table, and a JSON file with its origin."""
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
