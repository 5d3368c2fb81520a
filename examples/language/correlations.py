"""How well SoTL-E and the validation loss rank one-pass language models, block by block.

Prints the Spearman correlation with the final test loss, with 95 % bootstrap intervals over runs:

- SoTL-E1, E2, E5 and the sum of all blocks, and the validation loss after the same block (a block's
  training loss is a mean over the block, so it is half a block older);
- the paired difference between SoTL-E1 and the validation loss, and whether one of them is better;
- both at equal cost: a validation pass costs processor time in which a run could train on;
- what a seed changes, from the runs with three seeds;
- the set in which dropout and batch size differ: all runs together, and within equal settings.

Saves a picture with a panel for each set. It needs the tables of `build_table.py`, also of a part
of the runs.

    python examples/language/correlations.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 20 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from _sets import LEAST, RunSet, main_sets, parse, read_set
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sotl import evaluate, rank_correlation, rank_correlation_curve
from lightning_sotl.cli.output import show_evaluation, show_table
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import notes
from lightning_sotl.plotting import save
from lightning_sotl.ranking.comparability import groups_of
from lightning_sotl.stats.intervals import (
    bootstrap_correlations,
    percentile_bounds,
    rank_correlation_difference,
    rank_correlation_interval,
)

ESTIMATORS = ("sotl-e1", "sotl-e2", "sotl-e5", "sotl", "sovl-e1")
NAMES = {
    "sotl-e1": "SoTL-E1",
    "sotl-e5": "SoTL-E5",
    "sotl": "SoTL of all blocks",
    "sovl-e1": "validation loss",
}
SHARES = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
COLORS = {"sotl-e1": "#0072b2", "sotl-e5": "#56b4e9", "sotl": "#009e73", "sovl-e1": "#d55e00"}
GROUPINGS = {
    "all runs together": (),
    "equal batch size": ("batch_size",),
    "equal dropout": ("dropout",),
}

Scores = NDArray[np.float64]


def blocks_of(runs: RunSet, shares: Sequence[float] = SHARES) -> list[int]:
    """Return the T's of the tables."""
    return sorted({max(1, round(share * runs.curves.epochs)) for share in shares})


def scores_of(runs: RunSet, name: str) -> Scores:
    """Return an estimator's scores after each block, shape `(runs, blocks)`; lower is better."""
    return named_estimator(name).scores(runs.curves)


def target_of(runs: RunSet) -> dict[str, Any]:
    """Return the arguments that every correlation here shares."""
    return {"target": runs.curves.final_metric, "target_mode": "min"}


def verdict(low: float, high: float) -> str:
    """Return which of two rankings is better, from the interval of their difference."""
    if low > 0:
        return "SoTL-E1 better"
    return "SoTL-E1 worse" if high < 0 else "undecided"


def show_correlations(runs: RunSet, bootstrap: dict[str, int]) -> None:
    """Print all estimators, and the paired difference between SoTL-E1 and the validation loss."""
    blocks = blocks_of(runs)
    result = evaluate(runs.curves, at=blocks, estimators=list(ESTIMATORS), **bootstrap)
    show_evaluation(dataclasses.replace(result, recommended=None), mode="min")
    for sentence in notes(result, runs.curves):
        print(f"note: {sentence}")
    gaps = rank_correlation_difference(
        scores_of(runs, "sotl-e1"), scores_of(runs, "sovl-e1"), **target_of(runs), **bootstrap
    )
    print("\nSoTL-E1 minus the validation loss after the same block:")
    rows = [_gap_row([str(at)], *(each[at - 1] for each in gaps)) for at in blocks]
    show_table(["T", "difference", "95% interval", ""], rows, left={3})


def show_equal_cost(runs: RunSet, bootstrap: dict[str, int]) -> list[str]:
    """Print SoTL-E1 after T blocks against validation losses that cost as much.

    A pass costs c blocks of training, so its run stops earlier: after T - c blocks with one pass,
    or T / (1 + c) with a pass after every block, as early stopping needs. A quarter of the
    validation sequences costs c / 4. Between two blocks the validation losses are interpolated,
    because a whole block less would be too high a price.
    """
    cost, sotl = runs.validation_cost, scores_of(runs, "sotl-e1")
    losses, quarter = scores_of(runs, "sovl-e1"), runs.quarter
    print(f"\nAt equal cost; a validation pass takes {cost:.3f} of a block's training:")
    rows = []
    for at in blocks_of(runs):
        ways = {
            "one pass": (at - cost, losses),
            "a pass each block": (at / (1 + cost), losses),
            "one pass, a quarter": (at - cost / 4, quarter),
        }
        for name, (stop, curve) in ways.items():
            if stop < 1:
                continue
            scores = (sotl[:, at - 1], interpolate(curve, stop))
            gap = rank_correlation_difference(*scores, **target_of(runs), **bootstrap)
            rho = [
                f"{rank_correlation(each, mode='min', **target_of(runs)):.3f}" for each in scores
            ]
            cells = [str(at), rho[0], name, f"{stop:.2f}", rho[1]]
            rows.append(_gap_row(cells, *map(float, gap)))
    header = ["T", "SoTL-E1", "validation", "at block", "rho", "difference", "95% interval", ""]
    show_table(header, rows, left={2, 7})
    return [row[-1] for row in rows]


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
    for at in blocks_of(every):
        cells = [str(at)]
        for name in ("sotl-e1", "sovl-e1"):
            scores = scores_of(every, name)[rows, at - 1]
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


