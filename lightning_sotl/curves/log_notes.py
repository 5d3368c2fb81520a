"""What has to be said of runs whose logs lack something, in sentences."""

from __future__ import annotations

from lightning_sotl._wording import counted, some
from lightning_sotl.curves.run_sources import RunSource


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
