"""Figs. 6 and 10: SoTL-E at a quarter of training as the guide of an architecture search.

Claim (section 5.5, appendix C): regularized evolution and TPE find better cells in the same time,
or equally good ones sooner, if SoTL-E (E = 1) after T = 50 of 200 epochs guides them instead of the
validation accuracy after 200 or 50 epochs ("in all cases"). Random search gains too, but less; on
one data set of three, SoTL-E is on par there with the early validation accuracy.

Searches: Optuna's TPESampler and RandomSampler and this project's RegularizedEvolutionSampler, over
six categorical edges, with 10 random cells at the start and 20 seeds. With the same seed, all
guides start from the same cells. T is a quarter of the epochs. Nothing is trained: an evaluation,
also a repeated one, takes the table's time for its training epochs. Validation is free, which
favors the validation accuracy. The incumbent is the cell with the best value of the guide so far.
The script reports its final test error, and does not charge the time of that training.

Missing cells: the project's own table has a sample of the 15,625 cells. Equivalent cells count as
one. Any other proposal is evaluated by the nearest cell of the table, always the same one. So
several proposals share a result, and a mutation of one edge may change nothing or the whole
measured network. The script prints how coarse this is. With all cells in the table, it is the plain
search. Standard errors are over the seeds of the searches and do not contain what another sample of
cells would change.

Another table: `--table` reads LearningCurves with validation and final test accuracies; without
`epoch_seconds`, time is in epochs. `--cells` reads the cell of each run in NAS-Bench-201's
notation: an `.npz` with a column "cells", or a text file with one per line. The default is
`TABLE_runs.npz`.

Figures: the incumbent's test error over time, mean and standard error over the seeds.
Time: about 30 s on one core, 10 s with `--smoke`.

    python examples/paper/fig6_searches.py [--table FILE] [--cells FILE] [--seed 0] [--smoke]
        [--output DIR]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from _nearest_cells import neighbors
from _search import SEARCHES, SearchTable, read_cells, run_search, search_table
from cell_space import CELLS
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_sotl import LearningCurves, plotting, rank_correlation

HERE = Path(__file__).parent
TABLE = HERE / "tables" / "cells.npz"
TRAININGS = 50  # budget in full trainings, about the 150 hours of the paper's Fig. 6
SHARES = (0.04, 0.1, 0.2, 0.5, 1.0)  # shares of the budget in the tables
BEST = 10  # best cells of the whole table by each guide, its result in the long run
COLORS = ("black", "#0072b2", "#d55e00")


@dataclass(frozen=True)
class Outcome:
    """All seeds of one search under one guide.

    Attributes:
        evaluations: Number of evaluations, shape `(seeds,)`.
        errors: Test error of the incumbent in %, shape `(seeds, times)`; NaN before the first one.
    """

    evaluations: NDArray[np.int64]
    errors: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean error over the seeds; NaN while a seed has no incumbent."""
        return self.errors.mean(axis=0)

    @property
    def se(self) -> NDArray[np.float64]:
        """Standard error of the mean."""
        return standard_error(self.errors)

    def reaches(self, level: float) -> int | None:
        """Return the index of the first time with a mean error of at most `level`."""
        places = np.flatnonzero(self.mean <= level)
        return int(places[0]) if len(places) else None


Outcomes = dict[str, list[Outcome]]  # name of a search -> outcome under each guide


def standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the mean over the first axis."""
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def places_of(times: NDArray[np.float64]) -> list[int]:
    """Return the indices of the times at SHARES of the budget."""
    return [round(share * len(times)) - 1 for share in SHARES]


def search_all(table: SearchTable, times: NDArray[np.float64], seeds: Sequence[int]) -> Outcomes:
    """Run every search under every guide with every seed, until the last time."""
    outcomes: Outcomes = {}
    guides = table.guides()
    with tqdm(total=len(SEARCHES) * len(guides) * len(seeds), desc="searches") as bar:
        for name, sampler in SEARCHES.items():
            outcomes[name] = []
            for guide in guides:
                searches = []
                for seed in seeds:
                    searches.append(run_search(sampler(seed), table, guide, budget=times[-1]))
                    bar.update()
                counts = np.array([len(search.rows) for search in searches])
                errors = np.array([search.errors_at(times) for search in searches])
                outcomes[name].append(Outcome(counts, errors))
    return outcomes


def describe_table(table: SearchTable, generator: np.random.Generator) -> str:
    """Return sentences on the cells that the table lacks and how well the nearest ones fit."""
    error = table.test_error
    present = len(set(table.cells))
    text = (
        f"{table.curves.runs} runs ({table.left_out} left out) of {present} of the {CELLS} cells; "
        f"full training takes {table.full_costs.mean():.2f} {table.unit} on average. "
    )
    if present == CELLS:
        return text + "Every proposal is in the table."
    shares = np.bincount(table.distance) / CELLS
    apart = ", ".join(f"{share:.0%} with {n}" for n, share in enumerate(shares) if n)
    nearest = neighbors(table.cells, generator)
    return text + (
        f"{shares[0]:.0%} of the space are these cells or their equivalents. The nearest cell "
        f"replaces any other; share of the space by number of different edges: {apart}. The test "
        "errors of a cell and of the nearest different network in the table have a rank "
        f"correlation of {float(rank_correlation(error[nearest], error, mode='max')):.2f}."
    )


def print_tables(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> None:
    """Print the error at several times, and how soon it reaches that of full training."""
    places = places_of(times)
    trainings = times / table.full_costs.mean()
    print("\nTest error of the incumbent in %, mean +- standard error over the seeds. The columns")
    print("are times, in full trainings. `evals`: evaluations in all. `same`: share of the time")
    print("until the error is as low as the first guide's at the end.")
    heads = "".join(f"{trainings[place]:14.0f}" for place in places)
    print(f"{'search':22}{'guide':16}{'evals':>6}{heads}{'same':>7}")
    guides = table.guides()
    for name, found in outcomes.items():
        for guide, one in zip(guides, found, strict=True):
            cells = "".join(
                f"{one.mean[place]:8.2f} +-{one.se[place]:.2f}".replace("nan +-nan", "-").rjust(14)
                for place in places
            )
            place = one.reaches(found[0].mean[-1])
            same = "-" if place is None else f"{(place + 1) / len(times):.0%}"
            print(f"{name:22}{guide.name:16}{one.evaluations.mean():6.0f}{cells}{same:>7}")
    lowest = table.test_error.min()
    print(f"\nThe best cell of the table has a test error of {lowest:.2f} %; on average")
    for guide, best in zip(guides, best_by_guide(table), strict=True):
        print(f"  the {BEST} best by {guide.name:16} have {best:.2f} %")


def best_by_guide(table: SearchTable) -> list[float]:
    """Return the mean test error of the BEST cells by each guide."""
    orders = [np.argsort(guide.values, kind="stable")[:BEST] for guide in table.guides()]
    return [float(table.test_error[order].mean()) for order in orders]


def save_picture(
    path: Path, table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]
) -> None:
    """Draw the mean error of the incumbent over time, one panel per search."""
    figure = Figure(figsize=(1 + 4.5 * len(outcomes), 4.2), layout="constrained")
    panels = figure.subplots(1, len(outcomes), squeeze=False, sharey=True)[0]
    for axes, (name, found) in zip(panels, outcomes.items(), strict=True):
        for guide, one, color in zip(table.guides(), found, COLORS, strict=True):
            axes.plot(times, one.mean, color=color, label=guide.name)
            low, high = one.mean - one.se, one.mean + one.se
            axes.fill_between(times, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel=f"simulated training time in {table.unit}", xscale="log")
    panels[0].set_ylabel("final test error of the incumbent in %")
    panels[0].legend()
    plotting.save(figure, path)
    print(f"picture in {os.path.relpath(path)}")


def print_leads(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> None:
    """Print the lead of SoTL-E over the other guides at several times."""
    places = places_of(times)
    heads = "".join(f"{time:16.0f}" for time in times[places] / table.full_costs.mean())
    print("\nLead of SoTL-E in points of test error (negative: behind), mean +- standard error")
    print("over pairs with the same seed. The columns are times, in full trainings.")
    print(f"{'search':22}{'over':16}{heads}")
    for name, found in outcomes.items():
        for guide, rival in zip(table.guides()[:-1], found[:-1], strict=True):
            mean, error = lead(found[-1], rival)
            cells = (f"{mean[place]:+.2f} +-{error[place]:.2f}" for place in places)
            texts = "".join(f"{cell.replace('+nan +-nan', '-'):>16}" for cell in cells)
            print(f"{name:22}{guide.name:16}{texts}")


def lead(first: Outcome, second: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much better the first is at each time: mean and standard error."""
    gap = second.errors - first.errors
    return gap.mean(axis=0), standard_error(gap)


def judge(outcomes: Outcomes, place: int) -> str:
    """Return in how many searches SoTL-E leads both others by over two standard errors."""
    first = sum(
        all(mean[place] > 2 * error[place] for mean, error in (lead(one, full), lead(one, early)))
        for full, early, one in outcomes.values()
    )
    return f"{first} of {len(outcomes)}"


def summarize(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> str:
    """Return one sentence on how far the claim holds, early and at the end."""
    names = [guide.name for guide in table.guides()]
    gains = []
    for search, found in outcomes.items():
        gap = np.nanmean(found[0].errors - found[-1].errors, axis=1)
        gains.append(f"{gap.mean():+.2f} +- {standard_error(gap):.2f} in {search}")
    best = best_by_guide(table)
    return (
        f"{names[-1]} leads both other guides by two standard errors in "
        f"{judge(outcomes, places_of(times)[1])} searches after {SHARES[1]:.0%} of the time and in "
        f"{judge(outcomes, -1)} at the end, while the paper has it first in all; its lead over "
        f"{names[0]}, averaged over the time, is {', '.join(gains)} points; the {BEST} best cells "
        f"by {names[-1]} have a mean test error of {best[-1]:.2f} %, those by {names[0]} "
        f"{best[0]:.2f} %."
    )


def main() -> None:
    """Run the searches, print the tables, save the pictures and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="the cell of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches")
    parser.add_argument("--smoke", action="store_true", help="2 seeds")
    default = HERE.parent / "output"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR")
    options = parser.parse_args()
    count = 2 if options.smoke else 20

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    generator = np.random.default_rng(options.seed)
    curves = LearningCurves.load(options.table)
    columns = options.cells or options.table.with_name(f"{options.table.stem}_runs.npz")
    if not columns.exists():
        parser.error(f"--cells: there is no '{columns}' with the cell of each run of the table")
    table = search_table(curves, read_cells(columns), generator)
    print(describe_table(table, generator))
    times = np.linspace(0, TRAININGS * table.full_costs.mean(), 501)[1:]
    seeds = generator.integers(2**31, size=count).tolist()
    outcomes = search_all(table, times, seeds)
    print_tables(table, outcomes, times)
    print_leads(table, outcomes, times)
    print()
    random = {"random search": outcomes["random search"]}
    others = {name: found for name, found in outcomes.items() if name not in random}
    save_picture(options.output / "fig6_searches.png", table, others, times)
    save_picture(options.output / "fig10_random_search.png", table, random, times)
    print(f"\n{summarize(table, outcomes, times)}")


if __name__ == "__main__":
    main()
