"""The cell space of NAS-Bench-201: 4 nodes, 6 edges, 5 operations, 15,625 cells.

Node 0 is the cell's input and node 3 its output. Each node but the input is the sum of its incoming
edges. The edges are in the benchmark's order, by target and then by source:
1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2.

Source: Dong and Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search" (arXiv 2001.00326), section 2.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

NODES = 4
EDGES: tuple[tuple[int, int], ...] = tuple(
    (source, target) for target in range(1, NODES) for source in range(target)
)
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELLS = len(OPERATIONS) ** len(EDGES)

Cell = tuple[str, ...]  # one operation per edge, in the order of EDGES


def all_cells() -> Iterator[Cell]:
    """Yield every cell, by index."""
    return itertools.product(OPERATIONS, repeat=len(EDGES))


def cell_index(cell: Cell) -> int:
    """Return the number of a cell in `all_cells`, in [0, 15625).

    The first edge is the most significant digit in base 5. This is this project's own number, not
    the index in the benchmark's files.
    """
    index = 0
    for operation in cell:
        index = index * len(OPERATIONS) + OPERATIONS.index(operation)
    return index


def cell_at(index: int) -> Cell:
    """Return the cell with an index.

    Raises:
        IndexError: If the index is not in [0, 15625).

    >>> cell_at(1)[-2:]
    ('none', 'skip_connect')
    """
    if not 0 <= index < CELLS:
        raise IndexError(f"Expected `index` to be in [0, {CELLS}) but got {index}.")
    digits = []
    for _ in EDGES:
        index, digit = divmod(index, len(OPERATIONS))
        digits.append(OPERATIONS[digit])
    return tuple(reversed(digits))


def format_cell(cell: Cell) -> str:
    """Return a cell in the benchmark's notation: nodes 1 to 3, each as `|operation~source|...|`.

    >>> format_cell(("none", "skip_connect", "none", "nor_conv_3x3", "none", "avg_pool_3x3"))
    '|none~0|+|skip_connect~0|none~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|'
    """
    incoming: list[list[str]] = [[] for _ in range(NODES)]
    for (source, target), operation in zip(EDGES, cell, strict=True):
        incoming[target].append(f"{operation}~{source}")
    return "+".join(f"|{'|'.join(edges)}|" for edges in incoming[1:])


def parse_cell(text: str) -> Cell:
    """Return the cell of a text in the benchmark's notation.

    Raises:
        ValueError: If the text is not a cell of this space.

    >>> parse_cell("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")[3]
    'skip_connect'
    """
    parts = text.replace("+", "").split("|")
    cell = tuple(part.partition("~")[0] for part in parts if part)
    if len(cell) != len(EDGES) or not set(cell) <= set(OPERATIONS) or format_cell(cell) != text:
        raise ValueError(
            f"Expected a cell like '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|', each op one of "
            f"{', '.join(OPERATIONS)}, but got '{text}'."
        )
    return cell


def live_edges(cell: Cell) -> tuple[int, ...]:
    """Return the positions in EDGES of the edges on a path from the input to the output.

    The other edges do not depend on the image, or never reach the output.
    """
    joined = [edge for edge, operation in zip(EDGES, cell, strict=True) if operation != "none"]
    from_input = _reached(0, joined)
    to_output = _reached(NODES - 1, [(target, source) for source, target in reversed(joined)])
    return tuple(
        position
        for position, ((source, target), operation) in enumerate(zip(EDGES, cell, strict=True))
        if operation != "none" and source in from_input and target in to_output
    )


def is_connected(cell: Cell) -> bool:
    """Whether a path leads from the input to the output; otherwise the network is constant.

    >>> is_connected(("none",) * 6)
    False
    """
    return bool(live_edges(cell))


def _reached(start: int, steps: Iterable[tuple[int, int]]) -> set[int]:
    """Return the nodes reached from `start`; the steps must be in topological order."""
    reached = {start}
    for here, there in steps:
        if here in reached:
            reached.add(there)
    return reached
