"""Fig. 9: how many networks reach training loss 0.1, and whether SoTL-E suffers from it.

Claim (appendix B.3): on CIFAR-10 and CIFAR-100, more and more networks fall below training loss 0.1
late in training, and there the rank correlation of SoTL-E falls after T = 150 of 200 epochs. On
ImageNet-16-120 no network does, and the correlation does not fall. So losses near 0 are the cause.

A table has "many" networks below 0.1 if at least a tenth end there. The script tests whether the
correlation falls from three quarters of training to the end. If there are at least 20 networks on
either side of 0.1, it also prints the correlation at the end within each of the two groups.

Figure: (a) training and validation loss, mean and 5 standard errors over the networks, as in the
paper; (b) the share of networks below 0.1.
Time: 2 s.

    python examples/paper/fig9_overfitting.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _figures import Gap, compare, finish
from _networks import SHARES, Networks, options_of, read_networks
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sotl import rank_correlation

THRESHOLD = 0.1
MANY = 0.1  # share of networks below the threshold that counts as many
FEWEST = 20  # networks that a correlation needs
ERRORS = 5


def mean_and_error(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard error over the finite losses, shape `(epochs,)`."""
    finite = np.where(np.isfinite(values), values, np.nan)
    count = np.isfinite(finite).sum(axis=0)
    return np.nanmean(finite, axis=0), np.nanstd(finite, axis=0, ddof=1) / np.sqrt(count)


def share_below(networks: Networks) -> NDArray[np.float64]:
    """Return the share of networks with L(e) below the threshold, shape `(epochs,)`."""
    return (networks.curves.train_loss < THRESHOLD).mean(axis=0)


def within(networks: Networks, below: bool) -> tuple[int, float]:
    """Return how many networks end below the threshold, or not, and their rank correlation.

    It is the correlation of the last training loss with the final metric, NaN for fewer than 20
    networks.
    """
    curves = networks.curves
    rows = np.flatnonzero((curves.train_loss[:, -1] < THRESHOLD) == below)
    if rows.size < FEWEST:
        return rows.size, float("nan")
    last, target = curves.train_loss[rows, -1], curves.final_metric[rows]
    return rows.size, rank_correlation(last, target, target_mode=curves.final_mode)


def show_table(networks: Networks) -> None:
    """Print losses and shares at several T."""
    curves = networks.curves
    losses = {"training loss": curves.train_loss, "validation loss": curves.val_loss}
    known = {name: values for name, values in losses.items() if values is not None}
    print(f"\nTable '{networks.name}', {curves.runs} networks: mean +- {ERRORS} standard errors")
    print(f"{'T':>4}" + "".join(f"  {name:>17}" for name in known) + f"  below {THRESHOLD:g}")
    for at in sorted({networks.epoch(share) for share in SHARES}):
        cells = []
        for values in known.values():
            mean, error = (found[at - 1] for found in mean_and_error(values))
            cells.append(f"{mean:.4f} +- {ERRORS * error:.4f}")
        row = "".join(f"  {cell:>17}" for cell in cells)
        print(f"{at:4}{row}  {share_below(networks)[at - 1]:9.1%}")


def picture(networks: Networks) -> Any:
    """Draw the losses and the share of networks below the threshold."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, networks.curves.epochs + 1)
    for name, color in (("train_loss", "#0072b2"), ("val_loss", "#d55e00")):
        values = getattr(networks.curves, name)
        if values is None:
            continue
        mean, error = mean_and_error(values)
        left.plot(epochs, mean, color=color, label=name.replace("_", " "))
        low, high = mean - ERRORS * error, mean + ERRORS * error
        left.fill_between(epochs, low, high, color=color, alpha=0.2)
    left.set(xlabel="completed epochs", ylabel="mean and 5 standard errors, in nats")
    right.plot(epochs, 100 * share_below(networks), color="black")
    right.set_ylim(0, max(10.0, 105 * share_below(networks).max()))
    right.set(xlabel="completed epochs T", ylabel=f"networks below {THRESHOLD:g} in %")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def summarize(networks: Networks, gap: Gap) -> str:
    """Return one sentence on whether losses near 0 go with a falling correlation."""
    below, begin, end = share_below(networks)[-1], networks.epoch(3 / 4), networks.curves.epochs
    few = "many" if below >= MANY else "few"
    moves = {True: "falls", False: "rises", None: "neither falls nor rises"}[gap.leads]
    claimed = (below >= MANY) == (gap.leads is True)
    count, inside = within(networks, below=True)
    rest, outside = within(networks, below=False)
    cause = (
        f"the groups below and above {THRESHOLD:g} cannot be compared, as one has only "
        f"{min(count, rest)} networks"
        if min(count, rest) < FEWEST
        else f"at the end it is {inside:.3f} among the {count} networks below and {outside:.3f} "
        f"among the {rest} others"
    )
    return (
        f"In '{networks.name}', {count} of {networks.curves.runs} networks ({few}) end below "
        f"training loss {THRESHOLD:g}, and the rank correlation of SoTL-E1 {moves} from "
        f"T = {begin} to T = {end} ({gap}), which {'fits' if claimed else 'contradicts'} the "
        f"paper's explanation; {cause}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print losses and shares, save the picture and print whether the claim held."""
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    show_table(networks)
    gap = compare(
        networks, "sotl-e1", "sotl-e1", networks.epoch(3 / 4), other=networks.curves.epochs
    )
    finish(options, picture(networks), "fig9_overfitting", summarize(networks, gap))


if __name__ == "__main__":
    main()
