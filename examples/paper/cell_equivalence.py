"""Finds equivalent cells, which are the same network, so that a sample has no network twice.

Two cells are equivalent if these steps turn one into the other: removing edges on no path from
input to output, replacing a skip connection by the identity, reordering sums, averaging term by
term (average pooling is linear), and renaming convolutions.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from cell_space import CELLS, EDGES, NODES, Cell, cell_at, is_connected, live_edges

CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


def canonical_form(cell: Cell) -> str:
    """Return a text that is equal for two cells exactly if they are equivalent.

    The text writes the output as a sum of terms: "x" for the input, "avg(...)" for pooling, and
    "nor_conv_3x3[n](...)" for convolution number n. Of all ways to number the convolutions, it uses
    the one whose text sorts first.
    """
    live = live_edges(cell)
    convolutions = [position for position in live if cell[position] in CONVOLUTIONS]
    unnumbered = _edge_texts(cell, live, dict.fromkeys(convolutions, 0))
    alike: dict[str, list[int]] = defaultdict(list)
    for position in convolutions:
        alike[unnumbered[position]].append(position)
    return min(
        _edge_texts(cell, live, numbers)[-1] for numbers in _numberings(list(alike.values()))
    )


def distinct_connected_cells(seed: int, count: int | None = None) -> list[int]:
    """Return the indices of connected cells drawn at random, no two of them equivalent.

    Args:
        seed: Seed of the draw. With the same seed, a larger `count` appends further cells.
        count: Number of cells; None for all networks of the space.

    Raises:
        ValueError: If the space has fewer networks.
    """
    seen: set[str] = set()
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(CELLS).tolist():
        if len(chosen) == count:
            break
        cell = cell_at(index)
        if is_connected(cell) and (form := canonical_form(cell)) not in seen:
            seen.add(form)
            chosen.append(index)
    if count is not None and len(chosen) < count:
        raise ValueError(f"Expected `count` to be at most {len(chosen)} but got {count}.")
    return chosen


def _numberings(groups: list[list[int]]) -> Iterator[dict[int, int]]:
    """Yield every way to number the convolutions of each group from 0."""
    for orders in itertools.product(*map(itertools.permutations, groups)):
        yield {position: number for order in orders for number, position in enumerate(order)}


def _edge_texts(cell: Cell, live: tuple[int, ...], numbers: dict[int, int]) -> dict[int, str]:
    """Return the text of each live edge, and of the output under key -1."""
    nodes: list[Counter[str]] = [Counter() for _ in range(NODES)]
    nodes[0]["x"] = 1
    texts: dict[int, str] = {}
    for position in live:
        source, target = EDGES[position]
        terms = _terms(cell[position], nodes[source], numbers.get(position, 0))
        texts[position] = _sum(terms)
        nodes[target] += terms
    texts[-1] = _sum(nodes[-1])
    return texts


def _terms(operation: str, given: Counter[str], number: int) -> Counter[str]:
    if operation == "skip_connect":
        return given
    if operation == "avg_pool_3x3":
        return Counter({f"avg({term})": times for term, times in given.items()})
    return Counter({f"{operation}[{number}]({_sum(given)})": 1})


def _sum(terms: Counter[str]) -> str:
    return " + ".join(sorted(terms.elements()))
