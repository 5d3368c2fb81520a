"""Sentences on the runs of a directory: why a key has no values, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sotl._utils.text import pluralize, quote_all, quote_few, quoted
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._run_source import RunSource


def why_no_values(key: str, sources: Sequence[RunSource]) -> str:
    """Return why no run has a value of a key, or none with an epoch."""
    runs = count_runs(sources)
    available = logged_keys(sources)
    others = f"available: {quote_all([name for name in available if name != key])}."
    if any(key in source.logged.last for source in sources):
        return f"Expected '{key}' to be logged with its epoch but no run has that; {others}"
    for source in sources:
        if key in source.logged.not_numbers:
            text = quoted(source.logged.not_numbers[key])
            return f"Expected '{key}' to be logged as numbers but got {text} in '{source.name}'."
    if key in available:
        return f"'{key}' is a column of the logs without a value in any of the {runs}; {others}"
    return f"'{key}' is not logged in any of the {runs}; {others}"


def count_runs(sources: Sequence[RunSource]) -> str:
    """Return how many runs there are, or how many folders if two may be of one run's loggers."""
    without_record = sum(source.record is None for source in sources)
    return pluralize(len(sources), "folder" if without_record > 1 else "run")


def why_no_losses(keys: LogKeys) -> str:
    """Return what a run without L(e) lacks."""
    if keys.block is None:
        logged = " or ".join(f"'{key}'" for key in keys.losses)
        source = f"a record with a completed epoch or {logged} in its logs"
    else:
        source = f"a record with a completed block of {keys.block} batches, which logs do not give"
    return f"{source}; from other logged values L(e) cannot be recovered exactly"


def logged_keys(sources: Sequence[RunSource]) -> list[str]:
    """Return all keys in the logs of some runs."""
    return sorted(set().union(*(source.logged.keys for source in sources)))


def notes_on_gaps(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs have epochs without L(e)."""
    gaps = [run.name for run in sources if run.losses and len(run.losses) <= max(run.losses)]
    if not gaps:
        return []
    return [
        f"{pluralize(len(gaps), 'run')} without L(e) for some epochs (no step gave a loss, or a "
        "CSVLogger that resumed has deleted its rows); computed estimates that need those put "
        f"them last: {quote_few(gaps)}."
    ]


def notes_on_late_values(sources: Sequence[RunSource], keys: Sequence[str]) -> list[str]:
    """Return which keys have values after the last completed epoch, which do not count."""
    notes = []
    for key in keys:
        late = [
            source.name
            for source in sources
            if len(source.values(key)) < len(source.logged.by_epoch.get(key, {}))
        ]
        if late:
            notes.append(
                f"Values of '{key}' that {pluralize(len(late), 'run')} logged after the last "
                f"completed epoch do not count: {quote_few(late)}."
            )
    return notes


def notes_on_short_runs(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs without a record may not have been trained to their end."""
    last = max((max(source.losses, default=0) for source in sources), default=0)
    short = [
        source.name
        for source in sources
        if source.record is None and source.losses and max(source.losses) < last
    ]
    if not short:
        return []
    return [
        f"{pluralize(len(short), 'run')} without a record, shorter than the longest: its last "
        "values count as final, since logs do not say whether the training was whole: "
        f"{quote_few(short)}."
    ]


def notes_on_finals(sources: Sequence[RunSource], key: str) -> list[str]:
    """Return of which runs the last value of a key does not count, and why."""
    reasons: dict[str, list[str]] = {}
    for source in sources:
        if reason := source.why_not_final(key):
            reasons.setdefault(reason, []).append(source.name)
    return [
        f"The '{key}' of {pluralize(len(names), 'run')} does not count, as {reason}: "
        f"{quote_few(names)}."
        for reason, names in reasons.items()
    ]
