"""Figs. 6 and 10: SoTL-E at a quarter of the training as the guide of architecture search.

Claim (section 5.5, appendix C): regularised evolution and TPE find better cells in the same time,
or as good ones sooner, by SoTL-E (E = 1) after T = 50 of 200 epochs than by the validation accuracy
after 200 or after 50 epochs ("in all cases"). So does random search, where SoTL-E is on par with
the early validation accuracy on one data set of three, and gains less.

Here: the searches are Optuna's TPESampler and RandomSampler and this project's
RegularizedEvolutionSampler, each over six categorical edges, with 10 random cells at the start and
20 seeds; with the same seed, all guides start from the same cells. Nothing is trained: time is the
table's own, T epochs of training for each evaluation, a repeated one too; validation is free, which
favours its accuracy. The incumbent is the cell with the best value of the guide so far; what is
shown is the test error of that run at the end of its training, which is not charged.

A sampled table (the project's own) lacks most of the 15,625 cells. Equivalent cells count as one;
any other proposal is evaluated by the nearest cell that the table has, the same one each time. So
several proposals share a result, a search sees plateaus, a mutation of one edge may change none or
up to all of the network that is measured, and the differences between guides are those on that
coarser landscape; the script prints how coarse it is. With all cells in the table it is the plain
search. T is a quarter of the epochs. Standard errors are over the searches' seeds; that another
table of as many cells would differ as well is not in them.

Another table: `--table` takes LearningCurves (validation and final test accuracy; without
`epoch_seconds` time is counted in epochs), `--cells` the cell of each run, as NAS-Bench-201 writes
it: an `.npz` with a column "cells", or text, one a line; without it, `TABLE_runs.npz`.

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
from _nearest_cells import neighbours
from _search import SEARCHES, SearchTable, read_cells, run_search, search_table
from cell_space import CELLS
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_sotl import LearningCurves, plotting, rank_correlation

HERE = Path(__file__).parent
TABLE = HERE / "tables" / "cells.npz"
TRAININGS = 50  # the budget in full trainings; 150 hours of the paper's Fig. 6 are about as many
SHARES = (0.04, 0.1, 0.2, 0.5, 1.0)  # of the budget, for the table
BEST = 10  # so many cells of the whole table show where a guide leads in the long run
COLOURS = ("black", "#0072b2", "#d55e00")


@dataclass(frozen=True)
class Outcome:
    """A search under one guide, with all seeds.

    Attributes:
        evaluations: Of each seed, shape `(seeds,)`.
        errors: Test error of the incumbent in %, NaN before the first, shape `(seeds, times)`.
    """

    evaluations: NDArray[np.int64]
    errors: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Over the seeds; NaN while one has no incumbent."""
        return self.errors.mean(axis=0)

    @property
    def se(self) -> NDArray[np.float64]:
        """Standard error of the mean."""
        return standard_error(self.errors)

    def reaches(self, level: float) -> int | None:
        """Return the first time, as a place, at which the mean error is `level` or lower."""
        places = np.flatnonzero(self.mean <= level)
        return int(places[0]) if len(places) else None


Outcomes = dict[str, list[Outcome]]  # name of a search -> one for each guide


def standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the mean over the first axis."""
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def places_of(times: NDArray[np.float64]) -> list[int]:
    """Return where the SHARES of the whole time stand."""
    return [round(share * len(times)) - 1 for share in SHARES]


def search_all(table: SearchTable, times: NDArray[np.float64], seeds: Sequence[int]) -> Outcomes:
    """Run every search under every guide with every seed, until the last of the times."""
    outcomes: Outcomes = {}
    guides = table.guides()
    with tqdm(total=len(SEARCHES) * len(guides) * len(seeds), desc="searches") as bar:
        for name, sampler in SEARCHES.items():
            outcomes[name] = []
            for guide in guides:
                found = []
                for seed in seeds:
                    found.append(run_search(sampler(seed), table, guide, budget=times[-1]))
                    bar.update()
                counts = np.array([len(one.rows) for one in found])
                errors = np.array([one.errors_at(times) for one in found])
                outcomes[name].append(Outcome(counts, errors))
    return outcomes


def describe_table(table: SearchTable, generator: np.random.Generator) -> str:
    """Return what stands for the cells that the table lacks, and how well, in sentences."""
    error = table.test_error
    present = len(set(table.cells))
    text = (
        f"{table.curves.runs} runs ({table.left_out} left out) of {present} of the {CELLS} cells; "
        f"a training to the end takes {table.full_costs.mean():.2f} {table.unit} in the mean. "
    )
    if present == CELLS:
        return text + "Every proposal is evaluated as it is."
    shares = np.bincount(table.distance) / CELLS
    apart = ", ".join(f"{share:.0%} {count}" for count, share in enumerate(shares) if count)
    nearest = neighbours(table.cells, generator)
    return text + (
        f"{shares[0]:.0%} of the space are these cells or their equivalents; for the others the "
        f"nearest cell stands in, by the number of edges that differ: {apart}. The test error of a "
        "cell and that of its nearest other one in the table have a rank correlation of "
        f"{float(rank_correlation(error[nearest], error, mode='max')):.2f}."
    )


def print_tables(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> None:
    """Print the error at some times, and how soon each guide is where full training ends."""
    places = places_of(times)
    trainings = times / table.full_costs.mean()
    print("\nTest error of the incumbent in %, mean +- standard error over the seeds, after")
    print("so many full trainings' time. `evals` are evaluations until the end; `same` is the")
    print("share of the time after which the error is what the first guide's is at the end.")
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
    print(f"\nOf the table's cells the best by test error has {lowest:.2f} %; in the mean")
    for guide, best in zip(guides, best_by_guide(table), strict=True):
        print(f"  the {BEST} best by {guide.name:16} have {best:.2f} %")


def best_by_guide(table: SearchTable) -> list[float]:
    """Return the mean test error of the cells that each guide finds best."""
    orders = [np.argsort(guide.values, kind="stable")[:BEST] for guide in table.guides()]
    return [float(table.test_error[order].mean()) for order in orders]


def save_picture(
    path: Path, table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]
) -> None:
    """Draw the mean error of the incumbent over time, a panel a search."""
    figure = Figure(figsize=(1 + 4.5 * len(outcomes), 4.2), layout="constrained")
    panels = figure.subplots(1, len(outcomes), squeeze=False, sharey=True)[0]
    for axes, (name, found) in zip(panels, outcomes.items(), strict=True):
        for guide, one, colour in zip(table.guides(), found, COLOURS, strict=True):
            axes.plot(times, one.mean, color=colour, label=guide.name)
            low, high = one.mean - one.se, one.mean + one.se
            axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel=f"simulated training time in {table.unit}", xscale="log")
    panels[0].set_ylabel("final test error of the incumbent in %")
    panels[0].legend()
    plotting.save(figure, path)
    print(f"picture in {os.path.relpath(path)}")


def print_leads(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> None:
    """Print by how much SoTL-E is ahead of the others at some times."""
    places = places_of(times)
    heads = "".join(f"{time:16.0f}" for time in times[places] / table.full_costs.mean())
    print("\nBy how many points the test error under SoTL-E is lower (negative: higher), mean +-")
    print("standard error of the pairs with the same seed, after so many full trainings' time.")
    print(f"{'search':22}{'than':16}{heads}")
    for name, found in outcomes.items():
        for guide, rival in zip(table.guides()[:-1], found[:-1], strict=True):
            mean, error = lead(found[-1], rival)
            cells = (f"{mean[place]:+.2f} +-{error[place]:.2f}" for place in places)
            texts = "".join(f"{cell.replace('+nan +-nan', '-'):>16}" for cell in cells)
            print(f"{name:22}{guide.name:16}{texts}")


def lead(first: Outcome, second: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much the first is better, mean and standard error, at each time."""
    gap = second.errors - first.errors
    return gap.mean(axis=0), standard_error(gap)


def judge(outcomes: Outcomes, place: int) -> str:
    """Return in how many searches SoTL-E is first by more than twice the standard error."""
    first = sum(
        all(mean[place] > 2 * error[place] for mean, error in (lead(one, full), lead(one, early)))
        for full, early, one in outcomes.values()
    )
    return f"{first} of {len(outcomes)}"


def summarise(table: SearchTable, outcomes: Outcomes, times: NDArray[np.float64]) -> str:
    """Return in one sentence how far the claim holds, early and in the end, and how far it can."""
    names = [guide.name for guide in table.guides()]
    early = places_of(times)[1]
    told, gains = [], []
    for search, found in outcomes.items():
        texts = []
        for name, rival in zip(names[:-1], found[:-1], strict=True):
            mean, error = lead(found[-1], rival)
            soon, late = (f"{mean[at]:+.2f} +- {error[at]:.2f}" for at in (early, -1))
            texts.append(f"{soon} and {late} than under {name}")
        told.append(f"in {search} by {', by '.join(texts)}")
        gap = np.nanmean(found[0].errors - found[-1].errors, axis=1)
        gains.append(f"{gap.mean():+.2f} +- {standard_error(gap):.2f} in {search}")
    best = best_by_guide(table)
    return (
        f"After {SHARES[1]:.0%} of the time and at its end the incumbent's test error under "
        f"{names[-1]} is lower (negative: higher) {'; '.join(told)}; SoTL-E is first by two "
        f"standard errors in {judge(outcomes, early)} searches early and {judge(outcomes, -1)} at "
        f"the end, where the paper has it first in all, its gain on {names[0]} over the whole time "
        f"is {', '.join(gains)} points, and the {BEST} cells with the best SoTL-E have a test "
        f"error of {best[-1]:.2f} % in the mean, those with the best {names[0]} {best[0]:.2f} %."
    )


def main() -> None:
    """Run the searches, print the tables, save the pictures and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="the cell of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the searches")
    parser.add_argument("--smoke", action="store_true", help="2 seeds")
    default = HERE.parent / "output"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR")
    options = parser.parse_args()
    count = 2 if options.smoke else 20

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    generator = np.random.default_rng(options.seed)
    curves = LearningCurves.load(options.table)
    beside = options.cells or options.table.with_name(f"{options.table.stem}_runs.npz")
    if not beside.exists():
        parser.error(f"--cells: there is no '{beside}' with the cell of each run of the table")
    table = search_table(curves, read_cells(beside), generator)
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
    print(f"\n{summarise(table, outcomes, times)}")


if __name__ == "__main__":
    main()
