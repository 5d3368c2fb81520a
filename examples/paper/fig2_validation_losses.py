"""Fig. 2: sums of training losses rank networks better than sums of validation losses.

Claim (section 5.2): SoTL and SoTL-E have a higher rank correlation with the final test accuracy
than SoVL and SoVL-E with E = 10 of 200 epochs. The correlation of SoVL-E falls late in training,
and the final test loss ranks networks badly too, because overconfidence raises validation losses.

The tables use the names of `lightning-sotl evaluate`: `sotl-e2` is SoTL-E with E = 2, the paper's
10 of 200 epochs on a table of 40.

Figure: rank correlation with the final test accuracy over T, 95% intervals as bands.
Time: 5 s.

    python examples/paper/fig2_validation_losses.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

from collections.abc import Sequence

from _figures import Part, above, assess, compare, draw, finish, label, sentence, show
from _networks import FINAL_LOSS, Networks, options_of, read_networks


def late_fall(networks: Networks, name: str) -> Part:
    """Test whether an estimator's correlation falls in the last quarter of training."""
    begin, end = networks.epoch(3 / 4), networks.curves.epochs
    gap = compare(networks, name, name, begin, other=end)
    return Part(f"{label(name, networks)} falls from T = {begin} to T = {end}", gap.leads, gap)


def check(networks: Networks) -> list[Part]:
    """Test the parts of the claim for which the table has the curves."""
    early, half, window = networks.epoch(1 / 4), networks.epoch(1 / 2), networks.window(10)
    parts = []
    if networks.have("sovl"):
        late = f"sovl-e{window}"
        pairs = [("sotl", "sovl"), (f"sotl-e{window}", late), ("sotl-e1", late)]
        parts = [above(networks, *pair, early) for pair in dict.fromkeys(pairs)]
        parts.append(late_fall(networks, late))
    if networks.have(FINAL_LOSS):
        claim = f"SoTL-E1 at T = {half} above the final test loss"
        gap = compare(networks, "sotl-e1", FINAL_LOSS, half)
        parts.append(Part(claim, gap.leads, gap))
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and print whether the claim held."""
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    window = networks.window(10)
    names = ["sotl", "sotl-e1", f"sotl-e{window}", "sovl", f"sovl-e{window}", FINAL_LOSS]
    result = assess(networks, names)
    show(networks, result)
    figure = draw(networks, result, "Fig. 2")
    finish(options, figure, "fig2_validation_losses", sentence(networks, result, check(networks)))


if __name__ == "__main__":
    main()
