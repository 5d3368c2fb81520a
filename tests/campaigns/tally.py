"""What a campaign has done, and what of it was wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Tally:
    """Counts, measured values and faults, in the order in which they came."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.measures: dict[str, str] = {}
        self.faults: list[str] = []

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def expect(self, what: str, found: Any, expected: Any) -> None:
        """Note a fault if something is not what it should be."""
        self.count("comparisons")
        if found != expected:
            self.fault(f"{what}: {found}, not {expected}")

    def rows(self) -> list[tuple[str, str]]:
        """Return a table of all, the faults last."""
        counts = [(what, str(times)) for what, times in self.counts.items()]
        return [*counts, *self.measures.items(), ("faults", str(len(self.faults)))]

    def add(self, other: Tally) -> None:
        """Take over what another one has."""
        self.counts.update(other.counts)
        self.measures.update(other.measures)
        self.faults += other.faults
