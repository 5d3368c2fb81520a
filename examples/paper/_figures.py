"""What the figures of rank correlation share: options, the table, paired comparisons, sentences.

The unit that is ranked is a network: where a table holds several trainings of one, as
`tables/cells.npz` does, only the first of each counts, so that no network is counted twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl import LearningCurves, evaluate, rank_correlation
from lightning_sotl.estimator_table import named_estimator
from lightning_sotl.evaluation import Evaluation, notes
from lightning_sotl.intervals import bootstrap_correlations, percentile_bounds
from lightning_sotl.plotting import draw_evaluation, save
from lightning_sotl.scorer import FINAL_LOSS
from lightning_sotl.screen import show_evaluation

HERE = Path(__file__).parent
BUDGET = 200  # epochs of the paper's networks on NAS-Bench-201, to which its T's and E's belong
SHARES = (1 / 40, 1 / 20, 1 / 10, 1 / 4, 1 / 2, 3 / 4, 1)
WORDS = {"held": True, "did not hold": False, "undecided": None}
_NAMES = {"sotl": "SoTL", "sovl": "SoVL", "sova": "SoVA", "lcsvr": "LcSVR", "-e": "-E"}


@dataclass(frozen=True)
class Networks:
    """What is ranked.

    Attributes:
        curves: A row a network.
        name: Of the table.
        resamples: How many the intervals are made of.
        seed: Of the resamples and of whatever else is drawn.
        notes: What a reader should know of the rows.
        trainings: All rows of the file, of which `curves` are some.
        columns: What stands beside all rows, in the file `NAME_runs.npz`.
    """

    curves: LearningCurves
    name: str
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()
    trainings: LearningCurves | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def epoch(self, share: float) -> int:
        """Return T for a share of the training, at least 1."""
        return max(1, round(share * self.curves.epochs))

    def window(self, paper: int) -> int:
        """Return E for a window of the paper, which trained for 200 epochs, at least 1."""
        return max(1, round(paper * self.curves.epochs / BUDGET))

    def have(self, *names: str) -> list[str]:
        """Return those of some estimators whose curve the table has."""
        return [
            name
            for name in names
            if (
                self.curves.final_loss is not None
                if name == FINAL_LOSS
                else named_estimator(name).is_in(self.curves)
            )
        ]

    @property
    def bootstrap(self) -> dict[str, int]:
        """How intervals are made."""
        return {"resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class Gap:
    """Two rank correlations with one target, and the 95 % interval of their difference."""

    first: float
    second: float
    low: float
    high: float

    @property
    def leads(self) -> bool | None:
        """Whether the first is above the second; None where the interval holds 0."""
        if self.low > 0:
            return True
        return False if self.high < 0 else None

    def __str__(self) -> str:
        """Return both and their difference with its interval."""
        gap = self.first - self.second
        return (
            f"{self.first:.3f} against {self.second:.3f}, "
            f"difference {gap:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        )


@dataclass(frozen=True)
class Part:
    """A part of what the paper claims, whether it held (None: undecided), and the numbers."""

    claim: str
    held: bool | None
    numbers: object


def options_of(
    doc: str | None, argv: Sequence[str] | None, *own: argparse.ArgumentParser
) -> argparse.Namespace:
    """Return the options that all figures have, and a figure's own."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], parents=own)
    parser.add_argument(
        "--table",
        type=Path,
        default=HERE / "tables" / "cells.npz",
        metavar="FILE",
        help="an .npz of LearningCurves, NAS-Bench-NLP's zip or folder, or NATS-Bench's file",
    )
    parser.add_argument("--dataset", help="of NATS-Bench: cifar10-valid, cifar100, ImageNet16-120")
    parser.add_argument("--trust", action="store_true", help="allow NATS-Bench's pickle")
    parser.add_argument("--networks", type=int, default=5000, help="draw so many of more (5000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn, and of intervals")
    parser.add_argument("--smoke", action="store_true", help="40 networks and 50 resamples")
    parser.add_argument("--output", type=Path, default=HERE.parent / "output", metavar="DIR")
    return parser.parse_args(argv)


def read_networks(options: argparse.Namespace) -> Networks:
    """Read the table and leave out what must not be ranked: further trainings, surplus networks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, or has no target.
    """
    trainings, columns, said = _read(options)
    if trainings.final_metric is None:
        raise ValueError(f"Expected '{options.table}' to have `final_metric` but it is absent.")
    rows = np.arange(trainings.runs)
    if "repeat" in columns:
        rows = np.flatnonzero(columns["repeat"] == 0)
        further = trainings.runs - rows.size
        said += [f"{further} further trainings of the same networks left out."] * (further > 0)
    most = min(options.networks, 40) if options.smoke else options.networks
    if rows.size > most:
        rows = np.sort(np.random.default_rng(options.seed).choice(rows, most, replace=False))
        said.append(f"{most} networks drawn with seed {options.seed}.")
    name = options.table.stem + (f" {options.dataset}" if options.dataset else "")
    return Networks(
        trainings.select(rows),
        name,
        50 if options.smoke else 1000,
        options.seed,
        tuple(said),
        trainings,
        columns,
    )


