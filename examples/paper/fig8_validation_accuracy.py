"""Fig. 8: SoTL-E against the sum of validation accuracies.

Claim (appendix B.2): SoTL-E has a higher rank correlation with the final test accuracy than SoVA-E,
a smoothed validation accuracy, up to about T = 150 of 200 epochs; at the end SoVA-E comes close to
1; and SoVL-E falls behind as the training proceeds.

The paper does not say E; here SoTL-E has 1, and SoVL-E and SoVA-E have the 10 of 200 epochs of
Fig. 2, scaled to the table's epochs. `sotl-e2` beside them has the same E.

Figure: rank correlation with the final test accuracy over T, 95 % intervals as bands.
Time: 5 s.

    python examples/paper/fig8_validation_accuracy.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

from collections.abc import Sequence

from _figures import Part, above, assess, draw, finish, label, sentence, show, stays_ahead
from _networks import Networks, options_of, read_networks

from lightning_sotl import correlation_curves

CLOSE = 0.95  # what "close to 1" is taken to mean


def check(networks: Networks) -> list[Part]:
    """Return the parts of the claim that the table has the curves for."""
    window, end = networks.window(10), networks.curves.epochs
    accuracy, loss = f"sova-e{window}", f"sovl-e{window}"
    parts = []
    if networks.have(accuracy):
        shares = (1 / 10, 1 / 4, 1 / 2, 3 / 4)
        at = sorted({max(window, networks.epoch(share)) for share in shares})
        parts = [above(networks, "sotl-e1", accuracy, epoch) for epoch in at]
        rho = correlation_curves(networks.curves, ["sotl-e1", accuracy])
        since = stays_ahead(rho[accuracy], rho["sotl-e1"])
        known = f"not below SoTL-E1 from T = {since} on" if since else "below SoTL-E1 at the end"
        last = rho[accuracy][-1]
        claim = f"{label(accuracy, networks)} at least {CLOSE:g} at T = {end}"
        parts.append(Part(claim, bool(last >= CLOSE), f"{last:.3f}, {known}"))
    if networks.have(loss):
        parts.append(above(networks, "sotl-e1", loss, networks.epoch(3 / 4)))
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and say what came of the claim."""
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    window = networks.window(10)
    names = ["sotl-e1", f"sotl-e{window}", f"sovl-e{window}", f"sova-e{window}"]
    result = assess(networks, names)
    show(networks, result)
    figure = draw(networks, result, "Fig. 8")
    said = sentence(networks, result, check(networks))
    finish(options, figure, "fig8_validation_accuracy", said)


if __name__ == "__main__":
    main()
