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
        cause = ""
        if any(key in source.logged.without_epoch for source in sources):
            cause = (
                ", since Lightning writes no epoch beside a logged key 'step' (log a key 'epoch' "
                "with it)"
            )
        return f"Expected '{key}' to be logged with its epoch but no run has that{cause}; {others}"
    for source in sources:
        if key in source.logged.not_numbers:
            text = quoted(source.logged.not_numbers[key])
            return f"Expected '{key}' to be logged as numbers but got {text} in '{source.name}'."
    if key in available:
        return f"'{key}' is a column of the logs without a value in any of the {runs}; {others}"
    return f"'{key}' is not logged in any of the {runs}; {others}"


def count_runs(sources: Sequence[RunSource]) -> str:
    """Return how many runs there are, or how many folders if several may be of one run."""
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


def notes_on_train_loss(sources: Sequence[RunSource], keys: LogKeys) -> list[str]:
    """Return for which runs L(e) was taken from `train_loss`, and what that is."""
    runs = [run for run in sources if run.loss_key not in (None, keys.monitor)]
    averaged = sum(keys.train_loss in run.logged.means for run in runs)
    notes = []
    if taken := len(runs) - averaged:
        notes.append(
            f"Took '{keys.train_loss}' as L(e) of {pluralize(taken, 'run')} without a record; "
            "whether it is the mean of the step losses cannot be told from the logs."
        )
    if averaged:
        notes.append(
            f"Took the mean of the values of '{keys.train_loss}' that were logged in an epoch as "
            f"L(e) of {pluralize(averaged, 'run')} without a record; steps that were not logged "
            "are not in it."
        )
    return notes


def notes_on_cut_epochs(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs have epochs that were cut short and do not count."""
    cut: dict[str, list[str]] = {}
    for source in sources:
        key = source.loss_key
        if key is not None and len(source.losses) < len(source.logged.by_epoch[key]):
            cut.setdefault(key, []).append(source.name)
    return [
        f"Epochs of {pluralize(len(names), 'run')} with too few steps or values of '{key}' were "
        f"cut short and do not count: {quote_few(names)}."
        for key, names in cut.items()
    ]


def notes_on_doubtful_losses(sources: Sequence[RunSource]) -> list[str]:
    """Return in which runs NaN may be a loss, or mean that there is none."""
    notes: dict[tuple[str, bool], list[str]] = {}
    for source in sources:
        for key in source.keys.losses if source.record is None else ():
            if key in source.logged.doubtful and source.loss_key in (key, None):
                notes.setdefault((key, source.loss_key is None), []).append(source.name)
    return [
        f"'{key}' of {pluralize(len(names), 'run')} is NaN in all rows, so it diverged at once or "
        f"was not logged: {quote_few(names)}."
        if is_all
        else f"Took NaN in '{key}' of {pluralize(len(names), 'run')} as a loss that diverged; the "
        f"file may also write NaN where nothing was logged: {quote_few(names)}."
        for (key, is_all), names in notes.items()
    ]


def logged_keys(sources: Sequence[RunSource]) -> list[str]:
    """Return all keys in the logs of some runs."""
    return sorted(set().union(*(source.logged.keys for source in sources)))


def notes_on_gaps(sources: Sequence[RunSource]) -> list[str]:
    """Return which runs have epochs without L(e)."""
    gaps = [run.name for run in sources if run.losses and len(run.losses) <= max(run.losses)]
    if not gaps:
        return []
    late = [run.name for run in sources if run.record is None and min(run.losses, default=0) == 1]
    from_one = (
        f"The first epoch of {pluralize(len(late), 'run')} is 1. If epochs were counted from 1, "
        f"each value is one epoch late: {quote_few(late)}."
    )
    return [
        f"{pluralize(len(gaps), 'run')} without L(e) for some epochs (no step gave a loss, or a "
        "CSVLogger that resumed has deleted its rows); computed estimates that need those put "
        f"them last: {quote_few(gaps)}.",
        *([from_one] if late else []),
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


def notes_on_several_values(sources: Sequence[RunSource], keys: Sequence[str]) -> list[str]:
    """Return which keys were logged several times an epoch."""
    notes = []
    for key in keys:
        if several := [source.name for source in sources if key in source.logged.means]:
            notes.append(
                f"'{key}' was logged several times an epoch by {pluralize(len(several), 'run')}; "
                f"the last value of each epoch counts: {quote_few(several)}."
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
    """Return the runs whose last value of a key does not count, and the reasons."""
    reasons: dict[str, list[str]] = {}
    for source in sources:
        if reason := source.why_not_final(key):
            reasons.setdefault(reason, []).append(source.name)
    return [
        f"The '{key}' of {pluralize(len(names), 'run')} does not count, as {reason}: "
        f"{quote_few(names)}."
        for reason, names in reasons.items()
    ]
