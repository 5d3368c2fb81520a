"""Fig. 5: SoTL-E after a few epochs selects among generators of random architectures.

Claim (section 5.4): a random graph generator has many settings. The mean SoTL-E (E = 1) of a few
networks of each setting ranks the settings as their mean final test accuracy does. The rank
correlation is 0.85 at 10 of 250 epochs and grows with T, and SoTL-E finds the best setting.

Here: 18 settings of Erdos-Renyi, Barabasi-Albert and Watts-Strogatz graphs, turned into DAGs as in
Xie et al. 2019, with 4 networks each. Lightning trained them with the SoTLMonitor on 300 images of
scikit-learn's digits (the recipe is in `_wired_networks.py`). The finished table is committed as
`data/fig5_generators.npz`, with its origin in the `.json` file. `--rebuild` trains it again on all
cores; after a kill, the same command resumes.

The validation accuracy is a weak rival here. It uses the running statistics of the batch
normalization, which lag behind the weights in epochs of ten steps. So it is near chance up to T = 4
while the training loss already falls; the table has its median over the networks.

Figure: mean and standard error of SoTL-E at several T and of the final test accuracy, by setting.
Time: 3 s; about 6 minutes with `--rebuild` on 2 cores; 8 s with `--smoke`, which trains a few
smaller networks and does not change the committed table.

    python examples/paper/fig5_generators.py [--rebuild] [--seed 0] [--smoke] [--output DIR]
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_sotl import LearningCurves, plotting, rank_correlation_interval, sotl_e
from lightning_sotl.evaluation.generators import Generator, GeneratorSelection, select_generator

HERE = Path(__file__).parent
TABLE = HERE / "data" / "fig5_generators.npz"
# The paper's T = 10, 20, 30, 50, 70 and 90 of 250 epochs, and three later ones.
SHARES = (0.04, 0.08, 0.12, 0.2, 0.28, 0.36, 0.5, 0.75, 1)
COLORS = ("#0072b2", "#009e73", "#cc79a7", "#d55e00")


@dataclass(frozen=True)
class Choice:
    """The settings, ranked by an early score.

    Attributes:
        selection: The settings, best score first.
        low: Lower bound of the correlation's 95% interval, with settings resampled.
        high: The upper bound.
        place: The rank of the pick by mean test accuracy; 1 is the best.
    """

    selection: GeneratorSelection
    low: float
    high: float
    place: int

    @property
    def pick(self) -> Generator:
        """The setting with the best score."""
        return self.selection.generators[0]

    @property
    def text(self) -> str:
        """The correlation with its interval."""
        return f"{self.selection.correlation:.3f} [{self.low:.3f}, {self.high:.3f}]"


def report_epochs(epochs: int) -> list[int]:
    """Return the T's of the tables."""
    return sorted({math.ceil(share * epochs) for share in SHARES})


def settings_of(curves: LearningCurves) -> list[str]:
    """Return the setting of each run; run names are SETTING/NUMBER."""
    return [name.rpartition("/")[0] for name in curves.names]


def choose(curves: LearningCurves, scores: np.ndarray, mode: str = "min") -> Choice:
    """Rank the settings by the mean of a score of shape `(runs,)`."""
    selection = select_generator(scores, curves.final_metric, settings_of(curves), mode=mode)
    found = selection.generators
    means, targets = [one.score for one in found], [one.target for one in found]
    low, high = rank_correlation_interval(means, targets, mode=mode)
    place = 1 + sum(target > targets[0] for target in targets)
    return Choice(selection, float(low), float(high), place)


def by_sotl(curves: LearningCurves, at: int) -> Choice:
    """Rank the settings by SoTL-E with E = 1 after `at` epochs."""
    return choose(curves, sotl_e(curves.train_loss, window=1)[:, at - 1])


def by_accuracy(curves: LearningCurves, at: int) -> Choice:
    """Rank the settings by the validation accuracy after `at` epochs."""
    return choose(curves, curves.val_metric[:, at - 1], mode="max")


