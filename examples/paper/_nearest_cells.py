"""Which run of a table stands for each cell of the space, also for cells that the table lacks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from cell_equivalence import canonical_form
from cell_space import CELLS, OPERATIONS, Cell, all_cells, cell_index
from numpy.typing import NDArray

CHUNK = 500  # cells whose distances to all others are in memory at once


def stand_ins(
    cells: Sequence[Cell], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each cell of the space the row that stands for it, and how many edges differ.

    A cell of the table stands for itself, by its first row. One that is the same network as a cell
    of the table but for names has that cell's row. Any other has the row of the nearest of all
    these, by the number of edges with another operation; which of several, the generator decides.

    Args:
        cells: Of the table, one a row, at least one.
        generator: For ties, and for nothing else.

    Returns:
        Rows and distances, both by `cell_index`, shape `(15625,)`; a distance is 0 for a cell of
        the table and its equivalents.

    >>> rows, distances = stand_ins(list(all_cells()), np.random.default_rng(0))
    >>> bool((rows == np.arange(15625)).all()), int(distances.max())
    (True, 0)
    """
    rows = np.full(CELLS, -1)
    indices = np.array([cell_index(cell) for cell in cells])
    rows[indices[::-1]] = np.arange(len(cells))[::-1]  # of several rows the first one stays
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


def neighbours(cells: Sequence[Cell], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return for each row of a table the row of the nearest cell that is another network.

    Distances and ties as for `stand_ins`. How well a row's neighbour predicts it tells how well
    a stand-in does.

    Args:
        cells: Of the table, of at least two kinds.
        generator: For ties.
    """
    kinds = network_kinds()
    indices = np.array([cell_index(cell) for cell in cells])
    of_kind = np.full(kinds.max() + 1, -1)
    of_kind[kinds[indices[::-1]]] = np.arange(len(cells))[::-1]
    known = np.flatnonzero(of_kind[kinds] >= 0)
    nearest, _ = nearest_cells(indices, known, generator, kinds=kinds)
    return of_kind[kinds[nearest]]


def nearest_cells(
    asked: NDArray[np.int64],
    known: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    kinds: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each asked cell the known cell that differs in the fewest edges, and in how many.

    Args:
        asked: Indices of cells.
        known: Indices of cells, at least one.
        generator: For ties.
        kinds: Number of the network of every cell; if given, only another network counts.
    """
    edges = np.array(np.unravel_index(np.arange(CELLS), [len(OPERATIONS)] * 6), dtype=np.int8).T
    nearest, distances = [], []
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        differing = (edges[part, None] != edges[known]).sum(axis=2).astype(np.float64)
        if kinds is not None:
            differing[kinds[part, None] == kinds[known]] = np.inf
        chosen = (differing + generator.random(differing.shape)).argmin(axis=1)
        nearest.append(known[chosen])
        distances.append(differing[np.arange(len(part)), chosen])
    return np.concatenate(nearest), np.concatenate(distances).astype(np.int64)


@functools.cache
def network_kinds() -> NDArray[np.int64]:
    """Return a number for every cell, the same exactly for cells that are the same network."""
    forms = [canonical_form(cell) for cell in all_cells()]
    return np.unique(forms, return_inverse=True)[1]
