"""Simulates architecture search on a table of finished trainings, with its training times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from _nearest_cells import stand_ins
from cell_space import EDGES, OPERATIONS, Cell, cell_index, parse_cell
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from lightning_sotl import LearningCurves, sotl_e
from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler

INITIAL = 10  # random cells at the start, as in the paper; also evolution's population
TOURNAMENT = 5  # half of the population, the sampler's default
# Name -> function from a seed to a sampler.
SEARCHES: dict[str, Callable[[int], BaseSampler]] = {
    "regularized evolution": lambda seed: RegularizedEvolutionSampler(
        population_size=INITIAL, tournament_size=TOURNAMENT, seed=seed
    ),
    "TPE": lambda seed: TPESampler(n_startup_trials=INITIAL, seed=seed),
    "random search": lambda seed: RandomSampler(seed=seed),
}
SPACE = {
    f"{target}<-{source}": CategoricalDistribution(list(OPERATIONS)) for source, target in EDGES
}


@dataclass(frozen=True)
class Guide:
    """The value that a search minimizes, and the time that it costs.

    Attributes:
        name: The name, such as "SoTL-E (T=10)".
        values: Value of each run, lower is better, +inf if missing, shape `(runs,)`.
        costs: Training time of each run up to the value, in the table's unit, shape `(runs,)`.
    """

    name: str
    values: NDArray[np.float64]
    costs: NDArray[np.float64]


@dataclass(frozen=True)
class SearchTable:
    """A table with the cells of its runs.

    Attributes:
        curves: The first run of each cell that has a final test accuracy and a time.
        cells: The cell of each run.
        row_of: The run that evaluates each cell of the space, shape `(15625,)`.
        distance: The number of edges in which that run's cell differs, shape `(15625,)`.
        left_out: The number of runs without a final test accuracy or a time, or that repeat a cell.
    """

    curves: LearningCurves
    cells: tuple[Cell, ...]
    row_of: NDArray[np.int64]
    distance: NDArray[np.int64]
    left_out: int

    @property
    def unit(self) -> str:
        """The unit of time: "s", or "epochs" for a table without seconds."""
        return "epochs" if self.curves.epoch_seconds is None else "s"

    @property
    def full_costs(self) -> NDArray[np.float64]:
        """The time of full training, shape `(runs,)`."""
        return self.costs(self.curves.epochs)

    @property
    def test_error(self) -> NDArray[np.float64]:
        """Final test error in %, shape `(runs,)`; accuracies above 1 are read as percent."""
        accuracy = self.curves.final_metric
        return 100 - accuracy * (1 if accuracy.max() > 1 else 100)

    def costs(self, epochs: int) -> NDArray[np.float64]:
        """Return the time of a number of epochs, shape `(runs,)`."""
        seconds = self.curves.epoch_seconds
        return epochs * (np.ones(self.curves.runs) if seconds is None else seconds)

    def guides(self) -> list[Guide]:
        """Return the paper's three: Val Acc at the end, and Val Acc and SoTL-E at a quarter.

        Raises:
            ValueError: If no run has a value of one of them.
        """
        end, at = self.curves.epochs, math.ceil(self.curves.epochs / 4)
        accuracy, estimate = self.curves.val_metric, sotl_e(self.curves.train_loss, window=1)
        found = [("Val Acc", end, -accuracy), ("Val Acc", at, -accuracy), ("SoTL-E", at, estimate)]
        guides = []
        for name, epochs, curve in found:
            # A run without a value ranks last.
            values = np.where(np.isnan(curve[:, epochs - 1]), np.inf, curve[:, epochs - 1])
            if not np.isfinite(values).any():
                raise ValueError(f"Expected {name} after {epochs} epochs in some run but got none.")
            guides.append(Guide(f"{name} (T={epochs})", values, self.costs(epochs)))
        return guides


@dataclass(frozen=True)
class Trajectory:
    """One search.

    Attributes:
        rows: The run of each evaluation, in order.
        ends: The time at the end of each evaluation.
        errors: Final test error of the incumbent after each evaluation.
    """

    rows: NDArray[np.int64]
    ends: NDArray[np.float64]
    errors: NDArray[np.float64]

    def errors_at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the incumbent's error at each time; NaN before the first evaluation ends."""
        done = np.searchsorted(self.ends, times, side="right")
        return np.concatenate([[np.nan], self.errors])[done]


