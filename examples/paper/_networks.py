"""Reads the networks that the figures rank, and the options that all figures share.

The unit is a network. If a table has several trainings of a network, as `tables/cells.npz` does,
only the first is ranked, so that no network counts twice.
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
BUDGET = 200  # epochs of the paper's networks on NAS-Bench-201; its T and E refer to these
SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 4, 1 / 2, 3 / 4, 1)


@dataclass(frozen=True)
class Networks:
    """The networks to rank.

    Attributes:
        curves: One row per network.
        name: The name of the table.
        resamples: The number of bootstrap resamples of each interval.
        seed: The seed of the resamples and of all other random draws.
        notes: Sentences on rows that were left out.
        trainings: All rows of the file, including those left out of `curves`.
        columns: The columns of `NAME_runs.npz`, one entry per row of `trainings`.
    """

    curves: LearningCurves
    name: str
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()
    trainings: LearningCurves | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def epoch(self, share: float) -> int:
        """Return the T at a share of training, at least 1."""
        return max(1, round(share * self.curves.epochs))

    def window(self, paper: int) -> int:
        """Return a window E of the paper, scaled from its 200 epochs to this table; at least 1."""
        return max(1, round(paper * self.curves.epochs / BUDGET))

    def have(self, *names: str) -> list[str]:
        """Return the named estimators that can be computed from this table."""
        losses, target = self.curves.final_loss, self.curves.final_metric
        # A final loss that is itself the target would agree perfectly.
        is_useful = losses is not None and not np.array_equal(losses, target, equal_nan=True)
        return [
            name
            for name in names
            if (is_useful if name == FINAL_LOSS else named_estimator(name).is_in(self.curves))
        ]

    @property
    def caveat(self) -> str:
        """A note if the table's validation metric is its validation loss, or an empty string."""
        loss, metric = self.curves.val_loss, self.curves.val_metric
        if loss is None or metric is None or not np.array_equal(loss, metric, equal_nan=True):
            return ""
        return "; the validation metric of this table is its validation loss"

    @property
    def bootstrap(self) -> dict[str, int]:
        """The options of the bootstrap."""
        return {"resamples": self.resamples, "seed": self.seed}


def options_of(
    doc: str | None,
    argv: Sequence[str] | None,
    *own: argparse.ArgumentParser,
    table: str = "cells",
) -> argparse.Namespace:
    """Parse the options that all figures share, and those of one figure."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], parents=own)
    parser.add_argument(
        "--table",
        type=Path,
        default=HERE / "tables" / f"{table}.npz",
        metavar="FILE",
        help="an .npz of LearningCurves, NAS-Bench-NLP's zip or folder, or NATS-Bench's file",
    )
    parser.add_argument(
        "--dataset", help="data set of NATS-Bench: cifar10-valid, cifar100 or ImageNet16-120"
    )
    parser.add_argument("--trust", action="store_true", help="allow NATS-Bench's pickle")
    parser.add_argument(
        "--networks", type=int, default=5000, help="draw this many if the table has more (5000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random draws and intervals")
    parser.add_argument("--smoke", action="store_true", help="40 networks and 50 resamples")
    parser.add_argument("--output", type=Path, default=HERE.parent / "output", metavar="DIR")
    options = parser.parse_args(argv)
    if not options.table.exists():
        parser.error(f"--table: there is no '{options.table}'")
    return options


def read_networks(options: argparse.Namespace) -> Networks:
    """Read the table, and leave out repeated trainings and surplus networks.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a table, or the table has no target.
    """
    trainings, columns, notes = _read(options)
    if trainings.final_metric is None:
        raise ValueError(f"Expected '{options.table}' to have `final_metric` but it is absent.")
    rows = np.arange(trainings.runs)
    if "repeat" in columns:
        rows = np.flatnonzero(columns["repeat"] == 0)
        further = trainings.runs - rows.size
        notes += [f"{further} further trainings of the same networks left out."] * (further > 0)
    most = min(options.networks, 40) if options.smoke else options.networks
    if rows.size > most:
        rows = np.sort(np.random.default_rng(options.seed).choice(rows, most, replace=False))
        notes.append(f"{most} networks drawn with seed {options.seed}.")
    name = options.table.stem + (f" {options.dataset}" if options.dataset else "")
    return Networks(
        trainings.select(rows),
        name,
        50 if options.smoke else 1000,
        options.seed,
        tuple(notes),
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

        curves, notes = read_nas_bench_nlp(path)
        return curves, {}, notes
    path_of_columns = path.with_name(f"{path.stem}_runs.npz")
    columns = {}
    if path_of_columns.exists():
        with np.load(path_of_columns, allow_pickle=False) as archive:
            columns = dict(archive)
    return LearningCurves.load(path), columns, []
