"""`Series`: the values of one logged key in the order in which they were logged."""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# Where a row was logged: (epoch, step). Lightning counts steps over all epochs.
Position = tuple[int, float]


@dataclass(frozen=True)
class EpochValues:
    """The values of one key in one epoch, in the order in which they were logged."""

    epoch: int
    steps: Sequence[float]
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of the values; NaN or infinite if one of them is."""
        try:
            return math.fsum(self.values) / len(self.values)
        except (OverflowError, ValueError):  # beyond all floats, or infinities of both signs
            return math.nan


class Series:
    """The values of one key, in arrays because a run may log one in each of millions of steps.

    Attributes:
        rows: The row number of each value, in ascending order.
        epochs: The epoch of each value.
        steps: The step of each value.
        values: The values.
    """

    def __init__(self) -> None:
        self.rows, self.epochs = array("q"), array("q")
        self.steps, self.values = array("d"), array("d")

    def append(self, row: int, position: Position, value: float) -> None:
        """Add a value. Values of later rows may have been added before it."""
        if self.rows and row < self.rows[-1]:
            place = self.count_before(row)
            self.rows.insert(place, row)
            self.epochs.insert(place, position[0])
            self.steps.insert(place, position[1])
            self.values.insert(place, value)
        else:
            self.rows.append(row)
            self.epochs.append(position[0])
            self.steps.append(position[1])
            self.values.append(value)

    def position(self, place: int) -> Position:
        """Return where a value was logged."""
        return self.epochs[place], self.steps[place]

    def count_before(self, row: int) -> int:
        """Return how many values were logged before a row."""
        return bisect_left(self.rows, row)

    def count_up_to(self, position: Position, row: int, *, excludes: bool = False) -> int:
        """Return how many values were logged before a row, and up to a position.

        Args:
            position: The position.
            row: The number of the row.
            excludes: Whether to leave out a value at the position itself.
        """
        count = self.count_before(row)
        while count and self.position(count - 1) > position:
            count -= 1
        while excludes and count and self.position(count - 1) == position:
            count -= 1
        return count

    def drop(self, begin: int, end: int) -> int:
        """Drop the values from place `begin` to before `end`, and return how many they were."""
        for entries in (self.rows, self.epochs, self.steps, self.values):
            del entries[begin:end]
        return max(0, end - begin)

    def drop_steps_from(self, step: float) -> None:
        """Drop the values from a step on."""
        kept = [place for place, other in enumerate(self.steps) if other < step]
        if len(kept) < len(self.steps):
            self.rows = array("q", [self.rows[place] for place in kept])
            self.epochs = array("q", [self.epochs[place] for place in kept])
            self.values = array("d", [self.values[place] for place in kept])
            self.steps = array("d", [self.steps[place] for place in kept])

    def by_epoch(self) -> list[EpochValues]:
        """Return the values of each epoch, in ascending order."""
        groups, begin = [], 0
        for epoch, places in itertools.groupby(self.epochs):
            end = begin + sum(1 for _ in places)
            groups.append(EpochValues(epoch, self.steps[begin:end], self.values[begin:end]))
            begin = end
        return groups
