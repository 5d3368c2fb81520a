"""Tables, paired comparisons, pictures and sentences for the figures of rank correlation."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _networks import SHARES, Networks
from numpy.typing import NDArray

from lightning_sotl import evaluate, rank_correlation
from lightning_sotl.cli.output import show_evaluation
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import FINAL_LOSS, LCSVR, Evaluation, notes
from lightning_sotl.plotting import draw_evaluation, save
from lightning_sotl.stats.intervals import rank_correlation_difference

WORDS = {True: "held", False: "did not hold", None: "undecided"}
_NAMES = {"sotl": "SoTL", "sovl": "SoVL", "sova": "SoVA", "lcsvr": "LcSVR", "-e": "-E"}
BANDS = 40  # number of T's with an interval in the pictures

Scores = tuple[NDArray[np.float64], Any]  # values of shape (networks,), and their mode


@dataclass(frozen=True)
class Gap:
    """Two rank correlations with one target, and the 95% interval of their difference."""

    first: float
    second: float
    low: float
    high: float

    @property
    def leads(self) -> bool | None:
        """Whether the first is higher; None if the interval of the difference contains 0."""
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
    """One part of the paper's claim, whether it held (None: undecided), and the numbers."""

    claim: str
    held: bool | None
    numbers: object


def assess(networks: Networks, names: Iterable[str], at: Iterable[int] | None = None) -> Evaluation:
    """Return the rank correlations of the named estimators at each T in `at`.

    An estimator is left out if the table lacks its curve or has too few epochs for it.
    """
    curves = networks.curves
    epochs = sorted({networks.epoch(share) for share in SHARES} if at is None else set(at))
    wanted = [
        name
        for name in dict.fromkeys(networks.have(*names))
        if name == FINAL_LOSS or named_estimator(name).first_epoch <= epochs[-1]
    ]
    result = evaluate(curves, at=epochs, estimators=wanted, **networks.bootstrap)
    # The paper recommends no E and T from the data, as `evaluate` does.
    return dataclasses.replace(result, recommended=None)


def show(networks: Networks, result: Evaluation) -> None:
    """Print the table of rank correlations and its notes."""
    curves = networks.curves
    print(" ".join([f"\nTable '{networks.name}', {curves.epochs} epochs.", *networks.notes]))
    show_evaluation(result, mode=str(curves.final_mode))
    for sentence in notes(result, curves):
        print(f"note: {sentence}")


def draw(networks: Networks, result: Evaluation, title: str) -> Any:
    """Draw an evaluation, with the second half of training shaded as in the paper's Fig. 4.

    The bands need intervals at more T's than the tables show.
    """
    names = [name for name in result.estimators if name != LCSVR]
    last = networks.curves.epochs
    dense = assess(
        networks, names, np.linspace(1, last, min(last, BANDS)).round().astype(int).tolist()
    )
    whole = dataclasses.replace(result, estimators={**result.estimators, **dense.estimators})
    figure = draw_evaluation(networks.curves, whole)
    axes = figure.axes[0]
    axes.axvspan(networks.epoch(0.5), networks.curves.epochs, color="gray", alpha=0.1, zorder=0)
    axes.set_title(f"{title}: {networks.name}, {result.runs} networks", fontsize=10)
    return figure


def compare(networks: Networks, first: str, second: str, at: int, other: int = 0) -> Gap:
    """Return the gap between two estimators after `at` epochs.

    Both use the same resamples of the networks, so the interval is that of a paired difference.

    Args:
        networks: The networks to rank.
        first: Name of the first estimator.
        second: Name of the second estimator.
        at: The T of both.
        other: The T of the second, if it differs.
    """
    return gap_between(
        networks, scores_of(networks, first, at), scores_of(networks, second, other or at)
    )


def scores_of(networks: Networks, name: str, at: int) -> Scores:
    """Return an estimator's scores after `at` epochs, and their mode."""
    if name == FINAL_LOSS:
        return networks.curves.final_loss, "min"
    entry = named_estimator(name)
    return entry.scores(networks.curves)[:, at - 1], entry.mode_in(networks.curves)


def gap_between(networks: Networks, first: Scores, second: Scores) -> Gap:
    """Return the gap between two sets of scores."""
    curves = networks.curves
    target = {"target": curves.final_metric, "target_mode": curves.final_mode}
    rho = [rank_correlation(scores, mode=mode, **target) for scores, mode in (first, second)]
    _, low, high = rank_correlation_difference(
        first[0], second[0], mode=first[1], others_mode=second[1], **target, **networks.bootstrap
    )
    return Gap(*rho, float(low), float(high))


def label(name: str, networks: Networks) -> str:
    """Return the paper's name for an estimator."""
    if name == FINAL_LOSS:
        return "the final test loss"
    if name == "val-metric":
        return "Val Acc" if networks.curves.metric_mode == "max" else "the validation metric"
    for ours, papers in _NAMES.items():
        name = name.replace(ours, papers)
    return name


def above(networks: Networks, first: str, second: str, at: int) -> Part:
    """Test the claim that one estimator ranks better than another after `at` epochs."""
    gap = compare(networks, first, second, at)
    names = f"{label(first, networks)} above {label(second, networks)}"
    return Part(f"{names} at T = {at}", gap.leads, gap)


def stays_ahead(ahead: NDArray[np.float64], behind: NDArray[np.float64]) -> int | None:
    """Return the first T from which `ahead` is at least `behind` to the end, or None."""
    at_least = ahead >= behind
    if not at_least[-1]:
        return None
    return int(at_least.size - np.argmin(at_least[::-1]) + 1) if not at_least.all() else 1


def sentence(networks: Networks, result: Evaluation, parts: Sequence[Part]) -> str:
    """Return one sentence on which parts of the claim held, with the numbers."""
    results = "; ".join(f"{part.claim}: {WORDS[part.held]} ({part.numbers})" for part in parts)
    held = sum(part.held is True for part in parts)
    return (
        f"Over {result.runs} networks of '{networks.name}', {held} of {len(parts)} parts of the "
        f"paper's claim held: {results}{networks.caveat}."
    )


def finish(options: argparse.Namespace, figure: Any, stem: str, summary: str) -> None:
    """Save the picture, and print its path and the summary."""
    picture = options.output / f"{stem}.png"
    save(figure, picture)
    print(f"\npicture in {os.path.relpath(picture)}\n")
    print(summary)
