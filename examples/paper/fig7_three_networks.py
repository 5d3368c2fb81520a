"""Fig. 7: three networks that training losses rank correctly and validation losses do not.

Claim (appendix B.1): of three example networks, the one with the best validation accuracy has the
lowest training loss and the HIGHEST validation loss, by means over the final 10 of 200 epochs.

The paper does not say how its three networks were chosen. Here they are the middle networks of the
best, middle and worst third by that mean of the validation accuracy, whatever their losses are. The
script also draws many random triples, and counts how often the training losses and the validation
losses are in the order of the accuracies.

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
COLORS = ("#0072b2", "#009e73", "#d55e00")
CURVES = {
    "training loss": "train_loss",
    "validation loss": "val_loss",
    "validation metric": "val_metric",
}


def final_means(networks: Networks, curve: str) -> NDArray[np.float64]:
    """Return each network's mean over the last epochs, the paper's 10 of 200, scaled."""
    values: NDArray[np.float64] = getattr(networks.curves, curve)
    return values[:, -networks.window(10) :].mean(axis=1)


def examples_of(oriented: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the middle networks of the three thirds, the best one first."""
    order = np.argsort(oriented, kind="stable")
    return np.array([third[third.size // 2] for third in np.array_split(order, 3)])


def agreements(
    oriented: NDArray[np.float64], losses: NDArray[np.float64], triples: NDArray[np.int64]
) -> tuple[float, float]:
    """Return how often three losses are in the order of the validation metric, and in reverse.

    Args:
        oriented: The validation metric, negated if higher is better, shape `(networks,)`.
        losses: Losses of the networks, shape `(networks,)`.
        triples: Rows of three networks with different metrics, shape `(n, 3)`.
    """
    order = np.argsort(oriented[triples], axis=1)
    steps = np.diff(np.take_along_axis(losses[triples], order, axis=1), axis=1)
    return float((steps > 0).all(axis=1).mean()), float((steps < 0).all(axis=1).mean())


def draw_triples(oriented: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return random triples of networks with different metrics, shape `(n, 3)`."""
    drawn = np.random.default_rng(seed).integers(oriented.size, size=(TRIPLES, 3))
    steps = np.diff(np.sort(oriented[drawn], axis=1), axis=1)
    return drawn[(steps > 0).all(axis=1)]


def unit_of(networks: Networks, curve: str) -> str:
    """Return the label of a curve's axis."""
    if curve != "val_metric" or networks.curves.metric_mode == "min":
        return "nats"
    in_percent = np.nanmax(networks.curves.val_metric) > 1
    return "accuracy in %" if in_percent else "share of correct predictions"


def draw_curves(networks: Networks, rows: NDArray[np.int64]) -> Any:
    """Draw the curves of the three networks."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    epochs = np.arange(1, networks.curves.epochs + 1)
    for axes, (title, curve) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
        for letter, row, color in zip("ABC", rows, COLORS, strict=True):
            values = getattr(networks.curves, curve)[row]
            axes.plot(epochs, values, color=color, label=f"network {letter}")
        axes.set(xlabel="completed epochs", ylabel=unit_of(networks, curve), title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def report(networks: Networks, options: argparse.Namespace) -> None:
    """Print the three networks and the triples, save the picture and print a summary."""
    curves = networks.curves
    means = {title: final_means(networks, curve) for title, curve in CURVES.items()}
    metric = means["validation metric"]
    oriented = -metric if curves.metric_mode == "max" else metric
    rows = examples_of(oriented)
    print(f"\nTable '{networks.name}': means over the final {networks.window(10)} epochs")
    print(f"{'':9}" + "".join(f"  {title:>17}" for title in means) + "  name")
    for letter, row in zip("ABC", rows, strict=True):
        cells = "".join(f"  {values[row]:17.4f}" for values in means.values())
        print(f"network {letter}{cells}  {curves.names[row]}")

    triples = draw_triples(oriented, networks.seed)
    shares = {
        name: agreements(oriented, means[name], triples)
        for name in ("training loss", "validation loss")
    }
    print(f"\n{len(triples)} triples, losses in the order of the validation metric / in reverse:")
    for name, (agree, reverse) in shares.items():
        print(f"{name:15}  {agree:6.1%} / {reverse:.1%}")
    shown = {
        name: "".join("ABC"[place] for place in np.argsort(means[name][rows])) for name in shares
    }
    as_paper = shown["training loss"] == "ABC" and shown["validation loss"] == "CBA"
    summary = (
        f"Networks A, B, C, named by their validation metric, rank {shown['training loss']} by "
        f"training loss and {shown['validation loss']} by validation loss, "
        f"{'as in' if as_paper else 'unlike'} the paper (ABC and CBA); of {len(triples)} random "
        f"triples, the training loss ranks {shares['training loss'][0]:.0%} as the validation "
        f"metric does and {shares['training loss'][1]:.0%} in reverse, the validation loss "
        f"{shares['validation loss'][0]:.0%} and {shares['validation loss'][1]:.0%}"
        f"{networks.caveat}."
    )
    finish(options, draw_curves(networks, rows), "fig7_three_networks", summary)


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
