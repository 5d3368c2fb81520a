"""Writes the notes on the runs of a directory, and the errors about missing keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_sotl._utils.text import pluralize, quote_all, quote_few, quoted
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._run_source import RunSource


def why_no_values(key: str, sources: Sequence[RunSource]) -> str:
    """Return why no run has a value of a key, or no value with an epoch."""
    available = logged_keys(sources)
    if sources and sources[0].keys.block is not None and key in sources[0].keys.curves:
        return (
            f"Found no '{key}' in the records of {count_runs(sources)}. With blocks, a curve must "
            f"be in the records: pass SoTLMonitor `record_metrics=[{key!r}]`."
        )
    others = f"available: {quote_all([name for name in available if name != key])}."
    if any(key in source.logged.last for source in sources):
        cause = ""
        if any(key in source.logged.without_epoch for source in sources):
            cause = (
                ", because Lightning writes no epoch if a key 'step' is logged (log a key 'epoch' "
                "with it)"
            )
        return f"Expected '{key}' to be logged with its epoch but no run does so{cause}; {others}"
    for source in sources:
        if key in source.logged.not_numbers:
            text = quoted(source.logged.not_numbers[key])
            return f"Expected '{key}' to be logged as numbers but got {text} in '{source.name}'."
    if key in available:
        return f"Found '{key}' without a usable value in {count_runs(sources)}; {others}"
    return f"Found no '{key}' in the logs of {count_runs(sources)}; {others}"


def count_runs(sources: Sequence[RunSource]) -> str:
    """Return the number of runs, or of folders if several may belong to the same run."""
    without_record = sum(source.record is None for source in sources)
    return pluralize(len(sources), "folder" if without_record > 1 else "run")


def what_losses_need(keys: LogKeys) -> str:
    """Return what a run needs to have L(e)."""
    if keys.block is not None:
        return f"L(e) needs a record with a completed block of {keys.block} batches."
    logged = " or ".join(f"'{key}'" for key in keys.losses)
    return (
        f"L(e) needs a record with a completed epoch, or {logged} in the logs; other logged values "
        "do not give it exactly."
    )


def other_losses(keys: LogKeys, sources: Sequence[RunSource]) -> list[str]:
    """Return a sentence about L(e) of another unit in the records, if there is any."""
    names = {
        replace(keys, block=unit if isinstance(unit, int) else None).monitor
        for source in sources
        if source.record and source.record.losses and (unit := source.record.unit) != keys.unit
    }
    if not names:
        return []
    return [
        f"The records have L(e) of {quote_all(sorted(names))}; pass a name as `monitor` "
        "(--monitor), or its block size as `block`."
    ]


def notes_on_train_loss(sources: Sequence[RunSource], keys: LogKeys) -> list[str]:
    """Return for which runs L(e) was taken from `train_loss`, and from which of its values."""
    runs = [run for run in sources if run.loss_key not in (None, keys.monitor)]
    averaged = sum(keys.train_loss in run.logged.means for run in runs)
    notes = []
    if taken := len(runs) - averaged:
        notes.append(
            f"L(e) of {pluralize(taken, 'run')} without a record is '{keys.train_loss}'; the logs "
            "do not show whether that is the mean of the step losses."
        )
    if averaged:
        notes.append(
            f"L(e) of {pluralize(averaged, 'run')} without a record is the mean of the logged "
            f"values of '{keys.train_loss}' in each epoch; it does not include steps that were not "
            "logged."
        )
    return notes


def notes_on_cut_epochs(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs have epochs that ended early and do not count."""
    cut: dict[str, list[str]] = {}
    for source in sources:
        key = source.loss_key
        if key is not None and len(source.losses) < len(source.logged.by_epoch[key]):
            cut.setdefault(key, []).append(source.name)
    return [
        f"Epochs of {pluralize(len(names), 'run')} with too few steps or values of '{key}' were "
        f"cut short and are left out: {quote_few(names)}."
        for key, names in cut.items()
    ]


def notes_on_doubtful_losses(sources: Sequence[RunSource]) -> list[str]:
    """Return in which runs NaN may be a loss or a missing value."""
    notes: dict[tuple[str, bool], list[str]] = {}
    for source in sources:
        for key in source.keys.losses if source.record is None else ():
            if key in source.logged.doubtful and source.loss_key in (key, None):
                notes.setdefault((key, source.loss_key is None), []).append(source.name)
    return [
        f"'{key}' of {pluralize(len(names), 'run')} is NaN in all rows: either it diverged at once "
        f"or it was not logged: {quote_few(names)}."
        if is_all
        else f"NaN in '{key}' of {pluralize(len(names), 'run')} is read as a diverged loss; the "
        f"file may also contain NaN where nothing was logged: {quote_few(names)}."
        for (key, is_all), names in notes.items()
    ]


def logged_keys(sources: Sequence[RunSource]) -> list[str]:
    """Return all keys in the logs of the runs."""
    return sorted(set().union(*(source.logged.keys for source in sources)))


def notes_on_gaps(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs have epochs without L(e)."""
    gaps = [run.name for run in sources if run.losses and len(run.losses) <= max(run.losses)]
    if not gaps:
        return []
    unit = "epoch" if sources[0].keys.block is None else "block"
    notes = [
        f"L(e) is missing for some {unit}s of {pluralize(len(gaps), 'run')}, because no step "
        "returned a loss or a resumed CSVLogger deleted its rows. Estimates that need these "
        f"{unit}s rank such runs last: {quote_few(gaps)}."
    ]
    late = [run.name for run in sources if run.record is None and min(run.losses, default=0) == 1]
    if late:
        notes.append(
            f"The first epoch of {pluralize(len(late), 'run')} is 1. If epochs were counted from "
            f"1, each value is one epoch late: {quote_few(late)}."
        )
    return notes


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
                f"completed epoch are left out: {quote_few(late)}."
            )
    return notes


def notes_on_several_values(sources: Sequence[RunSource], keys: Sequence[str]) -> list[str]:
    """Return which keys were logged several times an epoch."""
    notes = []
    for key in keys:
        if several := [source.name for source in sources if key in source.logged.means]:
            notes.append(
                f"'{key}' was logged several times per epoch by {pluralize(len(several), 'run')}; "
                f"the last value of each epoch counts: {quote_few(several)}."
            )
    return notes


def notes_on_short_runs(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs without a record may not have been trained to the end."""
    last = max((max(source.losses, default=0) for source in sources), default=0)
    short = [
        source.name
        for source in sources
        if source.record is None and source.losses and max(source.losses) < last
    ]
    if not short:
        return []
    return [
        f"The last values of {pluralize(len(short), 'run')} without a record count as final, "
        "although other runs trained longer; logs do not show whether a run was trained to the "
        f"end: {quote_few(short)}."
    ]


def notes_on_finals(sources: Sequence[RunSource], key: str) -> list[str]:
    """Return the runs whose last value of a key does not count, and why."""
    reasons: dict[str, list[str]] = {}
    for source in sources:
        if reason := source.why_not_final(key):
            reasons.setdefault(reason, []).append(source.name)
    return [
        f"The '{key}' of {pluralize(len(names), 'run')} does not count because {reason}: "
        f"{quote_few(names)}."
        for reason, names in reasons.items()
    ]
