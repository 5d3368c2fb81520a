"""How well SoTL-E1 ranks language models together, and within groups of equal settings.

In `main`, the groups have the same warm-up, and also the same architecture. In `varied`, they have
the same batch size or the same dropout. Prints the Spearman correlation with the final test loss
(for groups, the mean weighted by their size), with 95 % bootstrap intervals over runs. The
validation loss after the same block is beside it. Saves a picture with a panel for each grouping.

    python examples/language/mixed_settings.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 10 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _sets import (
    COLORS,
    LEAST,
    NAMES,
    RunSet,
    Scores,
    bootstrap_of,
    parse,
    read_set,
    save_picture,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sotl import rank_correlation_curve
from lightning_sotl.cli.output import show_table
from lightning_sotl.ranking.comparability import groups_of
from lightning_sotl.stats.intervals import bootstrap_correlations, percentile_bounds

GROUPINGS = {
    "main": {
        "all runs together": (),
        "equal warm-up": ("warmup",),
        "equal warm-up and architecture": ("warmup", "architecture"),
    },
    "varied": {
        "all runs together": (),
        "equal batch size": ("batch_size",),
        "equal dropout": ("dropout",),
    },
}
TITLES = {"main": "warm-up and architecture", "varied": "dropout and batch size"}
SHARES = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
SHOWN = ("sotl-e1", "sovl-e1")


@dataclass(frozen=True)
class Correlations:
    """Correlations after each block, with their bounds, each of shape `(blocks,)`."""

    rho: Scores
    low: Scores
    high: Scores


def groups_in(runs: RunSet, fields: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the row numbers of the groups that are large enough to rank."""
    groups = [np.array(group) for group in groups_of(runs.rows, fields).values()]
    return [group for group in groups if group.size >= LEAST]


def within(
    runs: RunSet, name: str, groups: list[NDArray[np.int64]], bootstrap: dict[str, int]
) -> Correlations:
    """Return the mean correlation within groups, weighted by their size."""
    scores, target = runs.scores(name), runs.curves.final_metric
    weights = [group.size for group in groups]
    rho = [
        rank_correlation_curve(scores[group], target[group], mode="min", target_mode="min")
        for group in groups
    ]
    samples = [
        bootstrap_correlations(
            scores[group],
            target[group],
            target_mode="min",
            resamples=bootstrap["resamples"],
            seed=bootstrap["seed"] + number,  # groups of one size would be resampled alike
        )
        for number, group in enumerate(groups)
    ]
    low, high = percentile_bounds(np.average(samples, axis=0, weights=weights))
    return Correlations(np.average(rho, axis=0, weights=weights), low, high)


def correlations(runs: RunSet, bootstrap: dict[str, int]) -> dict[tuple[str, str], Correlations]:
    """Return the correlations of each grouping that has large enough groups, and each score."""
    return {
        (title, name): within(runs, name, groups, bootstrap)
        for title, fields in GROUPINGS[runs.title].items()
        if (groups := groups_in(runs, fields))
        for name in SHOWN
    }


def show(runs: RunSet, found: dict[tuple[str, str], Correlations]) -> None:
    """Print a row for each grouping and score."""
    rows, blocks = [], runs.blocks(SHARES)
    for (title, name), each in found.items():
        groups = groups_in(runs, GROUPINGS[runs.title][title])
        cells = [
            f"{each.rho[at - 1]:.3f} [{each.low[at - 1]:.2f}, {each.high[at - 1]:.2f}]"
            for at in blocks
        ]
        rows.append([title, str(len(groups)), str(sum(map(len, groups))), NAMES[name], *cells])
    header = ["", "groups", "runs", "estimator", *(f"T={at}" for at in blocks)]
    print(f"\n=== {TITLES[runs.title]} differ: {len(runs.rows)} runs ===\n")
    show_table(header, rows, left={0, 3})


def draw(found: dict[str, dict[tuple[str, str], Correlations]]) -> Figure:
    """Return the picture: a row for each set of runs, a panel for each grouping."""
    columns = max(len(each) // len(SHOWN) for each in found.values())
    figure = Figure(figsize=(4.5 * columns, 3.8 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), columns, sharex=True, sharey=True, squeeze=False)
    for row, (of, each) in zip(rows, found.items(), strict=True):
        titles = dict.fromkeys(title for title, _ in each)
        for axes, title in zip(row, titles, strict=False):
            for name in SHOWN:
                _draw_curve(axes, each[title, name], name)
            axes.set(title=f"{TITLES[of]} differ:\n{title}", ylim=(-0.25, 1.02))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8, loc="lower right")
        row[0].set_ylabel("rank correlation")
    for axes in rows[-1]:
        axes.set_xlabel("completed blocks T")
    return figure


def _draw_curve(axes: Axes, each: Correlations, name: str) -> None:
    blocks = np.arange(1, each.rho.size + 1)
    axes.plot(blocks, each.rho, color=COLORS[name], label=NAMES[name])
    axes.fill_between(blocks, each.low, each.high, color=COLORS[name], alpha=0.15, linewidth=0)


def summarize(runs: RunSet, found: dict[tuple[str, str], Correlations]) -> str:
    """Return one sentence with the correlations at a tenth of the training."""
    (at,) = runs.blocks((0.1,))
    parts = [
        f"{each.rho[at - 1]:.3f} ({title})"
        for (title, name), each in found.items()
        if name == "sotl-e1"
    ]
    return (
        f"If {TITLES[runs.title]} differ, the rank correlation of SoTL-E1 after {at} of "
        f"{runs.curves.epochs} blocks is {', '.join(parts)}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, save the picture and print the sentences."""
    options = parse(__doc__, argv)
    found, sentences = {}, []
    for name in GROUPINGS:
        runs = read_set(name, options).where(name, group=name)
        if not runs.usable:
            raise SystemExit(
                f"Expected at least {LEAST} runs in '{name}' but got {len(runs.rows)}."
            )
        found[name] = correlations(runs, bootstrap_of(options))
        show(runs, found[name])
        sentences.append(summarize(runs, found[name]))
    save_picture(draw(found), "mixed_settings", options)
    print("\n".join(sentences))


if __name__ == "__main__":
    main()
