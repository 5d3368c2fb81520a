"""The values of many runs after each epoch, in one array that grows as runs report."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray


class GrowingCurves:
    """The curves of a sweep in progress. Lower is better.

    Args:
        max_epochs: The most epochs per run. Values of later epochs are ignored.

    Examples:
        >>> curves = GrowingCurves(max_epochs=3)
        >>> curves.put("a", 0, 2.5)
        >>> curves.put("b", 1, 1.5)
        >>> curves.row("b"), curves.values.tolist()
        (1, [[2.5, nan], [nan, 1.5]])
    """

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._rows: dict[Hashable, int] = {}
        self._table = np.full((16, min(16, max_epochs)), math.nan)
        self._used = 0

    def put(self, run: Hashable, epoch: int, value: float) -> None:
        """Set a run's value in epoch `epoch` (0, 1, ...). A non-finite value becomes `+inf`."""
        if self.reach(run, epoch):
            self._table[self._rows[run], epoch] = value if math.isfinite(value) else math.inf

    def reach(self, run: Hashable, epoch: int) -> bool:
        """Make room for a run's epoch, and return whether it is within `max_epochs`."""
        if not 0 <= epoch < self._max_epochs:
            return False
        row = self._rows.setdefault(run, len(self._rows))
        self._grow(row + 1, epoch + 1)
        self._used = max(self._used, epoch + 1)
        return True

    def drop_after(self, run: Hashable, epoch: int) -> None:
        """Drop a run's values after epoch `epoch`, because the run was rewound to it."""
        row = self._rows.get(run)
        if row is not None:
            self._table[row, epoch + 1 :] = math.nan

    def row(self, run: Hashable) -> int | None:
        """Return the row of a run in `values`, or None if it has none."""
        return self._rows.get(run)

    @property
    def values(self) -> NDArray[np.float64]:
        """The values, shape `(runs, epochs of the longest run)`, with NaN for missing values."""
        return self._table[: len(self._rows), : self._used]

    def _grow(self, runs: int, epochs: int) -> None:
        rows, columns = self._table.shape
        if runs <= rows and epochs <= columns:
            return
        while rows < runs:
            rows *= 2
        while columns < epochs:
            columns *= 2
        larger = np.full((rows, min(columns, self._max_epochs)), math.nan)
        larger[: self._table.shape[0], : self._table.shape[1]] = self._table
        self._table = larger
