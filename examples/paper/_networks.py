"""The networks that the figures of rank correlation rank: from a file to a table, and options.

The unit that is ranked is a network: where a table holds several trainings of one, as
`tables/cells.npz` does, only the first of each counts, so that no network is counted twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl import LearningCurves
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import FINAL_LOSS

HERE = Path(__file__).parent
BUDGET = 200  # epochs of the paper's networks on NAS-Bench-201, to which its T's and E's belong
SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 4, 1 / 2, 3 / 4, 1)


@dataclass(frozen=True)
class Networks:
    """What is ranked.

    Attributes:
        curves: A row a network.
        name: Of the table.
        resamples: How many the intervals are made of.
        seed: Of the resamples and of whatever else is drawn.
        notes: What a reader should know of the rows.
        trainings: All rows of the file, of which `curves` are some.
        columns: What stands beside all rows, in the file `NAME_runs.npz`.
    """

    curves: LearningCurves
    name: str
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()
    trainings: LearningCurves | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def epoch(self, share: float) -> int:
        """Return T for a share of the training, at least 1."""
        return max(1, round(share * self.curves.epochs))

    def window(self, paper: int) -> int:
        """Return E for a window of the paper, which trained for 200 epochs, at least 1."""
        return max(1, round(paper * self.curves.epochs / BUDGET))

    def have(self, *names: str) -> list[str]:
        """Return those of some estimators whose curve the table has."""
        losses, target = self.curves.final_loss, self.curves.final_metric
        # Where the final loss is the target, it agrees with itself, which says nothing.
        tells = losses is not None and not np.array_equal(losses, target, equal_nan=True)
        return [
            name
            for name in names
            if (tells if name == FINAL_LOSS else named_estimator(name).is_in(self.curves))
        ]

    @property
    def caveat(self) -> str:
        """What makes the table's validation metric another thing than the paper's, or nothing."""
        loss, metric = self.curves.val_loss, self.curves.val_metric
        if loss is None or metric is None or not np.array_equal(loss, metric, equal_nan=True):
            return ""
        return "; the validation metric of this table is its validation loss"

    @property
    def bootstrap(self) -> dict[str, int]:
        """How intervals are made."""
        return {"resamples": self.resamples, "seed": self.seed}


def options_of(
    doc: str | None,
    argv: Sequence[str] | None,
    *own: argparse.ArgumentParser,
    table: str = "cells",
) -> argparse.Namespace:
    """Return the options that all figures have, and a figure's own."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], parents=own)
    parser.add_argument(
        "--table",
        type=Path,
        default=HERE / "tables" / f"{table}.npz",
        metavar="FILE",
        help="an .npz of LearningCurves, NAS-Bench-NLP's zip or folder, or NATS-Bench's file",
    )
    parser.add_argument("--dataset", help="of NATS-Bench: cifar10-valid, cifar100, ImageNet16-120")
    parser.add_argument("--trust", action="store_true", help="allow NATS-Bench's pickle")
    parser.add_argument("--networks", type=int, default=5000, help="draw so many of more (5000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn, and of intervals")
    parser.add_argument("--smoke", action="store_true", help="40 networks and 50 resamples")
    parser.add_argument("--output", type=Path, default=HERE.parent / "output", metavar="DIR")
    options = parser.parse_args(argv)
    if not options.table.exists():
        parser.error(f"--table: there is no '{options.table}'")
    return options


def read_networks(options: argparse.Namespace) -> Networks:
    """Read the table and leave out what must not be ranked: further trainings, surplus networks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, or has no target.
    """
    trainings, columns, said = _read(options)
    if trainings.final_metric is None:
        raise ValueError(f"Expected '{options.table}' to have `final_metric` but it is absent.")
    rows = np.arange(trainings.runs)
    if "repeat" in columns:
        rows = np.flatnonzero(columns["repeat"] == 0)
        further = trainings.runs - rows.size
        said += [f"{further} further trainings of the same networks left out."] * (further > 0)
    most = min(options.networks, 40) if options.smoke else options.networks
    if rows.size > most:
        rows = np.sort(np.random.default_rng(options.seed).choice(rows, most, replace=False))
        said.append(f"{most} networks drawn with seed {options.seed}.")
    name = options.table.stem + (f" {options.dataset}" if options.dataset else "")
    return Networks(
        trainings.select(rows),
        name,
        50 if options.smoke else 1000,
        options.seed,
        tuple(said),
        trainings,
        columns,
    )


def _read(
    options: argparse.Namespace,
) -> tuple[LearningCurves, dict[str, NDArray[Any]], list[str]]:
    path = options.table
    if options.dataset:
        from lightning_sotl.curves.nats_bench import read_nats_bench

        return read_nats_bench(path, dataset=options.dataset, trust=options.trust), {}, []
    if path.suffix != ".npz":
        from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp

        curves, said = read_nas_bench_nlp(path)
        return curves, {}, said
    beside = path.with_name(f"{path.stem}_runs.npz")
    columns = {}
    if beside.exists():
        with np.load(beside, allow_pickle=False) as archive:
            columns = dict(archive)
    return LearningCurves.load(path), columns, []
