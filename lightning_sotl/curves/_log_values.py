"""What a logger's files say about one run: values by key, placed on epochs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from lightning_sotl._utils.text import pluralize, quoted
from lightning_sotl.record.format import MOST_UNITS

# 0.4 GB for each array of a table of curves; a ranking makes a handful of that size.
MOST_ENTRIES = 50_000_000


# Each has a name, a rank and more that is no number: 1 kB. A few bytes can be packed to millions.
MOST_RUNS = 1_000_000


def check_table_size(path: object, runs: int, epochs: int, longest: str) -> None:
    """Refuse a table that one damaged number would have made larger than memory.

    Args:
        path: What it is read from.
        runs: How many.
        epochs: How many epochs the longest says that it has.
        longest: Its name.

    Raises:
        ValueError: If it has more than `MOST_ENTRIES` entries or `MOST_RUNS` runs.
    """
    if runs > MOST_RUNS:
        raise ValueError(f"Expected '{path}' to hold at most {MOST_RUNS:,} runs but got {runs:,}.")
    if runs * epochs > MOST_ENTRIES:
        raise ValueError(
            f"Expected '{path}' to hold at most {MOST_ENTRIES:,} losses but "
            f"{pluralize(runs, 'run')}, of which {quoted(longest)} says that it has "
            f"{pluralize(epochs, 'epoch')}, make {runs * epochs:,}."
        )


def epoch_of(number: float) -> int | None:
    """Return the epoch that a logged number is, or None if it is none.

    Example:
        >>> epoch_of(3.0), epoch_of(0.5), epoch_of(-1.0), epoch_of(float("inf"))
        (3, None, None, None)
    """
    return int(number) if 0 <= number < MOST_UNITS and number == int(number) else None


@dataclass
class Logged:
    """Values that one folder's logs hold, of the keys that were asked for.

    Attributes:
        wanted: The keys to keep.
        keys: All keys that the logs hold.
        by_epoch: Key -> e -> the last value logged in epoch e.
        last: Key -> the last value logged at all, with or without an epoch.
        last_epochs: Key -> the epoch that this value was logged with, or None.
        not_numbers: Key -> the first text logged in place of a number.
        unreadable: How many lines, events or numbers could not be read.
        replaced: How many values were logged once more after a resume; the newer ones are kept.
    """

    wanted: Collection[str]
    keys: set[str] = field(default_factory=set)
    by_epoch: dict[str, dict[int, float]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    last_epochs: dict[str, int | None] = field(default_factory=dict)
    not_numbers: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    replaced: int = 0

    def add(self, key: str, epoch: int | None, value: float) -> None:
        """Take a value in the order in which it was logged."""
        self.last[key], self.last_epochs[key] = value, epoch
        if epoch is not None:
            self.by_epoch.setdefault(key, {})[epoch] = value

    def join(self, newer: Logged) -> None:
        """Take what other logs of the same run hold; on the same epoch they win."""
        self.keys |= newer.keys
        self.last.update(newer.last)
        self.last_epochs.update(newer.last_epochs)
        self.not_numbers = {**newer.not_numbers, **self.not_numbers}
        self.unreadable += newer.unreadable
        self.replaced += newer.replaced
        for key, values in newer.by_epoch.items():
            self.by_epoch.setdefault(key, {}).update(values)

    def go_on(self, newer: Logged) -> None:
        """Take what a process logged that resumed the run; what it logged again counts once."""
        for key, values in newer.by_epoch.items():
            self.replaced += len(values.keys() & self.by_epoch.get(key, {}).keys())
        self.join(newer)
