"""Fig. 7: three networks whose training losses order them and whose validation losses do not.

Claim (appendix B.1): of three example networks the one with the best validation accuracy has the
lowest training loss and the HIGHEST validation loss, by means over the final 10 of 200 epochs.

The paper does not say how it came by its three. Here they are the middle ones of the best, the
middle and the worst third by that mean of the validation accuracy, whatever their losses are, and
the same is asked of many triples drawn at random: how often does the order of the training losses
agree with that of the accuracies, and how often that of the validation losses.

Figure: training loss, validation loss and validation accuracy of the three over the epochs.
Time: 2 s.

    python examples/paper/fig7_three_networks.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from _figures import finish
from _networks import Networks, options_of, read_networks
from matplotlib.figure import Figure
from numpy.typing import NDArray

TRIPLES = 20000
COLOURS = ("#0072b2", "#009e73", "#d55e00")
CURVES = {
    "training loss": "train_loss",
    "validation loss": "val_loss",
    "validation metric": "val_metric",
}


def final_means(networks: Networks, curve: str) -> NDArray[np.float64]:
    """Return each network's mean over the paper's final 10 of 200 epochs, scaled."""
    values: NDArray[np.float64] = getattr(networks.curves, curve)
    return values[:, -networks.window(10) :].mean(axis=1)


def examples_of(badness: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the middle networks of the three thirds, the best one first."""
    order = np.argsort(badness, kind="stable")
    return np.array([third[third.size // 2] for third in np.array_split(order, 3)])


def agreements(
    badness: NDArray[np.float64], losses: NDArray[np.float64], triples: NDArray[np.int64]
) -> tuple[float, float]:
    """Return how often three losses stand in the order of the accuracies, and in the reverse.

    Args:
        badness: The validation metric, turned so that lower is better, shape `(networks,)`.
        losses: Shape `(networks,)`.
        triples: Networks, none of equal badness, shape `(n, 3)`.
    """
    order = np.argsort(badness[triples], axis=1)
    steps = np.diff(np.take_along_axis(losses[triples], order, axis=1), axis=1)
    return float((steps > 0).all(axis=1).mean()), float((steps < 0).all(axis=1).mean())


def draw_triples(badness: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return random triples of networks of different badness, shape `(n, 3)`."""
    drawn = np.random.default_rng(seed).integers(badness.size, size=(TRIPLES, 3))
    steps = np.diff(np.sort(badness[drawn], axis=1), axis=1)
    return drawn[(steps > 0).all(axis=1)]


def save_curves(networks: Networks, rows: NDArray[np.int64]) -> Any:
    """Return the picture of the three networks' curves."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    epochs = np.arange(1, networks.curves.epochs + 1)
    for axes, (title, curve) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
        for letter, row, colour in zip("ABC", rows, COLOURS, strict=True):
            values = getattr(networks.curves, curve)[row]
            axes.plot(epochs, values, color=colour, label=f"network {letter}")
        axes.set(xlabel="completed epochs", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def report(networks: Networks, options: argparse.Namespace) -> None:
    """Print the three networks and the triples, save the picture, say what came of the claim."""
    curves = networks.curves
    means = {title: final_means(networks, curve) for title, curve in CURVES.items()}
    metric = means["validation metric"]
    badness = -metric if curves.metric_mode == "max" else metric
    rows = examples_of(badness)
    print(f"\nTable '{networks.name}': means over the final {networks.window(10)} epochs")
    print(f"{'':9}" + "".join(f"  {title:>17}" for title in means) + "  name")
    for letter, row in zip("ABC", rows, strict=True):
        cells = "".join(f"  {values[row]:17.4f}" for values in means.values())
        print(f"network {letter}{cells}  {curves.names[row]}")

    triples = draw_triples(badness, networks.seed)
    shares = {
        name: agreements(badness, means[name], triples)
        for name in ("training loss", "validation loss")
    }
    print(f"\nof {len(triples)} triples, in the order of the validation metric / in its reverse:")
    for name, (agree, reverse) in shares.items():
        print(f"{name:15}  {agree:6.1%} / {reverse:.1%}")
    shown = {
        name: "".join("ABC"[place] for place in np.argsort(means[name][rows])) for name in shares
    }
    as_paper = shown["training loss"] == "ABC" and shown["validation loss"] == "CBA"
    said = (
        f"The three networks A, B, C, in the order of their validation metric, stand in the order "
        f"{shown['training loss']} by training loss and {shown['validation loss']} by validation "
        f"loss, lowest first, {'as' if as_paper else 'other than'} in the paper (ABC and CBA); of "
        f"{len(triples)} random triples the training losses order {shares['training loss'][0]:.0%} "
        f"as the validation metric does and {shares['training loss'][1]:.0%} in reverse, the "
        f"validation losses {shares['validation loss'][0]:.0%} and "
        f"{shares['validation loss'][1]:.0%}{networks.caveat}."
    )
    finish(options, save_curves(networks, rows), "fig7_three_networks", said)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the networks and report on three of them.

    Raises:
        SystemExit: If the table lacks the validation loss or the validation metric.
    """
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    if networks.curves.val_loss is None or networks.curves.val_metric is None:
        raise SystemExit(f"'{options.table}' lacks `val_loss` or `val_metric`.")
    report(networks, options)


if __name__ == "__main__":
    main()
