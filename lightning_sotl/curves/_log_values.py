"""`Logged`: the values in a run's logs by key and epoch, and the limits of a table of curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from lightning_sotl._utils.text import pluralize, quoted
from lightning_sotl.record.format import MOST_UNITS

# 0.4 GB for each array of a table. A ranking makes a few arrays of this size.
MOST_ENTRIES = 50_000_000
# A run needs about 1 kB beside its curves, and a small archive may unpack to millions of runs.
MOST_RUNS = 1_000_000
# Larger numbers are not exact as floats.
MOST_STEPS = 2**53


def check_table_size(path: object, runs: int, epochs: int, longest: str = "") -> None:
    """Raise if a table would not fit into memory, for example because of one damaged number.

    Args:
        path: The file or directory of the table, for the message.
        runs: The number of runs.
        epochs: The number of epochs of the longest run.
        longest: The name of that run, if it has one.

    Raises:
        ValueError: If there are more than `MOST_RUNS` runs or `MOST_ENTRIES` entries.
    """
    if runs > MOST_RUNS:
        raise ValueError(f"Expected '{path}' to hold at most {MOST_RUNS:,} runs but got {runs:,}.")
    if runs * epochs > MOST_ENTRIES:
        raise ValueError(
            f"Expected '{path}' to hold at most {MOST_ENTRIES:,} losses but got "
            f"{runs * epochs:,}: {pluralize(runs, 'run')} with up to "
            f"{pluralize(epochs, 'epoch')}{f' ({quoted(longest)})' if longest else ''}."
        )


def epoch_of(number: float) -> int | None:
    """Return a logged number as an epoch, or None if it cannot be an epoch.

    Examples:
        >>> epoch_of(3.0), epoch_of(0.5), epoch_of(-1.0), epoch_of(float("inf"))
        (3, None, None, None)
    """
    return int(number) if 0 <= number < MOST_UNITS and number == int(number) else None


def step_of(number: float) -> float | None:
    """Return a logged number as a step, or None if it cannot be a step.

    Examples:
        >>> step_of(3.0), step_of(0.5), step_of(float("nan"))
        (3.0, None, None)
    """
    return number if 0 <= number < MOST_STEPS and number == int(number) else None


@dataclass
class Logged:
    """Values in the logs of a folder.

    Attributes:
        wanted: The keys to keep.
        keys: All keys in the logs.
        by_epoch: Key -> e -> the last value logged in epoch e.
        means: Key -> e -> the mean of the values logged in epoch e, for keys that are logged
            several times per epoch. Epochs with missing values are not included.
        completed: How many epochs are complete, as far as the steps of the rows show it.
        last: Key -> the last logged value, with or without an epoch.
        last_epochs: Key -> the epoch of that value, or None.
        without_epoch: The keys with values that have a step but no epoch.
        not_numbers: Key -> the first text that was logged in place of a number.
        unreadable: How many lines, events or numbers could not be read.
        replaced: How many values were logged again after a resume. The newer ones are kept.
        restarts: How often the training was started again. The last training is kept.
        doubtful: Key -> how many NaN cells may be a value or may mean that there is no value.
    """

    wanted: Collection[str]
    keys: set[str] = field(default_factory=set)
    by_epoch: dict[str, dict[int, float]] = field(default_factory=dict)
    means: dict[str, dict[int, float]] = field(default_factory=dict)
    completed: int = 0
    last: dict[str, float] = field(default_factory=dict)
    last_epochs: dict[str, int | None] = field(default_factory=dict)
    without_epoch: set[str] = field(default_factory=set)
    not_numbers: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    replaced: int = 0
    restarts: int = 0
    doubtful: Counter[str] = field(default_factory=Counter)

    def before(self, end: int) -> Logged:
        """Return the values of the epochs before `end`, as if the log ended there."""
        cut = Logged(self.wanted, set(self.keys), completed=min(self.completed, end))
        for target, source in ((cut.by_epoch, self.by_epoch), (cut.means, self.means)):
            for key, values in source.items():
                kept = {epoch: value for epoch, value in values.items() if epoch < end}
                if kept:
                    target[key] = kept
        cut.last_epochs = {key: max(values) for key, values in cut.by_epoch.items()}
        cut.last = {
            key: cut.by_epoch[key][epoch]
            for key, epoch in cut.last_epochs.items()
            if epoch is not None
        }
        return cut

    def without_epochs(self) -> Logged:
        """Return only the last values, because logs have no values by block."""
        return replace(self, by_epoch={}, means={}, completed=0)

    def update(self, newer: Logged) -> None:
        """Add the values of other logs of the same run, which replace those of the same epoch."""
        self.keys |= newer.keys
        self.last.update(newer.last)
        self.last_epochs.update(newer.last_epochs)
        self.without_epoch |= newer.without_epoch
        self.not_numbers = {**newer.not_numbers, **self.not_numbers}
        self.unreadable += newer.unreadable
        self.replaced += newer.replaced
        self.restarts += newer.restarts
        self.doubtful += newer.doubtful
        self.completed = max(self.completed, newer.completed)
        for target, source in ((self.by_epoch, newer.by_epoch), (self.means, newer.means)):
            for key, values in source.items():
                target.setdefault(key, {}).update(values)
