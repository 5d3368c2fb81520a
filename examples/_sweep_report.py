"""The report of the digits sweeps: a table, a figure and one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lightning_sotl import plotting

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # distinct for color-blind readers


@dataclass
class Run:
    """One architecture and its results.

    Attributes:
        kind: "mlp" or "conv".
        widths: Units or channels of the hidden layers.
        seed: The seed of the run's weights, dropout and shuffling.
        parameters: The number of parameters of the network.
        epoch_losses: Epoch (from 0) -> its training loss in nats, `sotl_e1` at that epoch.
        accuracies: Epoch -> validation accuracy after it, in [0, 1].
        checkpoint_path: The checkpoint after the last of these epochs.
        test_at_end: Test accuracy at the end of full training; NaN if not measured.
    """

    kind: str
    widths: tuple[int, ...]
    seed: int
    parameters: int = 0
    epoch_losses: dict[int, float] = field(default_factory=dict)
    accuracies: dict[int, float] = field(default_factory=dict)
    checkpoint_path: str | None = None
    test_at_end: float = math.nan

    @property
    def name(self) -> str:
        """The architecture in one word."""
        return "-".join([self.kind, *map(str, self.widths)]) if self.widths else "linear"

    @property
    def epochs(self) -> int:
        """The number of epochs that the run has trained."""
        return len(self.epoch_losses)


@dataclass(frozen=True)
class Outcome:
    """A finished sweep.

    Attributes:
        runs: All runs.
        pick: The run picked by validation accuracy among those trained to the end.
        rungs: The completed epochs at which runs were paused; the last is the full budget.
    """

    runs: Sequence[Run]
    pick: Run
    rungs: Sequence[int]

    @property
    def ranking(self) -> list[Run]:
        """The runs, longest trained first, then by their last training loss."""
        return sorted(self.runs, key=lambda run: (-run.epochs, run.epoch_losses[run.epochs - 1]))

    @property
    def finished(self) -> list[Run]:
        """The runs that the sweep trained to the end, in the same order."""
        return [run for run in self.ranking if run.epochs == self.rungs[-1]]


def print_table(outcome: Outcome) -> None:
    """Print one row per run, with a dash if its test accuracy was not measured."""
    print(
        f"\n{'rank':>4}  {'architecture':15} {'parameters':>10} {'epochs':>6} {'sotl_e1':>9}"
        f" {'val %':>7} {'test %':>7}"
    )
    for rank, run in enumerate(outcome.ranking, 1):
        last, test = run.epochs - 1, run.test_at_end
        print(
            f"{rank:4}  {run.name:15} {run.parameters:10} {run.epochs:6}"
            f" {run.epoch_losses[last]:9.4f} {100 * run.accuracies[last]:7.2f}"
            f" {'-' if math.isnan(test) else f'{100 * test:.2f}':>7}"
            + ("  <- pick" if run is outcome.pick else "")
        )


def save_picture(path: Path, outcome: Outcome) -> None:
    """Draw the training loss of each run up to its last epoch, and the rungs."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    finished = outcome.finished
    axes.plot([], [], "-", marker=".", color="0.6", markerfacecolor="0.25", label="paused")
    for run in reversed(outcome.ranking):
        style = {"color": "0.6", "linewidth": 1.0}
        if run in finished:
            place = finished.index(run)
            label = f"{run.name}{' (pick)' if run is outcome.pick else ''}"
            style = {"color": COLORS[place % len(COLORS)], "linewidth": 2.0, "label": label}
        completed = [epoch + 1 for epoch in run.epoch_losses]
        axes.plot(completed, list(run.epoch_losses.values()), **style)
        if run not in finished:
            axes.plot(completed[-1], run.epoch_losses[run.epochs - 1], ".", color="0.25")
    for rung in outcome.rungs:
        reached = sum(run.epochs >= rung for run in outcome.runs)
        axes.axvline(rung, color="black", linestyle="--", linewidth=0.8, zorder=0)
        axes.annotate(str(reached), (rung, 1.01), xycoords=("data", "axes fraction"), ha="center")
    axes.set_title("Runs that reached each rung (dashed)", fontsize=10, pad=18)
    axes.set_xticks([0, *outcome.rungs])
    axes.set(yscale="log", xlabel="completed epochs", ylabel="training loss of the epoch (nats)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper right", framealpha=1, edgecolor="none")
    plotting.save(figure, path)


def summarize(outcome: Outcome, *, verify: bool) -> str:
    """Return a sentence on the cost and the pick; with `verify`, also on full training."""
    runs, stop, end = len(outcome.runs), outcome.rungs[0], outcome.rungs[-1]
    spent, full = sum(run.epochs for run in outcome.runs), runs * end
    pick, finished = outcome.pick, len(outcome.finished)
    if len(outcome.rungs) == 2:
        how = f"Stopping {runs} runs after {stop} of {end} epochs and training the best {finished}"
    else:
        how = f"Pausing {runs} runs at {len(outcome.rungs) - 1} rungs and training {finished}"
    sentence = (
        f"{how} to the end took {spent} of the {full} epochs of full training "
        f"({spent / full:.0%}) and picked {pick.name} with a test accuracy of "
        f"{pick.test_at_end:.2%}"
    )
    if not verify:
        return f"{sentence}."
    tests = np.array([run.test_at_end for run in outcome.runs])
    place = 1 + int((tests > pick.test_at_end).sum())
    # Both are oriented so that +1 is full agreement: low losses and high accuracies are good.
    by_losses = -spearmanr([run.epoch_losses[stop - 1] for run in outcome.runs], tests).statistic
    by_accuracy = spearmanr([run.accuracies[stop - 1] for run in outcome.runs], tests).statistic
    return (
        f"{sentence}, number {place} of {runs} by test accuracy (the best has "
        f"{tests.max():.2%}), where the Spearman correlation with the final test accuracy is "
        f"{by_losses:.2f} for sotl_e1 at epoch {stop} and {by_accuracy:.2f} for the validation "
        f"accuracy at epoch {stop}."
    )
