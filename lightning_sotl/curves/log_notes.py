"""What has to be said of runs whose logs lack something, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sotl._wording import counted, listed, quoted, some
from lightning_sotl.curves.run_source import RunSource


def why_useless(key: str, sources: Sequence[RunSource], available: Sequence[str]) -> str:
    """Say why no run has a value of a key, or none that can be placed on an epoch.

    Args:
        key: The logged key that was asked for.
        sources: All runs.
        available: The keys that their logs hold.
    """
    runs = counted(len(sources), "run")
    others = f"available: {listed([name for name in available if name != key])}."
    if any(key in source.logged.last for source in sources):
        return f"Expected '{key}' to be logged with its epoch but no run has that; {others}"
    for source in sources:
        if key in source.logged.not_numbers:
            text = quoted(source.logged.not_numbers[key])
            return f"Expected '{key}' to be logged as numbers but got {text} in '{source.name}'."
    if key in available:
        return f"'{key}' is a column of the logs without a value in any of the {runs}; {others}"
    return f"'{key}' is not logged in any of the {runs}; {others}"


def notes_on_gaps(sources: list[RunSource], losses: list[dict[int, float]]) -> list[str]:
    """Say which runs have epochs without L(e)."""
    gaps = [
        source.name
        for source, one in zip(sources, losses, strict=True)
        if one and len(one) <= max(one)
    ]
    if not gaps:
        return []
    return [
        f"{counted(len(gaps), 'run')} without L(e) for some epochs (no step gave a loss, or a "
        "CSVLogger that resumed has deleted its rows); computed estimates that need those put "
        f"them last: {some(gaps)}."
    ]


def notes_on_short_runs(sources: list[RunSource], losses: list[dict[int, float]]) -> list[str]:
    """Say which runs without a record may not have been trained to their end."""
    last = max((max(one) for one in losses if one), default=0)
    short = [
        source.name
        for source, one in zip(sources, losses, strict=True)
        if source.record is None and one and max(one) < last
    ]
    if not short:
        return []
    return [
        f"{counted(len(short), 'run')} without a record, shorter than the longest: its last "
        "values count as final, since logs do not say whether the training was whole: "
        f"{some(short)}."
    ]
