"""How well SoTL-E and the validation loss rank one-pass language models, block by block.

Prints the Spearman correlation with the final test loss, with 95 % bootstrap intervals over runs:

- SoTL-E1, E2, E5 and the sum of all blocks, and the validation loss after the same block (a block's
  training loss is a mean over the block, so it is half a block older);
- the paired difference between SoTL-E1 and the validation loss, and whether one of them is better;
- what a seed changes, from the runs with three seeds.

Saves a picture with a panel for each set. It needs the table `main` of `build_table.py`, also of a
part of the runs.

    python examples/language/correlations.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 15 s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from _sets import (
    COLORS,
    LEAST,
    NAMES,
    RunSet,
    bootstrap_of,
    difference_cells,
    main_sets,
    parse,
    read_set,
    save_picture,
)
from matplotlib.figure import Figure

from lightning_sotl import evaluate, rank_correlation, rank_correlation_curve
from lightning_sotl.cli.output import show_evaluation, show_table
from lightning_sotl.evaluation.evaluate import notes
from lightning_sotl.stats.intervals import rank_correlation_difference, rank_correlation_interval

ESTIMATORS = ("sotl-e1", "sotl-e2", "sotl-e5", "sotl", "sovl-e1")


def show_correlations(runs: RunSet, bootstrap: dict[str, int]) -> None:
    """Print all estimators, and the paired difference between SoTL-E1 and the validation loss."""
    result = evaluate(runs.curves, at=runs.blocks(), estimators=list(ESTIMATORS), **bootstrap)
    show_evaluation(dataclasses.replace(result, recommended=None), mode="min")
    for sentence in notes(result, runs.curves):
        print(f"note: {sentence}")
    gaps = rank_correlation_difference(
        runs.scores("sotl-e1"), runs.scores("sovl-e1"), **runs.target, **bootstrap
    )
    print("\nSoTL-E1 minus the validation loss after the same block:")
    rows = [[str(at), *difference_cells(*(each[at - 1] for each in gaps))] for at in runs.blocks()]
    show_table(["T", "difference", "95% interval", ""], rows, left={3})


def show_seeds(every: RunSet) -> None:
    """Print how far two seeds agree on the results, and what a common order of the text adds."""
    names = [row["name"].partition("-seed")[0] for row in every.rows]
    repeats = [int(row["repeat"]) for row in every.rows]
    place = {key: row for row, key in enumerate(zip(names, repeats, strict=True))}
    complete = [name for name, repeat in place if repeat == 0 and (name, 2) in place]
    complete = [name for name in complete if (name, 1) in place]
    if len(complete) < LEAST:
        return
    rows = np.array([[place[name, repeat] for name in complete] for repeat in range(3)])
    final = every.curves.final_metric[rows]
    pairs = [(0, 1), (0, 2), (1, 2)]
    ceiling = np.mean([rank_correlation(final[a], final[b], target_mode="min") for a, b in pairs])
    print(
        f"\n{len(complete)} runs with 3 seeds. Final test losses: standard deviation over runs "
        f"{final.mean(axis=0).std(ddof=1):.4f}, over seeds "
        f"{np.sqrt(final.var(axis=0, ddof=1).mean()):.4f} nats; two seeds rank the runs with a "
        f"correlation of {ceiling:.3f}."
    )
    generator = np.random.default_rng(0)
    table = []
    for at in every.blocks():
        cells = [str(at)]
        for name in ("sotl-e1", "sovl-e1"):
            scores = every.scores(name)[rows, at - 1]
            alike = [
                rank_correlation(*each, target_mode="min")
                for each in zip(scores, final, strict=True)
            ]
            mixed = []
            for _ in range(200):
                picks = (generator.integers(3, size=len(complete)), np.arange(len(complete)))
                mixed.append(rank_correlation(scores[picks], final[picks], target_mode="min"))
            cells += [f"{np.mean(alike):.3f}", f"{np.mean(mixed):.3f}"]
        table.append(cells)
    print("Mean correlation if the runs read the text in one order, and in different orders:")
    show_table(["T", "SoTL-E1", "mixed", "validation", "mixed"], table, left=set())


def draw(sets: list[RunSet], bootstrap: dict[str, int]) -> Figure:
    """Return the picture: a panel a set, with bands for SoTL-E1 and the validation loss."""
    figure = Figure(figsize=(5 * len(sets), 4.5), layout="constrained")
    for axes, runs in zip(
        np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True
    ):
        blocks = np.arange(1, runs.curves.epochs + 1)
        for name, color in COLORS.items():
            scores = runs.scores(name)
            rho = rank_correlation_curve(scores, mode="min", **runs.target)
            axes.plot(blocks, rho, color=color, label=NAMES[name])
            if name in ("sotl-e1", "sovl-e1"):
                low, high = rank_correlation_interval(
                    scores, mode="min", **runs.target, **bootstrap
                )
                axes.fill_between(blocks, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(title=f"{runs.title}: {len(runs.rows)} runs", xlabel="completed blocks T")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("rank correlation with the final test loss")
    return figure


def summarize(runs: RunSet, bootstrap: dict[str, int]) -> str:
    """Return one sentence with the numbers of one set at a tenth of the training."""
    (at,) = runs.blocks((0.1,))
    parts = []
    for name in ("sotl-e1", "sovl-e1", "sotl"):
        scores = runs.scores(name)[:, at - 1]
        low, high = rank_correlation_interval(scores, mode="min", **runs.target, **bootstrap)
        rho = rank_correlation(scores, mode="min", **runs.target)
        parts.append(f"{NAMES[name]} {rho:.3f} [{float(low):.3f}, {float(high):.3f}]")
    return (
        f"Over {len(runs.rows)} runs with {runs.title}, the rank correlation with the final test "
        f"loss after {at} of {runs.curves.epochs} blocks is: {', '.join(parts)}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, save the picture and print the sentences."""
    options = parse(__doc__, argv)
    bootstrap = bootstrap_of(options)
    sets = main_sets(options)
    for runs in sets:
        print(runs.heading)
        show_correlations(runs, bootstrap)
    show_seeds(read_set("main", options))
    save_picture(draw(sets, bootstrap), "correlations", options)
    print("\n".join(summarize(runs, bootstrap) for runs in sets))


if __name__ == "__main__":
    main()