def agreement_of_halves(curves: LearningCurves) -> float:
    """Return how well half of each setting's networks predicts the test accuracy of the rest.

    This is the mean rank correlation over 50 random halvings. It shows how much of the order of the
    settings is not chance.
    """
    settings = np.array(settings_of(curves))
    names = list(dict.fromkeys(settings))
    groups = np.array([curves.final_metric[settings == name] for name in names])
    samples = groups.shape[1]
    correlations = []
    for order in np.random.default_rng(0).permuted(np.tile(np.arange(samples), (50, 1)), axis=1):
        first, second = groups[:, order[: samples // 2]], groups[:, order[samples // 2 :]]
        pair = select_generator(first.mean(axis=1), second.mean(axis=1), names, mode="max")
        correlations.append(pair.correlation)
    return float(np.mean(correlations))


def print_tables(curves: LearningCurves, epochs: list[int]) -> None:
    """Print the settings by test accuracy, best first, and the pick at each T."""
    shown = epochs[:: max(1, (len(epochs) - 1) // 3)]
    by_key = [{one.key: one for one in by_sotl(curves, at).selection.generators} for at in shown]
    ranked = sorted(by_key[0].values(), key=lambda one: -one.target)
    print("\nMean +- standard error over the networks of a setting")
    print(
        f"{'':>4}  {'setting':14} {'networks':>8} {'test acc. in %':>16}"
        + "".join(f" {f'SoTL-E, T={at}':>16}" for at in shown)
    )
    for place, one in enumerate(ranked, 1):
        cells = (group[one.key] for group in by_key)
        test = f"{100 * one.target:.2f} +- {100 * one.target_se:.2f}"
        print(
            f"{place:4}  {one.key:14} {one.runs:8} {test:>16}"
            + "".join(f" {f'{cell.score:.3f} +- {cell.score_se:.3f}':>16}" for cell in cells)
        )
    print(
        "\nRank correlation of the means with the test accuracy, and the picked setting (its rank)"
    )
    print(f"{'T':>4}  {'SoTL-E':23}  {'pick':19}  {'validation accuracy':23}  {'pick':19}  median")
    for at in epochs:
        cells = []
        for choice in (by_sotl(curves, at), by_accuracy(curves, at)):
            cells += [f"{choice.text:23}", f"{choice.pick.key:14} {f'({choice.place})':>4}"]
        print(f"{at:4}  " + "  ".join(cells) + f"  {np.median(curves.val_metric[:, at - 1]):6.1%}")


def save_picture(path: Path, curves: LearningCurves, epochs: list[int]) -> None:
    """Draw SoTL-E at several T (left axis, best on top) and the test accuracy (right axis)."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    right = axes.twinx()
    names = list(dict.fromkeys(settings_of(curves)))
    early = [at for at in epochs if at < curves.epochs / 2] or epochs
    drawn = np.linspace(0, len(early) - 1, min(len(early), len(COLORS))).round().astype(int)
    for at, color in zip([early[place] for place in drawn], COLORS, strict=False):
        choice = by_sotl(curves, at)
        found = {one.key: one for one in choice.selection.generators}
        scores = [found[name].score for name in names]
        errors = [found[name].score_se for name in names]
        label = f"SoTL-E, T = {at}: rank correlation {choice.selection.correlation:.2f}"
        axes.errorbar(names, scores, errors, color=color, marker="o", capsize=3, label=label)
        place = names.index(choice.pick.key)
        axes.plot(place, scores[place], "o", color=color, markersize=13, fillstyle="none")
    target = [100 * found[name].target for name in names]
    errors = [100 * found[name].target_se for name in names]
    label = f"test accuracy, T = {curves.epochs}"
    right.errorbar(
        names, target, errors, color="#e69f00", marker="s", linewidth=2, capsize=3, label=label
    )
    axes.invert_yaxis()
    axes.tick_params(axis="x", rotation=60)
    axes.set_ylabel("SoTL-E, E = 1, in nats (lower is better); circle: pick")
    right.set_ylabel("final test accuracy in %")
    handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    plotting.save(figure, path)


def summarize(curves: LearningCurves, epochs: list[int]) -> str:
    """Return one sentence on how well the early order predicts the final one."""
    first, later = epochs[0], max(at for at in epochs if at <= math.ceil(0.36 * curves.epochs))
    choices = {at: by_sotl(curves, at) for at in (first, later)}
    rivals = {at: by_accuracy(curves, at) for at in (first, later)}
    settings = choices[first].selection.generators
    best = max(settings, key=lambda one: one.target)
    pick, place = choices[later].pick, choices[later].place

    return (
        f"Over {len(settings)} settings of {settings[0].runs} networks, the mean SoTL-E has a rank "
        f"correlation of {choices[first].text} with the mean final test accuracy after {first} of "
        f"{curves.epochs} epochs and of {choices[later].text} after {later} (validation accuracy: "
        f"{rivals[first].text} and {rivals[later].text}; test accuracies of two halves of the "
        f"networks: {agreement_of_halves(curves):.3f}); after {later} epochs it picks {pick.key} "
        f"with {pick.target:.2%}, number {place} of {len(settings)}, and the best, {best.key}, has "
        f"{best.target:.2%} +- {best.target_se:.2%}."
    )


def rebuild(options: argparse.Namespace, table: Path) -> None:
    """Train the networks and write the table."""
    from _random_graphs import SETTINGS  # these import torch, which the figure does not need
    from _wired_networks import Recipe
    from _wired_table import build, list_jobs, save

    recipe, settings, samples, workers = Recipe(), SETTINGS, 4, options.workers
    if options.smoke:
        recipe = Recipe(nodes=5, cells=1, images=100, epochs=2)
        settings, samples, workers = SETTINGS[::6], 2, 1
    kept = options.output / f"{table.stem}_{'smoke_' * options.smoke}seed{options.seed}.jsonl"
    curves = build(list_jobs(settings, samples, options.seed), recipe, kept, workers=workers)
    command = f"python examples/paper/fig5_generators.py --rebuild --seed {options.seed}"
    save(curves, table, recipe, command=command)
    kept.unlink()  # so that the next `--rebuild` trains all networks again


def main() -> None:
    """Read or rebuild the table, print it, save the picture and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rebuild", action="store_true", help="train all networks again")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes of --rebuild"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the trained networks")
    parser.add_argument("--smoke", action="store_true", help="train 3 x 2 networks for 2 epochs")
    parser.add_argument("--output", type=Path, default=HERE.parent / "output", metavar="DIR")
    options = parser.parse_args()
    table = options.output / TABLE.name if options.smoke else TABLE
    if options.rebuild or options.smoke:
        rebuild(options, table)
    curves = LearningCurves.load(table)
    epochs = report_epochs(curves.epochs)
    print_tables(curves, epochs)
    picture = options.output / "fig5_generators.png"
    save_picture(picture, curves, epochs)
    print(f"\npicture in {os.path.relpath(picture)}\n")
    print(summarize(curves, epochs))


if __name__ == "__main__":
    main()
