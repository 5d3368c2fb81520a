"""What the analyses share: the sets of runs, scores, the cost of validation, and options."""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sotl import LearningCurves
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.plotting import save

HERE = Path(__file__).parent
LEAST = 5  # runs of a set or of a group
NAMES = {
    "sotl-e1": "SoTL-E1",
    "sotl-e5": "SoTL-E5",
    "sotl": "SoTL of all blocks",
    "sovl-e1": "validation loss",
}
COLORS = {"sotl-e1": "#0072b2", "sotl-e5": "#56b4e9", "sotl": "#009e73", "sovl-e1": "#d55e00"}
SHARES = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class RunSet:
    """Runs that are ranked together.

    Args:
        title: What the runs have in common.
        curves: A row a run; the target is the final test loss.
        rows: The settings and seconds of each run, as in the CSV beside the table.
        quarter: The validation loss on a quarter of the sequences, of the shape of
        `curves.val_loss`.
    """

    title: str
    curves: LearningCurves
    rows: list[dict[str, str]]
    quarter: Scores

    def where(self, title: str, **values: str) -> RunSet:
        """Return the runs whose settings have these values."""
        kept = [
            place
            for place, row in enumerate(self.rows)
            if all(row[name] == value for name, value in values.items())
        ]
        return RunSet(
            title,
            self.curves.select(kept) if kept else self.curves,
            [self.rows[place] for place in kept],
            self.quarter[kept],
        )

    @property
    def usable(self) -> bool:
        """Whether there are enough runs to rank."""
        return len(self.rows) >= LEAST

    @property
    def validation_cost(self) -> float:
        """The median processor time of a validation pass, as a share of a block's training."""
        seconds = [
            float(row["validation_seconds"]) / float(row["train_seconds"]) for row in self.rows
        ]
        return float(np.median(seconds))

    @property
    def heading(self) -> str:
        """The title of a set's tables."""
        return f"\n=== {self.title}: {len(self.rows)} runs ===\n"

    @property
    def target(self) -> dict[str, Any]:
        """The arguments that describe the final test losses to the correlations."""
        return {"target": self.curves.final_metric, "target_mode": "min"}

    def scores(self, name: str) -> Scores:
        """Return an estimator after each block, shape `(runs, blocks)`; lower is better."""
        return named_estimator(name).scores(self.curves)

    def blocks(self, shares: Sequence[float] = SHARES) -> list[int]:
        """Return the T's of the tables, from shares of the training."""
        return sorted({max(1, round(share * self.curves.epochs)) for share in shares})


def read_set(name: str, options: argparse.Namespace) -> RunSet:
    """Return all runs of a table.

    Raises:
        FileNotFoundError: If the table does not exist yet.
    """
    curves = LearningCurves.load(options.tables / f"{name}.npz")
    with (options.tables / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = [json.loads(line) for line in options.data.read_text().splitlines()]
    quarters = {each["name"]: each["val_loss_quarter"] for each in results}
    quarter = np.array([quarters[row["name"]] for row in rows], dtype=np.float64)
    return RunSet(name, curves, rows, np.where(np.isnan(quarter), np.inf, quarter))


def main_sets(options: argparse.Namespace) -> list[RunSet]:
    """Return the close and the wide runs of the table `main` together, and the close ones alone.

    Raises:
        SystemExit: If there are too few runs to rank.
    """
    main = read_set("main", options).where("main", group="main")
    close = main.where("close learning rates", rates="close")
    every = RunSet("all learning rates", main.curves, main.rows, main.quarter)
    transformers = close.where("close, transformers only", architecture="transformer")
    sets = [each for each in (every, close, transformers) if each.usable]
    if not sets:
        raise SystemExit(f"Expected at least {LEAST} finished runs but got {len(main.rows)}.")
    return sets


def verdict(low: float, high: float) -> str:
    """Return which of two rankings is better, from the interval of their difference."""
    if low > 0:
        return "SoTL-E1 better"
    return "SoTL-E1 worse" if high < 0 else "undecided"


def difference_cells(gap: float, low: float, high: float) -> list[str]:
    """Return the cells of a table for a difference, its interval and the verdict."""
    return [f"{gap:+.3f}", f"[{low:+.3f}, {high:+.3f}]", verdict(low, high)]


def bootstrap_of(options: argparse.Namespace) -> dict[str, int]:
    """Return the number of resamples and their seed."""
    return {"resamples": 50 if options.smoke else 1000, "seed": options.seed}


def save_picture(figure: Figure, name: str, options: argparse.Namespace) -> None:
    """Save a picture in the output folder, and print where it is."""
    path = options.output / f"language_{name}.png"
    save(figure, path)
    print(f"\npicture in {os.path.relpath(path)}\n")


def parse(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options that the analyses share; `--smoke` makes few resamples and repeats."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables", metavar="DIR")
    parser.add_argument("--data", type=Path, default=HERE / "data" / "runs.jsonl", metavar="FILE")
    parser.add_argument("--output", type=Path, default=HERE.parent / "output", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and draws")
    parser.add_argument("--smoke", action="store_true", help="few resamples and repeats")
    return parser.parse_args(argv)
