"""Fig. 3: how many epochs E to sum in SoTL-E.

Claim (section 5.2): of E = 1, 10, ..., 70 of 200 epochs, E = 1 has the highest rank correlation
early in training, and all E reach the same highest correlation over T.

E is scaled to the table's epochs (70 of 200 is 14 of 40), and E = 1, 2, 3 and 5 are added. SoTL-E
exists from T = E on. The script prints the highest correlation of each E over T, and compares the
smallest and the largest E at three quarters of training.

Figure: rank correlation of SoTL-E with the final test accuracy over T, by E.
Time: 5 s.

    python examples/paper/fig3_windows.py [--table FILE] [--seed 0] [--smoke]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _figures import Part, above, assess, compare, draw, finish, sentence, show
from _networks import SHARES, Networks, options_of, read_networks

from lightning_sotl import correlation_curves

PAPER = (1, 10, 20, 30, 40, 50, 60, 70)
SMALL = (1, 2, 3, 5)


def windows_of(networks: Networks) -> list[int]:
    """Return the paper's windows, scaled to the table, and a few small ones."""
    scaled = {networks.window(paper) for paper in PAPER}
    return sorted(scaled | {small for small in SMALL if small <= networks.curves.epochs})


def check(networks: Networks, windows: list[int]) -> list[Part]:
    """Test the parts of the claim: E = 1 against larger E early on, and the highest values."""
    curves, widest, late = networks.curves, windows[-1], networks.epoch(3 / 4)
    parts = []
    for at in sorted({networks.epoch(1 / 10), networks.epoch(1 / 4), widest}):
        largest = max((window for window in windows if window <= at), default=1)
        if largest > 1:
            parts.append(above(networks, "sotl-e1", f"sotl-e{largest}", at))
    if not 1 < widest <= late:
        return parts  # the table is too short for the widest window
    names = [f"sotl-e{window}" for window in windows]
    best = [float(np.nanmax(rho)) for rho in correlation_curves(curves, names).values()]
    gap = compare(networks, "sotl-e1", names[-1], late)
    numbers = f"{gap}; the highest values over T are {min(best):.3f} to {max(best):.3f}"
    claim = f"E = 1 and E = {widest} are level at T = {late}"
    parts.append(Part(claim, gap.leads is None, numbers))
    return parts


def show_best(networks: Networks, windows: list[int]) -> None:
    """Print the highest correlation of each E over T, and the best E at each T."""
    names = [f"sotl-e{window}" for window in windows]
    rho = np.array(list(correlation_curves(networks.curves, names).values()))
    print("\n   E  highest   at T")
    for window, row in zip(windows, rho, strict=True):
        print(f"{window:4}  {np.nanmax(row):7.3f}  {1 + int(np.nanargmax(row)):5}")
    best = {at: windows[int(np.nanargmax(rho[:, at - 1]))] for at in map(networks.epoch, SHARES)}
    print("best E: " + ", ".join(f"{window} at T = {at}" for at, window in best.items()))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and print whether the claim held."""
    options = options_of(__doc__, argv)
    networks = read_networks(options)
    windows = windows_of(networks)
    at = [networks.epoch(share) for share in SHARES]
    result = assess(networks, [f"sotl-e{window}" for window in windows], [*at, windows[-1]])
    show(networks, result)
    show_best(networks, windows)
    figure = draw(networks, result, "Fig. 3")
    finish(options, figure, "fig3_windows", sentence(networks, result, check(networks, windows)))


if __name__ == "__main__":
    main()