def search_table(
    curves: LearningCurves, cells: Sequence[Cell], generator: np.random.Generator
) -> SearchTable:
    """Return a table to search in.

    Args:
        curves: Curves with `val_metric` and `final_metric`, both accuracies.
        cells: The cell of each run. If a cell has several runs, the first is used.
        generator: Generator that breaks ties between equally near cells.

    Raises:
        ValueError: If a column is missing, or no run has a final accuracy, or a time is not
            positive.
    """
    for name in ("val_metric", "final_metric"):
        if getattr(curves, name) is None:
            raise ValueError(f"Expected the table to have `{name}` but it is absent.")
    if (curves.metric_mode, curves.final_mode) != ("max", "max"):
        raise ValueError("Expected accuracies (higher is better) but got errors (lower is better).")
    if len(cells) != curves.runs:
        raise ValueError(f"Expected {curves.runs} cells, one per run, but got {len(cells)}.")
    usable = np.isfinite(curves.final_metric)
    if curves.epoch_seconds is not None:
        usable &= np.isfinite(curves.epoch_seconds)
        if (curves.epoch_seconds <= 0).any():
            raise ValueError("Expected `epoch_seconds` to be positive in all runs.")
    if not usable.any():
        raise ValueError("Expected a run with a final test accuracy and a time but got none.")
    kept = _first_of_each(cells, usable)
    chosen = tuple(cells[row] for row in kept)
    row_of, distance = stand_ins(chosen, generator)
    return SearchTable(curves.select(kept), chosen, row_of, distance, curves.runs - len(kept))


def _first_of_each(cells: Sequence[Cell], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first usable row of each cell."""
    first: dict[Cell, int] = {}
    for row in np.flatnonzero(usable):
        first.setdefault(cells[row], int(row))
    return np.array(list(first.values()))


def read_cells(path: Path) -> list[Cell]:
    """Return the cells in a file, one per run, in NAS-Bench-201's notation.

    Args:
        path: An `.npz` with the strings under "cells", or a text file with one cell per line.

    Raises:
        ValueError: If a string is not a cell of the space.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as columns:
            texts = columns["cells"].tolist()
    else:
        texts = path.read_text(encoding="utf-8").split()
    return [parse_cell(text) for text in texts]


def run_search(
    sampler: BaseSampler, table: SearchTable, guide: Guide, *, budget: float
) -> Trajectory:
    """Search until the next evaluation would exceed the budget.

    Each proposal costs the time of the run that evaluates it, also if it is repeated. The paper's
    implementation of the searches does the same.

    Args:
        sampler: An Optuna sampler; it sees only the guide's values and minimizes them.
        table: The table to search in.
        guide: The guide of the search.
        budget: The total time of all evaluations.
    """
    study = optuna.create_study(sampler=sampler, direction="minimize")
    rows: list[int] = []
    clock = 0.0
    while True:
        trial = study.ask(SPACE)
        row = int(table.row_of[cell_index(tuple(trial.params[name] for name in SPACE))])
        clock += guide.costs[row]
        if clock > budget:
            break
        rows.append(row)
        study.tell(trial, guide.values[row])
    chosen = np.array(rows, dtype=np.int64)
    best = chosen[incumbents(guide.values[chosen])]
    return Trajectory(chosen, np.cumsum(guide.costs[chosen]), table.test_error[best])


def incumbents(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the lowest value so far, at each index; the first one if values tie.

    >>> incumbents(np.array([3.0, 5.0, 2.0, 2.0])).tolist()
    [0, 0, 2, 2]
    """
    places = np.arange(len(values))
    before = np.minimum.accumulate(np.concatenate([[np.inf], values]))[:-1]
    return np.maximum.accumulate(np.where(values < before, places, 0))
