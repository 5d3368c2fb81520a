"""How well SoTL-E1 ranks language models whose dropout and batch size differ.

Prints the Spearman correlation with the final test loss for all runs together, and within groups of
runs with the same batch size or the same dropout (the mean over groups, weighted by their size),
with 95 % bootstrap intervals over runs. The validation loss after the same block is beside it.
Saves a picture with a panel for each grouping. It needs the table `varied` of `build_table.py`.

    python examples/language/mixed_settings.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 5 s.
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
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sotl import rank_correlation_curve
from lightning_sotl.cli.output import show_table
from lightning_sotl.ranking.comparability import groups_of
from lightning_sotl.stats.intervals import bootstrap_correlations, percentile_bounds

GROUPINGS = {
    "all runs together": (),
    "equal batch size": ("batch_size",),
    "equal dropout": ("dropout",),
}
SHARES = (0.1, 0.25, 0.5, 1.0)
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


def show(runs: RunSet, found: dict[tuple[str, str], Correlations]) -> None:
    """Print a row for each grouping and score."""
    rows, blocks = [], runs.blocks(SHARES)
    for (title, name), each in found.items():
        groups = groups_in(runs, GROUPINGS[title])
        cells = [
            f"{each.rho[at - 1]:.3f} [{each.low[at - 1]:.3f}, {each.high[at - 1]:.3f}]"
            for at in blocks
        ]
        rows.append([title, str(len(groups)), str(sum(map(len, groups))), NAMES[name], *cells])
    header = ["", "groups", "runs", "estimator", *(f"T={at}" for at in blocks)]
    show_table(header, rows, left={0, 3})


def draw(found: dict[tuple[str, str], Correlations]) -> Figure:
    """Return the picture: a panel a grouping."""
    titles = list(dict.fromkeys(title for title, _ in found))
    figure = Figure(figsize=(5 * len(titles), 4.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(titles), sharey=True))
    for axes, title in zip(panels, titles, strict=True):
        for name in SHOWN:
            each = found[title, name]
            blocks = np.arange(1, each.rho.size + 1)
            axes.plot(blocks, each.rho, color=COLORS[name], label=NAMES[name])
            axes.fill_between(
                blocks, each.low, each.high, color=COLORS[name], alpha=0.15, linewidth=0
            )
        axes.set(title=title, xlabel="completed blocks T")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("rank correlation with the final test loss")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, save the picture and print a sentence."""
    options = parse(__doc__, argv)
    bootstrap, runs = bootstrap_of(options), read_set("varied", options)
    found = {
        (title, name): within(runs, name, groups, bootstrap)
        for title, fields in GROUPINGS.items()
        if (groups := groups_in(runs, fields))
        for name in SHOWN
    }
    if not found:
        raise SystemExit(f"Expected at least {LEAST} finished runs but got {len(runs.rows)}.")
    print(f"\n=== dropout and batch size differ: {len(runs.rows)} runs ===\n")
    show(runs, found)
    save_picture(draw(found), "mixed_settings", options)
    (at,) = runs.blocks((0.25,))
    parts = [
        f"{NAMES[name]} {each.rho[at - 1]:.3f} with {title}"
        for (title, name), each in found.items()
    ]
    print(f"After {at} of {runs.curves.epochs} blocks the rank correlation is: {'; '.join(parts)}.")


if __name__ == "__main__":
    main()
