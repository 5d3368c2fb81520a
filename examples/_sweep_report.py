"""What the digits sweep shows of its outcome: a table, a picture and one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lightning_sotl import plotting

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # colour-blind readers tell them apart


@dataclass
class Run:
    """One architecture, and what the sweep knows of it; NaN is not measured.

    Attributes:
        kind: "mlp" or "conv".
        widths: Units or channels of the hidden layers.
        seed: Of the run's weights, dropout and shuffling.
        parameters: How many the network has.
        sotl_e1: Training loss of the last epoch before T, in nats. Lower is better.
        val_at_stop: Validation accuracy at T, in [0, 1].
        val_at_end: The same at the end of full training.
        test_at_end: Test accuracy at the end of full training.
        epoch_losses: Epoch (from 0) -> its training loss, in nats.
        checkpoint_path: What the stopper saved at T.
    """

    kind: str
    widths: tuple[int, ...]
    seed: int
    parameters: int = 0
    sotl_e1: float = math.nan
    val_at_stop: float = math.nan
    val_at_end: float = math.nan
    test_at_end: float = math.nan
    epoch_losses: dict[int, float] = field(default_factory=dict)
    checkpoint_path: str | None = None

    @property
    def name(self) -> str:
        """The architecture in one word, also the folder of its logs."""
        return "-".join([self.kind, *map(str, self.widths)]) if self.widths else "linear"


@dataclass(frozen=True)
class Outcome:
    """A finished sweep.

    Attributes:
        ranking: All runs, the lowest `sotl_e1` first.
        promoted: How many of them, from the first on, were trained to the end.
        pick: The promoted run with the best validation accuracy at the end.
        stop_epoch: T, the completed epochs after which each run was stopped.
        budget: The epochs of full training.
    """

    ranking: Sequence[Run]
    promoted: int
    pick: Run
    stop_epoch: int
    budget: int


def print_table(outcome: Outcome) -> None:
    """Print the runs from the lowest `sotl_e1` on; what was not measured is a dash."""

    def percent(accuracy: float) -> str:
        return "-" if math.isnan(accuracy) else f"{100 * accuracy:.2f}"

    stop, end = outcome.stop_epoch, outcome.budget
    columns = (f"val {stop}", f"val {end}", f"test {end}")
    print(f"\n{'':44}accuracy in % after epoch")
    print(
        f"{'rank':>4}  {'architecture':15} {'parameters':>10} {'sotl_e1':>9}"
        + "".join(f" {column:>7}" for column in columns)
    )
    for rank, run in enumerate(outcome.ranking, 1):
        accuracies = (run.val_at_stop, run.val_at_end, run.test_at_end)
        print(
            f"{rank:4}  {run.name:15} {run.parameters:10} {run.sotl_e1:9.4f}"
            + "".join(f" {percent(accuracy):>7}" for accuracy in accuracies)
            + ("  <- pick" if run is outcome.pick else "")
        )


def save_picture(path: Path, outcome: Outcome) -> None:
    """Draw the training loss of each run over completed epochs, the promoted ones in colour."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, run in reversed(list(enumerate(outcome.ranking))):
        style = {"color": "0.7", "linewidth": 1.0}
        if index == outcome.promoted:
            style["label"] = "not promoted"
        elif index < outcome.promoted:
            label = f"{index + 1}. {run.name}{' (pick)' if run is outcome.pick else ''}"
            style = {"color": COLOURS[index], "linewidth": 2.0, "label": label}
        completed = [epoch + 1 for epoch in run.epoch_losses]
        axes.plot(completed, list(run.epoch_losses.values()), **style)
    stop = outcome.stop_epoch
    axes.axvline(stop, color="black", linestyle="--", linewidth=1.0)
    axes.annotate(f" T = {stop}", (stop, 0.98), xycoords=("data", "axes fraction"), va="top")
    axes.set(yscale="log", xlabel="completed epochs", ylabel="training loss of the epoch (nats)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper right", framealpha=1, edgecolor="none")
    plotting.save(figure, path)


def summarise(outcome: Outcome, *, verify: bool) -> str:
    """Return in one sentence what the sweep cost and picked; `verify` adds what it missed."""
    runs, stop, end = len(outcome.ranking), outcome.stop_epoch, outcome.budget
    spent, full = runs * stop + outcome.promoted * (end - stop), runs * end
    pick = outcome.pick
    sentence = (
        f"Stopping {runs} runs after {stop} of {end} epochs and training the best "
        f"{outcome.promoted} to the end took {spent} of the {full} epochs of full training "
        f"({spent / full:.0%}) and picked {pick.name} with a test accuracy of "
        f"{pick.test_at_end:.2%}"
    )
    if not verify:
        return f"{sentence}."
    tests = np.array([run.test_at_end for run in outcome.ranking])
    standing = 1 + int((tests > pick.test_at_end).sum())
    # Oriented, +1 is agreement: of the losses the low ones are good, of the accuracies the high.
    by_losses = -spearmanr([run.sotl_e1 for run in outcome.ranking], tests).statistic
    by_accuracy = spearmanr([run.val_at_stop for run in outcome.ranking], tests).statistic
    return (
        f"{sentence}, number {standing} of {runs} by test accuracy (the best has "
        f"{tests.max():.2%}), where the Spearman correlation with the final test accuracy is "
        f"{by_losses:.2f} for sotl_e1 at epoch {stop} and {by_accuracy:.2f} for the validation "
        f"accuracy at epoch {stop}."
    )
