"""Fig. 8: SoTL-E against the sum of validation accuracies.

Claim (appendix B.2): up to about T = 150 of 200 epochs, SoTL-E has a higher rank correlation with
the final test accuracy than SoVA-E, a smoothed validation accuracy. At the end SoVA-E is close to
1. SoVL-E falls behind in the course of training.

The paper does not give E. Here it is 1 for SoTL-E, and for SoVL-E and SoVA-E the 10 of 200 epochs
of Fig. 2, scaled to the table. `sotl-e2` has the same E as these two.

Figure: rank correlation with the final test accuracy over T, 95% intervals as bands.
Time: 5 s.

    python examples/paper/fig8_validation_accuracy.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

from collections.abc import Sequence

from _figures import Part, above, assess, draw, finish, label, sentence, show, stays_ahead
from _networks import Networks, options_of, read_networks

from lightning_sotl import correlation_curves

CLOSE = 0.95  # our reading of "close to 1"


def check(networks: Networks) -> list[Part]:
    """Test the parts of the claim for which the table has the curves."""
    window, end = networks.window(10), networks.curves.epochs
    accuracy, loss = f"sova-e{window}", f"sovl-e{window}"
    parts = []
    if networks.have(accuracy):
        shares = (1 / 10, 1 / 4, 1 / 2, 3 / 4)
        at = sorted({max(window, networks.epoch(share)) for share in shares})
        parts = [above(networks, "sotl-e1", accuracy, epoch) for epoch in at]
        rho = correlation_curves(networks.curves, ["sotl-e1", accuracy])
        since = stays_ahead(rho[accuracy], rho["sotl-e1"])
        from_then = f"at least SoTL-E1 from T = {since} on" if since else "lower than SoTL-E1"
        last = rho[accuracy][-1]
        claim = f"{label(accuracy, networks)} at least {CLOSE:g} at T = {end}"
        parts.append(Part(claim, bool(last >= CLOSE), f"{last:.3f}, {from_then}"))
    if networks.have(loss):
        parts.append(above(networks, "sotl-e1", loss, networks.epoch(3 / 4)))
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and print whether the claim held."""
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    window = networks.window(10)
    names = ["sotl-e1", f"sotl-e{window}", f"sovl-e{window}", f"sova-e{window}"]
    result = assess(networks, names)
    show(networks, result)
    figure = draw(networks, result, "Fig. 8")
    summary = sentence(networks, result, check(networks))
    finish(options, figure, "fig8_validation_accuracy", summary)


if __name__ == "__main__":
    main()
