"""The counts, measurements and faults of a campaign."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Tally:
    """Counts, measurements and faults, in order of occurrence."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.measures: dict[str, str] = {}
        self.faults: list[str] = []

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def expect(self, what: str, found: Any, expected: Any) -> None:
        """Count a comparison, and add a fault if `found` is not `expected`."""
        self.count("comparisons")
        if found != expected:
            self.fault(f"{what}: {found}, not {expected}")

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of a table, with the number of faults last."""
        counts = [(what, str(times)) for what, times in self.counts.items()]
        return [*counts, *self.measures.items(), ("faults", str(len(self.faults)))]

    def add(self, other: Tally) -> None:
        """Add the counts, measurements and faults of another tally."""
        self.counts.update(other.counts)
        self.measures.update(other.measures)
        self.faults += other.faults