def show_varied(varied: RunSet, bootstrap: dict[str, int]) -> None:
    """Print the correlations within groups of runs with equal settings, weighted by their size."""
    print(f"\n=== dropout and batch size differ: {len(varied.rows)} runs ===\n")
    blocks = blocks_of(varied, (0.1, 0.25, 0.5, 1.0))
    rows = []
    for title, fields in GROUPINGS.items():
        groups = [np.array(group) for group in groups_of(varied.rows, fields).values()]
        kept = [group for group in groups if group.size >= LEAST]
        if not kept:
            continue
        for name in ("sotl-e1", "sovl-e1"):
            scores = scores_of(varied, name)
            cells = [_within(varied, scores[:, at - 1], kept, bootstrap) for at in blocks]
            rows.append([title, str(len(kept)), str(sum(map(len, kept))), NAMES[name], *cells])
    header = ["", "groups", "runs", "estimator", *(f"T={at}" for at in blocks)]
    show_table(header, rows, left={0, 3})


def _within(
    runs: RunSet, scores: Scores, groups: list[NDArray[np.int64]], bootstrap: dict[str, int]
) -> str:
    target, weights = runs.curves.final_metric, [group.size for group in groups]
    rho = [rank_correlation(scores[each], target[each], target_mode="min") for each in groups]
    samples = [
        bootstrap_correlations(
            scores[group],
            target[group],
            target_mode="min",
            resamples=bootstrap["resamples"],
            seed=bootstrap["seed"] + number,  # groups of one size would be resampled alike
        )[:, 0]
        for number, group in enumerate(groups)
    ]
    mean = np.average(np.array(samples), axis=0, weights=weights)
    low, high = percentile_bounds(mean[:, np.newaxis])
    return f"{np.average(rho, weights=weights):.3f} [{low[0]:.3f}, {high[0]:.3f}]"


def _gap_row(cells: list[str], gap: float, low: float, high: float) -> list[str]:
    return [*cells, f"{gap:+.3f}", f"[{low:+.3f}, {high:+.3f}]", verdict(low, high)]


def draw(sets: list[RunSet], bootstrap: dict[str, int]) -> Figure:
    """Return the picture: a panel a set, with bands for SoTL-E1 and the validation loss."""
    figure = Figure(figsize=(5 * len(sets), 4.5), layout="constrained")
    for axes, runs in zip(
        np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True
    ):
        blocks = np.arange(1, runs.curves.epochs + 1)
        for name, color in COLORS.items():
            scores = scores_of(runs, name)
            rho = rank_correlation_curve(scores, mode="min", **target_of(runs))
            axes.plot(blocks, rho, color=color, label=NAMES[name])
            if name in ("sotl-e1", "sovl-e1"):
                low, high = rank_correlation_interval(
                    scores, mode="min", **target_of(runs), **bootstrap
                )
                axes.fill_between(blocks, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(title=f"{runs.title}: {len(runs.rows)} runs", xlabel="completed blocks T")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("rank correlation with the final test loss")
    return figure


def summarize(runs: RunSet, bootstrap: dict[str, int], verdicts: list[str]) -> str:
    """Return one sentence with the numbers of one set at a tenth of the training."""
    (at,) = blocks_of(runs, (0.1,))
    told = []
    for name in ("sotl-e1", "sovl-e1", "sotl"):
        scores = scores_of(runs, name)[:, at - 1]
        low, high = rank_correlation_interval(scores, mode="min", **target_of(runs), **bootstrap)
        rho = rank_correlation(scores, mode="min", **target_of(runs))
        told.append(f"{NAMES[name]} {rho:.3f} [{float(low):.3f}, {float(high):.3f}]")
    counts = {word: verdicts.count(word) for word in ("SoTL-E1 better", "SoTL-E1 worse")}
    return (
        f"Over {len(runs.rows)} runs with {runs.title}, the rank correlation with the final test "
        f"loss after {at} of {runs.curves.epochs} blocks is: {', '.join(told)}. At equal cost "
        f"SoTL-E1 is better in {counts['SoTL-E1 better']} and worse in "
        f"{counts['SoTL-E1 worse']} of {len(verdicts)} comparisons; about 1 in 20 would differ by "
        "chance."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, save the picture and print the sentences."""
    options: argparse.Namespace = parse(__doc__, argv)
    bootstrap = {"resamples": 50 if options.smoke else 1000, "seed": options.seed}
    sets, sentences = main_sets(options), []
    for runs in sets:
        print(f"\n=== {runs.title}: {len(runs.rows)} runs ===\n")
        show_correlations(runs, bootstrap)
        verdicts = show_equal_cost(runs, bootstrap)
        sentences.append(summarize(runs, bootstrap, verdicts))
    show_seeds(read_set("main", options))
    if (options.tables / "varied.npz").exists():
        varied = dataclasses.replace(read_set("varied", options), title="dropout and batch differ")
        if varied.usable:
            show_varied(varied, bootstrap)
            sets.append(varied)
    picture = options.output / "language_correlations.png"
    save(draw(sets, bootstrap), picture)
    print(f"\npicture in {os.path.relpath(picture)}\n")
    print("\n".join(sentences))


if __name__ == "__main__":
    main()
