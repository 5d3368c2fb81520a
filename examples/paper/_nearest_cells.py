"""Maps each cell of the space to a run of a table, including cells that the table lacks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from cell_equivalence import canonical_form
from cell_space import CELLS, OPERATIONS, Cell, all_cells, cell_index
from numpy.typing import NDArray

CHUNK = 500  # cells per step; bounds the memory for distances


def stand_ins(
    cells: Sequence[Cell], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row that evaluates each cell of the space, and the number of different edges.

    A cell of the table has its own first row. A cell that is equivalent to one of the table has
    that cell's row. Any other cell has the row of the nearest of all these: the one with the fewest
    different operations. Ties are broken at random.

    Args:
        cells: The cells of the table, one per row, at least one.
        generator: Generator that breaks ties.

    Returns:
        Rows and distances, both by `cell_index`, shape `(15625,)`. The distance is 0 for the cells
        of the table and their equivalents.

    >>> rows, distances = stand_ins(list(all_cells()), np.random.default_rng(0))
    >>> bool((rows == np.arange(15625)).all()), int(distances.max())
    (True, 0)
    """
    rows = np.full(CELLS, -1)
    indices = np.array([cell_index(cell) for cell in cells])
    rows[indices[::-1]] = np.arange(len(cells))[::-1]  # the first of several rows stays
    distances = np.zeros(CELLS, dtype=np.int64)
    if (rows >= 0).all():
        return rows, distances
    kinds = network_kinds()
    of_kind = np.full(kinds.max() + 1, -1)
    of_kind[kinds[indices[::-1]]] = rows[indices[::-1]]
    rows = np.where(rows >= 0, rows, of_kind[kinds])
    known, unknown = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
    nearest, distances[unknown] = nearest_cells(unknown, known, generator)
    rows[unknown] = rows[nearest]
    return rows, distances


def neighbors(cells: Sequence[Cell], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return, for each row of a table, the row of the nearest cell with a different network.

    Distances and ties are as in `stand_ins`. How well the neighbor predicts a row shows how well
    `stand_ins` can replace missing cells.

    Args:
        cells: The cells of the table, with at least two different networks.
        generator: Generator that breaks ties.
    """
    kinds = network_kinds()
    indices = np.array([cell_index(cell) for cell in cells])
    of_kind = np.full(kinds.max() + 1, -1)
    of_kind[kinds[indices[::-1]]] = np.arange(len(cells))[::-1]
    known = np.flatnonzero(of_kind[kinds] >= 0)
    nearest, _ = nearest_cells(indices, known, generator, kinds=kinds)
    return of_kind[kinds[nearest]]


def nearest_cells(
    wanted: NDArray[np.int64],
    known: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    kinds: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nearest known cell of each wanted cell, and the number of different edges.

    Args:
        wanted: Indices of cells.
        known: Indices of cells, at least one.
        generator: Generator that breaks ties.
        kinds: Number of each cell's network; if given, only cells with another network count.
    """
    edges = np.array(np.unravel_index(np.arange(CELLS), [len(OPERATIONS)] * 6), dtype=np.int8).T
    nearest, distances = [], []
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        differing = (edges[part, None] != edges[known]).sum(axis=2).astype(np.float64)
        if kinds is not None:
            differing[kinds[part, None] == kinds[known]] = np.inf
        chosen = (differing + generator.random(differing.shape)).argmin(axis=1)
        nearest.append(known[chosen])
        distances.append(differing[np.arange(len(part)), chosen])
    return np.concatenate(nearest), np.concatenate(distances).astype(np.int64)


@functools.cache
def network_kinds() -> NDArray[np.int64]:
    """Return a number for every cell, equal for two cells exactly if they are equivalent."""
    forms = [canonical_form(cell) for cell in all_cells()]
    return np.unique(forms, return_inverse=True)[1]
