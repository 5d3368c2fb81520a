"""How far regularised evolution, TPE and random search come in 150 trials, with 1 and 4 workers.

Claims: on a space of NAS-Bench-201's size (6 edges with 5 operations each, 15,625 cells) evolution
finds a better cell than random search, beyond two standard errors of the paired difference over 20
seeds; with 4 trials in flight the result is the same within the noise.

The table is SYNTHETIC: a fixed sum of effects of each operation on each edge and of each pair of
operations on two edges, half as strong, all normal. So it tells whether the searches work, not
which one to use on real networks. A cell's regret is its distance from the best cell, in standard
deviations of the table; 0 is the best and lower is better. With 4 workers, four trials are asked
for before the first is told, and each time one of the four, picked at random, is told.

About 20 seconds.

    python examples/benchmarks/evolution.py [--smoke] [--seed S]
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from tqdm import tqdm

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler

EDGES, OPERATIONS = 6, 5
SPACE: dict[str, BaseDistribution] = {
    f"edge_{i}": CategoricalDistribution(range(OPERATIONS)) for i in range(EDGES)
}
SAMPLERS = {
    "random": RandomSampler,
    "TPE": TPESampler,
    "evolution": RegularizedEvolutionSampler,
}
WORKERS = (1, 4)


def main() -> None:
    """Search and print one table and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few short searches, for a check")
    parser.add_argument("--seed", type=int, default=0, help="of the searches; the table is fixed")
    options = parser.parse_args()
    seeds, trials = (3, 40) if options.smoke else (20, 150)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    table = made_up_table(np.random.default_rng(201))
    cases = list(itertools.product(WORKERS, SAMPLERS))
    regrets = {case: np.empty(seeds) for case in cases}
    for index in tqdm(range(seeds), desc="searches of each kind", leave=False):
        seed = options.seed * seeds + index
        for workers, name in cases:
            sampler = SAMPLERS[name](seed=seed)
            regrets[workers, name][index] = best_regret(table, sampler, trials, workers, seed)
    print_table(regrets, seeds, trials)


def made_up_table(generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the regret of each cell, one axis an edge."""
    cells = np.indices((OPERATIONS,) * EDGES)
    scores = np.zeros((OPERATIONS,) * EDGES)
    for edge in cells:
        scores += generator.normal(size=OPERATIONS)[edge]
    for first, second in itertools.combinations(cells, 2):
        scores += 0.5 * generator.normal(size=(OPERATIONS, OPERATIONS))[first, second]
    return (scores - scores.min()) / scores.std()


def best_regret(
    table: NDArray[np.float64], sampler: BaseSampler, trials: int, workers: int, seed: int
) -> float:
    """Return the least regret that one search has met, with `workers` trials in flight."""
    generator = np.random.default_rng(seed)
    study = optuna.create_study(sampler=sampler)
    in_flight: list[optuna.Trial] = []
    for asked in range(trials + workers - 1):
        if asked < trials:
            in_flight.append(study.ask(SPACE))
        if asked >= workers - 1:
            trial = in_flight.pop(generator.integers(len(in_flight)))
            study.tell(trial, float(table[tuple(trial.params[edge] for edge in SPACE)]))
    return study.best_value


def print_table(
    regrets: dict[tuple[int, str], NDArray[np.float64]], seeds: int, trials: int
) -> None:
    """Print means over the seeds, and how surely they differ from random search."""
    print(f"Regret of the best of {trials} trials, {seeds} seeds (0 is the best of 15,625 cells)")
    print("workers  sampler      mean     s.e.  found best  less than random  in s.e.")
    margins = {}
    for (workers, name), found in regrets.items():
        line = f"{workers:7d}  {name:9s}{found.mean():8.3f}{standard_error(found):9.3f}"
        line += f"{np.count_nonzero(found == 0):7d} of {seeds}"
        if name != "random":
            ahead = regrets[workers, "random"] - found
            margins[workers, name] = ahead.mean() / standard_error(ahead)
            line += f"{ahead.mean():15.3f}{margins[workers, name]:14.1f}"
        print(line)
    apart = regrets[4, "evolution"] - regrets[1, "evolution"]
    print(
        f"Regularised evolution is ahead of random search by {margins[1, 'evolution']:.1f} "
        f"standard errors with 1 worker and {margins[4, 'evolution']:.1f} with 4, and its regrets "
        f"with 1 and 4 workers ({regrets[1, 'evolution'].mean():.3f} and "
        f"{regrets[4, 'evolution'].mean():.3f}) differ by "
        f"{abs(apart.mean()) / standard_error(apart):.1f} standard errors."
    )


def standard_error(values: NDArray[np.float64]) -> float:
    """Return that of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
