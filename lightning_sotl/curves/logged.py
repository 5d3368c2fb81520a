"""What a logger's files say about one run: values by key, placed on epochs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

# An epoch beyond this is a damaged number, and would ask for a table of gigabytes.
MOST_UNITS = 10_000_000


@dataclass
class Logged:
    """Values that one folder's logs hold, of the keys that were asked for.

    Attributes:
        wanted: The keys to keep.
        keys: All keys that the logs hold.
        by_epoch: Key -> e -> the last value logged in epoch e.
        last: Key -> the last value logged at all, with or without an epoch.
        unreadable: How many lines, events or numbers could not be read.
        replaced: How many values were logged once more after a resume; the newer ones are kept.
    """

    wanted: Collection[str]
    keys: set[str] = field(default_factory=set)
    by_epoch: dict[str, dict[int, float]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    unreadable: int = 0
    replaced: int = 0

    def add(self, key: str, epoch: int | None, value: float) -> None:
        """Take a value in the order in which it was logged."""
        self.last[key] = value
        if epoch is not None:
            self.by_epoch.setdefault(key, {})[epoch] = value

    def join(self, newer: Logged) -> None:
        """Take what other logs of the same run hold; on the same epoch they win."""
        self.keys |= newer.keys
        self.last.update(newer.last)
        self.unreadable += newer.unreadable
        self.replaced += newer.replaced
        for key, values in newer.by_epoch.items():
            self.by_epoch.setdefault(key, {}).update(values)

    def go_on(self, newer: Logged) -> None:
        """Take what a process logged that resumed the run; what it logged again counts once."""
        for key, values in newer.by_epoch.items():
            self.replaced += len(values.keys() & self.by_epoch.get(key, {}).keys())
        self.join(newer)
