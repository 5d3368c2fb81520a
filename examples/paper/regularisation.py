"""Where SoTL-E fails: networks that were trained with different regularization.

The paper has no such figure, because all its networks share one recipe. Label smoothing, dropout
and weight decay change the training loss without a matching change of the accuracy, so training
losses mainly rank the recipes. The table "regularised" has the first networks of "cells", with the
same initial weights and a recipe drawn at random for each.

The script compares three rank correlations with the final test accuracy: over all runs together;
within groups of runs that share a recipe or a part of it, as `lightning-sotl rank --group-by` ranks
them; and of the same networks in "cells", all under one recipe. The value within groups is the mean
over groups of at least 5 runs, weighted by size. Its 95% interval resamples the runs within each
group, and is slightly too low for small groups.

Figure: left, final test accuracy against SoTL-E by label smoothing; right, correlations over T.
Time: 6 s.

    python examples/paper/regularisation.py [--table FILE] [--control FILE] [--seed 0] [--smoke]

Both tables need the file `NAME_runs.npz` that `build_table.py` writes with them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _figures import compare, finish, label
from _networks import HERE, SHARES, Networks, options_of, read_networks
from matplotlib.figure import Figure

from lightning_sotl import LearningCurves, rank_correlation
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.ranking.comparability import groups_of
from lightning_sotl.stats.intervals import bootstrap_correlations, percentile_bounds

GROUPINGS = {
    "all runs together": (),
    "equal label smoothing": ("label_smoothing",),
    "equal dropout": ("dropout",),
    "equal weight decay": ("weight_decay",),
    "equal smoothing and dropout": ("label_smoothing", "dropout"),
    "equal in all three": ("label_smoothing", "dropout", "weight_decay"),
}
CONTROL = "same networks, one recipe"
ESTIMATORS = ("sotl-e1", "val-metric")
FEWEST = 5  # runs that a group needs
TOP = 10
COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class Found:
    """A rank correlation within groups, with its interval and the numbers of groups and runs."""

    rho: float
    low: float
    high: float
    groups: int
    runs: int

    def __str__(self) -> str:
        """Return the correlation and its interval."""
        return f"{self.rho:.3f} [{self.low:.3f}, {self.high:.3f}]"


def correlate_within(
    networks: Networks, groups: Sequence[Sequence[int]], name: str, at: int
) -> Found:
    """Return the mean rank correlation within groups of at least 5 runs, weighted by size."""
    entry, curves = named_estimator(name), networks.curves
    scores = entry.scores(curves)[:, at - 1]
    kept = [np.array(group) for group in groups if len(group) >= FEWEST]
    if not kept:
        return Found(np.nan, np.nan, np.nan, 0, 0)
    options: dict[str, Any] = {"mode": entry.mode_in(curves), "target_mode": curves.final_mode}
    weights = np.array([group.size for group in kept], dtype=np.float64)
    rho, samples = [], []
    for number, group in enumerate(kept):
        pair = (scores[group], curves.final_metric[group])
        rho.append(rank_correlation(*pair, **options))
        # With one seed, groups of equal size would draw the same rows.
        drawn = {**networks.bootstrap, "seed": networks.seed + number}
        samples.append(bootstrap_correlations(*pair, **options, **drawn)[:, 0])
    mean = np.average(np.array(samples), axis=0, weights=weights)
    low, high = percentile_bounds(mean[:, np.newaxis])
    value = float(np.average(rho, weights=weights))
    return Found(value, float(low[0]), float(high[0]), len(kept), int(weights.sum()))


def one_recipe(regularised: Networks, control: Networks) -> Networks:
    """Return the networks of the control table that are also in the other table.

    Raises:
        SystemExit: If there are none.
    """
    curves: LearningCurves = control.curves
    wanted = set(regularised.curves.names)
    rows = [row for row, name in enumerate(curves.names) if name in wanted]
    if len(rows) < FEWEST:
        raise SystemExit(f"'{control.name}' and '{regularised.name}' have no networks in common.")
    return Networks(curves.select(rows), control.name, regularised.resamples, regularised.seed)


def facts_of(networks: Networks) -> list[dict[str, Any]]:
    """Return the recipe of each network, in the form that `groups_of` reads.

    Raises:
        SystemExit: If `NAME_runs.npz` is missing or lacks the recipes.
    """
    fields = GROUPINGS["equal in all three"]
    if networks.trainings is None or not set(fields) <= networks.columns.keys():
        raise SystemExit(f"'{networks.name}' lacks a `_runs.npz` file with {', '.join(fields)}.")
    place = {name: row for row, name in enumerate(networks.trainings.names)}
    rows = [place[name] for name in networks.curves.names]
    return [{name: float(networks.columns[name][row]) for name in fields} for row in rows]


def correlate(regularised: Networks, alike: Networks, at: int) -> dict[str, dict[str, Found]]:
    """Return estimator -> grouping -> correlation after `at` epochs."""
    facts = facts_of(regularised)
    found: dict[str, dict[str, Found]] = {}
    for name in ESTIMATORS:
        rows = found[name] = {}
        for title, fields in GROUPINGS.items():
            groups = list(groups_of(facts, fields).values())
            rows[title] = correlate_within(regularised, groups, name, at)
        rows[CONTROL] = correlate_within(alike, [range(alike.curves.runs)], name, at)
    return found


def show_table(regularised: Networks, alike: Networks, found: dict[int, Any]) -> None:
    """Print the correlations of all groupings."""
    print(f"\nTable '{regularised.name}': rank correlation with the final metric, 95% intervals")
    header = "".join(f"  {f'T = {at}':>22}" for at in found)
    for name in ESTIMATORS:
        print(f"{name:28} {'groups':>6} {'runs':>4}{header}")
        for title in (*GROUPINGS, CONTROL):
            cells = [rows[name][title] for rows in found.values()]
            texts = "".join(f"  {cell!s:>22}" for cell in cells)
            print(f"{title:28} {cells[0].groups:6} {cells[0].runs:4}{texts}")


def show_recipes(regularised: Networks, at: int) -> None:
    """Print how label smoothing changes loss, accuracy and the top of the ranking."""
    smoothing = np.array([one["label_smoothing"] for one in facts_of(regularised)])
    losses = regularised.curves.train_loss[:, at - 1]
    target = regularised.curves.final_metric
    by_loss, by_target = np.argsort(losses)[:TOP], np.argsort(-target)[:TOP]
    counts = [Counter(smoothing[best].tolist()) for best in (by_loss, by_target)]
    print(
        f"\nMean SoTL-E1 at T = {at} and mean final metric by label smoothing, and how many of the "
        f"best {TOP} runs by either have it:"
    )
    print(f"smoothing  runs  SoTL-E1   final  {'best by SoTL-E1':>15}  {'best by final':>13}")
    for value in np.unique(smoothing):
        rows = smoothing == value
        loss, final = losses[rows].mean(), target[rows].mean()
        cells = [count[float(value)] for count in counts]
        print(f"{value:9g}  {rows.sum():4}  {loss:7.4f}  {final:.4f}  {cells[0]:15}  {cells[1]:13}")


def picture(regularised: Networks, alike: Networks, at: int) -> Any:
    """Draw losses and accuracies by label smoothing, and correlations over T."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    smoothing = np.array([one["label_smoothing"] for one in facts_of(regularised)])
    curves = regularised.curves
    for value, color in zip(np.unique(smoothing), COLORS, strict=False):
        rows = smoothing == value
        points = (curves.train_loss[rows, at - 1], curves.final_metric[rows])
        left.plot(*points, "o", color=color, markersize=4, label=f"label smoothing {value:g}")
    left.set(xlabel=f"SoTL-E1 at T = {at}, in nats", ylabel="final metric")
    epochs = range(1, curves.epochs + 1)
    together, within = "all runs together", "equal smoothing and dropout"
    facts, one = facts_of(regularised), [range(alike.curves.runs)]
    cases = [
        (regularised, groups_of(facts, GROUPINGS[within]).values(), "sotl-e1", within),
        (regularised, groups_of(facts, GROUPINGS[together]).values(), "sotl-e1", together),
        (alike, one, "sotl-e1", CONTROL),
        (regularised, groups_of(facts, GROUPINGS[together]).values(), "val-metric", together),
    ]
    for (networks, groups, name, title), color in zip(cases, COLORS, strict=True):
        bare = Networks(networks.curves, networks.name, resamples=1, seed=0)
        found = [correlate_within(bare, list(groups), name, epoch).rho for epoch in epochs]
        right.plot(epochs, found, color=color, label=f"{label(name, networks)}, {title}")
    right.set(xlabel="completed epochs T", ylabel="rank correlation with the final metric")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def summarize(regularised: Networks, found: dict[int, dict[str, dict[str, Found]]]) -> str:
    """Return one sentence on how mixed recipes change the ranking, early and at the end.

    The ranking "fails" or is "restored" only if the two intervals do not overlap.
    """
    results = []
    for at in (regularised.epoch(1 / 4), regularised.curves.epochs):
        ours = found[at]["sotl-e1"]
        mixed, within, alike = (
            ours[title] for title in ("all runs together", "equal smoothing and dropout", CONTROL)
        )
        fails = "fails" if mixed.high < alike.low else "is not shown to fail"
        cure = "restores" if within.low > mixed.high else "is not shown to restore"
        against = compare(regularised, "sotl-e1", "val-metric", at)
        verdict = {True: "above", False: "below", None: "level with"}[against.leads]
        results.append(
            f"at T = {at} it {fails}, with a rank correlation of {mixed} over all runs against "
            f"{alike} for the same networks under one recipe, ranking within equal smoothing and "
            f"dropout {cure} it ({within}), and over all runs it is {verdict} "
            f"{label('val-metric', regularised)} ({against})"
        )
    return (
        f"SoTL-E1 on the {regularised.curves.runs} runs of '{regularised.name}', whose recipes "
        f"differ: {'; '.join(results)}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and print where the method fails."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--control", type=Path, default=HERE / "tables" / "cells.npz", metavar="FILE")
    options = options_of(__doc__, argv, own, table="regularised")
    regularised = read_networks(options)
    changed = {"table": options.control, "networks": sys.maxsize, "smoke": False}
    alike = one_recipe(
        regularised, read_networks(argparse.Namespace(**{**vars(options), **changed}))
    )
    shares = sorted({regularised.epoch(share) for share in SHARES[2:]})
    found = {at: correlate(regularised, alike, at) for at in shares}
    at = regularised.epoch(1 / 4)
    show_table(regularised, alike, found)
    show_recipes(regularised, at)
    summary = summarize(regularised, found)
    finish(options, picture(regularised, alike, at), "regularisation", summary)


if __name__ == "__main__":
    main()
