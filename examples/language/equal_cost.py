"""How well SoTL-E1 and the validation loss rank one-pass language models at equal cost.

A validation pass costs processor time in which a run could train on. So its run stops earlier:
after T - c blocks with one pass, which takes as long as c blocks of training, or after T / (1 + c)
with a pass after every block, as early stopping needs. A quarter of the validation sequences costs
c / 4. Between two blocks the validation losses are interpolated, because charging a whole block
would be too much.

Prints the Spearman correlations with the final test loss and the paired difference, with 95 %
bootstrap intervals over runs. Saves a picture with a panel for each set.

    python examples/language/equal_cost.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _sets import (
    RunSet,
    Scores,
    bootstrap_of,
    difference_cells,
    main_sets,
    parse,
    save_picture,
    verdict,
)
from matplotlib.figure import Figure

from lightning_sotl import rank_correlation
from lightning_sotl.cli.output import show_table
from lightning_sotl.stats.intervals import rank_correlation_difference

WAYS = {
    "one pass": "#d55e00",
    "a pass each block": "#cc79a7",
    "one pass, a quarter": "#e69f00",
}


def scores_at_cost(runs: RunSet, way: str, at: int) -> tuple[float, Scores] | None:
    """Return after how many blocks validation costs as much as T blocks, and its scores there.

    Return None before the first block, because there is no score yet.
    """
    cost = runs.validation_cost
    stop = {
        "one pass": at - cost,
        "a pass each block": at / (1 + cost),
        "one pass, a quarter": at - cost / 4,
    }[way]
    if stop < 1:
        return None
    curve = runs.quarter if way.endswith("quarter") else runs.scores("sovl-e1")
    return stop, interpolate(curve, stop)


def interpolate(losses: Scores, blocks: float) -> Scores:
    """Return losses after a number of blocks that need not be whole, at least 1.

    Examples:
        >>> interpolate(np.array([[3.0, 2.0, 1.5]]), 2.5).tolist()
        [1.75]
    """
    before = int(blocks)
    share = blocks - before
    if share == 0:
        return losses[:, before - 1]
    return (1 - share) * losses[:, before - 1] + share * losses[:, before]


def compare(runs: RunSet, way: str, at: int, bootstrap: dict[str, int]) -> list[float] | None:
    """Return the difference and its bounds at T blocks, or None before the first score."""
    found = scores_at_cost(runs, way, at)
    if found is None:
        return None
    sotl = runs.scores("sotl-e1")[:, at - 1]
    gap = rank_correlation_difference(sotl, found[1], **runs.target, **bootstrap)
    return [float(each) for each in gap]


def show_equal_cost(runs: RunSet, bootstrap: dict[str, int]) -> list[str]:
    """Print SoTL-E1 after T blocks against validation losses that cost as much."""
    print(f"A validation pass takes {runs.validation_cost:.3f} of a block's training.\n")
    rows = []
    for at in runs.blocks():
        rho = rank_correlation(runs.scores("sotl-e1")[:, at - 1], mode="min", **runs.target)
        for way in WAYS:
            gap, found = compare(runs, way, at, bootstrap), scores_at_cost(runs, way, at)
            if gap is None or found is None:
                continue
            other = rank_correlation(found[1], mode="min", **runs.target)
            cells = [str(at), f"{rho:.3f}", way, f"{found[0]:.2f}", f"{other:.3f}"]
            rows.append([*cells, *difference_cells(*gap)])
    header = ["T", "SoTL-E1", "validation", "at block", "rho", "difference", "95% interval", ""]
    show_table(header, rows, left={2, 7})
    return [row[-1] for row in rows]


def draw(sets: list[RunSet], bootstrap: dict[str, int]) -> Figure:
    """Return the picture: a panel a set, with the difference over training and its bands."""
    figure = Figure(figsize=(5 * len(sets), 4.5), layout="constrained")
    for axes, runs in zip(
        np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True
    ):
        for way, color in WAYS.items():
            blocks = range(1, runs.curves.epochs + 1)
            found = {at: compare(runs, way, at, bootstrap) for at in blocks}
            known = {at: gap for at, gap in found.items() if gap is not None}
            gap, low, high = np.array(list(known.values())).T
            axes.plot(list(known), gap, color=color, label=way)
            axes.fill_between(list(known), low, high, color=color, alpha=0.12, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=f"{runs.title}: {len(runs.rows)} runs", xlabel="cost in blocks T")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("rank correlation: SoTL-E1 minus validation loss")
    return figure


def summarize(runs: RunSet, verdicts: list[str]) -> str:
    """Return one sentence with the numbers of comparisons that are decided."""
    better, worse = (verdicts.count(word) for word in (verdict(1, 1), verdict(-1, -1)))
    return (
        f"Over {len(runs.rows)} runs with {runs.title}, SoTL-E1 is better at equal cost in "
        f"{better} and worse in {worse} of {len(verdicts)} comparisons; by chance alone, about 1 "
        "in 20 would be decided."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, save the picture and print the sentences."""
    options = parse(__doc__, argv)
    bootstrap = bootstrap_of(options)
    sets, sentences = main_sets(options), []
    for runs in sets:
        print(runs.heading)
        sentences.append(summarize(runs, show_equal_cost(runs, bootstrap)))
    save_picture(draw(sets, bootstrap), "equal_cost", options)
    print("\n".join(sentences))


if __name__ == "__main__":
    main()
