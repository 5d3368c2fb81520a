"""`NanCells`: decides whether NaN in a CSV cell is a value or a missing value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

BLANKS = frozenset(["", "na", "n/a", "<na>", "null", "none"])
# A run logs a handful of different rows.
_MOST_KINDS = 100


class NanCells:
    """Distinguishes the NaN of a diverged loss from NaN in place of a blank cell.

    In a file with blank cells or with a single column, each NaN is a value. In other files, a NaN
    is a value only if its column had numbers in earlier epochs, and its row either has no numbers
    or has the columns of an earlier row that had numbers in all of them. Such a value is doubtful
    and is counted.

    Args:
        has_blanks: Returns whether the file has blank cells. Called once, at the first NaN.
        columns: The number of columns besides `epoch` and `step`.

    Attributes:
        are_values: Whether each NaN of this file is a value; None while that is unknown.
    """

    def __init__(self, has_blanks: Callable[[], bool], columns: int) -> None:
        self._has_blanks = has_blanks
        self.are_values = True if columns == 1 else None
        self._kinds: set[frozenset[str]] = set()
        self._first_epochs: dict[str, int] = {}
        self._last_epochs: dict[str, int] = {}
        self._logged_often: set[str] = set()
        self._late: dict[str, tuple[int, float | None]] = {}
        self._unclear: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()

    @property
    def doubtful(self) -> Counter[str]:
        """Column -> how many NaN cells count as values, or are its only content."""
        alone = {name: n for name, n in self._unclear.items() if name not in self._first_epochs}
        return self._doubtful + Counter(alone)

    def values(
        self,
        epoch: int | None,
        step: float | None,
        numbers: Collection[str],
        nans: Sequence[str],
    ) -> dict[str, float]:
        """Return the NaN cells of a row that are known to be values.

        Args:
            epoch: The epoch of the row.
            step: The step of the row.
            numbers: The columns of the row with numbers.
            nans: The columns of the row with NaN, among those that are read.
        """
        found = {}
        for name in nans:
            if self.are_values is None:
                self.are_values = self._has_blanks()
            if self.are_values:
                found[name] = math.nan
            elif epoch is not None:
                found.update(self._decide(epoch, step, numbers, name))
        if epoch is not None and not self.are_values:
            self._note_numbers(epoch, numbers)
        return found

    def decided_before(
        self, epoch: int | None
    ) -> Iterator[tuple[int, float | None, dict[str, float]]]:
        """Yield the values of earlier epochs that are known by now: epoch, step, values."""
        for name, (late, step) in list(self._late.items()):
            if late != epoch:
                del self._late[name]
                self._doubtful[name] += 1
                yield late, step, {name: math.nan}

    def _decide(
        self, epoch: int, step: float | None, numbers: Collection[str], name: str
    ) -> dict[str, float]:
        if self._first_epochs.get(name, epoch) >= epoch:
            self._unclear[name] += 1
            return {}
        if numbers:
            if not any(kind.issuperset([*numbers, name]) for kind in self._kinds):
                return {}
        elif name not in self._logged_often:
            # It is a value if the column has no number in the whole epoch.
            if self._last_epochs[name] != epoch:
                self._late[name] = epoch, step
            return {}
        self._doubtful[name] += 1
        return {name: math.nan}

    def _note_numbers(self, epoch: int, numbers: Collection[str]) -> None:
        if len(self._kinds) < _MOST_KINDS:
            self._kinds.add(frozenset(numbers))
        for name in numbers:
            self._first_epochs.setdefault(name, epoch)
            if self._last_epochs.get(name) == epoch:
                self._logged_often.add(name)
            self._last_epochs[name] = epoch
            self._late.pop(name, None)