def _read(
    options: argparse.Namespace,
) -> tuple[LearningCurves, dict[str, NDArray[Any]], list[str]]:
    path = options.table
    if options.dataset:
        from lightning_sotl.curves.nats_bench import read_nats_bench

        return read_nats_bench(path, dataset=options.dataset, trust=options.trust), {}, []
    if path.suffix != ".npz":
        from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp

        return (lambda curves, said: (curves, {}, list(said)))(*read_nas_bench_nlp(path))
    beside = path.with_name(f"{path.stem}_runs.npz")
    columns = {}
    if beside.exists():
        with np.load(beside, allow_pickle=False) as archive:
            columns = dict(archive)
    return LearningCurves.load(path), columns, []


def assess(
    networks: Networks, names: Iterable[str], at: Iterable[int] | None = None
) -> Evaluation:
    """Return the rank correlations of some estimators at the T's of the tables.

    Estimators whose curve the table lacks are left out, and those that need more epochs.
    """
    curves = networks.curves
    epochs = sorted({networks.epoch(share) for share in SHARES} if at is None else set(at))
    wanted = [
        name
        for name in dict.fromkeys(networks.have(*names))
        if name == FINAL_LOSS or named_estimator(name).first_epoch <= epochs[-1]
    ]
    result = evaluate(curves, at=epochs, estimators=wanted, **networks.bootstrap)
    # What `evaluate` recommends is no part of the paper.
    return dataclasses.replace(result, recommended=None)


def show(networks: Networks, result: Evaluation) -> None:
    """Print the table of rank correlations and what a reader should know of it."""
    curves = networks.curves
    print(" ".join([f"\nTable '{networks.name}', {curves.epochs} epochs.", *networks.notes]))
    show_evaluation(result, target="final_metric", mode=str(curves.final_mode))
    for sentence in notes(result, curves):
        print(f"note: {sentence}")


def draw(networks: Networks, result: Evaluation, title: str) -> Any:
    """Return the picture of an evaluation, the second half shaded as in the paper's Fig. 4."""
    figure = draw_evaluation(networks.curves, result)
    axes = figure.axes[0]
    axes.axvspan(networks.epoch(0.5), networks.curves.epochs, color="grey", alpha=0.1, zorder=0)
    axes.set_title(f"{title}: {networks.name}, {result.runs} networks", fontsize=10)
    return figure


def compare(networks: Networks, first: str, second: str, at: int, other: int = 0) -> Gap:
    """Return the gap between two estimators after T epochs, or the second after `other` ones.

    Both see the same resamples of the networks, so the interval is that of a paired difference.
    """
    pair = []
    for name, epoch in ((first, at), (second, other or at)):
        if name == FINAL_LOSS:
            pair.append((networks.curves.final_loss, "min"))
            continue
        entry = named_estimator(name)
        scores = entry.scores(networks.curves)[:, epoch - 1]
        pair.append((scores, entry.mode_in(networks.curves)))
    return gap_between(networks, *pair)


def gap_between(
    networks: Networks,
    first: tuple[NDArray[np.float64], Any],
    second: tuple[NDArray[np.float64], Any],
) -> Gap:
    """Return the gap between two scores of shape `(networks,)`, each with its mode."""
    curves = networks.curves
    rho, samples = [], []
    for scores, mode in (first, second):
        options = {"mode": mode, "target_mode": curves.final_mode}
        rho.append(rank_correlation(scores, curves.final_metric, **options))
        samples.append(
            bootstrap_correlations(scores, curves.final_metric, **options, **networks.bootstrap)
        )
    low, high = percentile_bounds(samples[0] - samples[1])
    return Gap(*rho, float(low[0]), float(high[0]))


def label(name: str, networks: Networks) -> str:
    """Return what the paper calls an estimator."""
    if name == FINAL_LOSS:
        return "the final test loss"
    if name == "val-metric":
        return "Val Acc" if networks.curves.metric_mode == "max" else "the validation metric"
    for ours, papers in _NAMES.items():
        name = name.replace(ours, papers)
    return name


def above(networks: Networks, first: str, second: str, at: int) -> Part:
    """Return the claim that one estimator is above another after T epochs, and what was found."""
    gap = compare(networks, first, second, at)
    names = f"{label(first, networks)} above {label(second, networks)}"
    return Part(f"{names} at T = {at}", gap.leads, gap)


def stays_ahead(ahead: NDArray[np.float64], behind: NDArray[np.float64]) -> int | None:
    """Return the first T from which on one correlation is at least another to the end, or None."""
    at_least = ahead >= behind
    if not at_least[-1]:
        return None
    return int(at_least.size - np.argmin(at_least[::-1]) + 1) if not at_least.all() else 1


def sentence(networks: Networks, result: Evaluation, parts: Sequence[Part]) -> str:
    """Return in one sentence which parts of the claim held here, and by how much."""
    words = {held: word for word, held in WORDS.items()}
    told = "; ".join(f"{part.claim}: {words[part.held]} ({part.numbers})" for part in parts)
    held = sum(part.held is True for part in parts)
    return (
        f"Over {result.runs} networks of '{networks.name}' {held} of {len(parts)} parts of the "
        f"paper's claim held: {told}."
    )


def finish(options: argparse.Namespace, figure: Any, stem: str, said: str) -> None:
    """Save the picture and print where it is, and the sentence."""
    picture = options.output / f"{stem}.png"
    save(figure, picture)
    print(f"\npicture in {os.path.relpath(picture)}\n")
    print(said)
