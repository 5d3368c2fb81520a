"""From the runs of a directory to plain arrays, with notes on what they lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_all, quote_few, quoted, visible
from lightning_sotl.curves._folders import find_run_folders
from lightning_sotl.curves._log_values import check_table_size
from lightning_sotl.curves._runs import ReadRequest, RunSource, read_sources
from lightning_sotl.curves.run_notes import RunNotes

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LogKeys:
    """Which logged keys hold what; None for what is not wanted.

    Attributes:
        val_loss: Of the validation loss.
        val_metric: Of the validation metric.
        final_metric: Of the target; its last value in a run counts.
        final_loss: Of the test loss; its last value in a run counts.
        train_loss: To take for L(e) where a run has neither a record nor `<prefix>_e1`.
        others: Further keys whose values per epoch are wanted.
        prefix: The monitor's.
        block: N of a monitor with `every_n_train_batches=N`, whose units are blocks; None for
            epochs.
    """

    val_loss: str | None = None
    val_metric: str | None = None
    final_metric: str | None = None
    final_loss: str | None = None
    train_loss: str | None = None
    others: Sequence[str] = ()
    prefix: str = "sotl"
    block: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None and (self.val_loss or self.val_metric):
            raise ValueError(
                "Expected no validation curve beside blocks of training batches: it is logged by "
                "epoch."
            )

    @property
    def recovered(self) -> tuple[str, ...]:
        """The keys that L(e) can be read from, the first that a run has counts.

        Logs do not say which block a point belongs to, so for blocks there are none.
        """
        if self.block is not None:
            return ()
        return (f"{self.prefix}_e1", *([self.train_loss] if self.train_loss else []))


@dataclass(frozen=True)
class LogArrays:
    """What the logs and records below a directory hold, as plain arrays.

    Attributes:
        curves: The arguments of `LearningCurves`, without the two modes.
        facts: Per run, the header of its record; empty without a record.
        others: Key -> its value after each epoch, shape `(runs, epochs)`, NaN where it has none.
        has_record: Which runs have a record, shape `(runs,)`.
        stopped_at: Per run, the T at which a stopper first ended it, or None.
        notes: What was left out, joined or could not be read.
    """

    curves: dict[str, Any]
    facts: tuple[dict[str, Any], ...]
    others: dict[str, NDArray[np.float64]]
    has_record: NDArray[np.bool_]
    stopped_at: tuple[int | None, ...]
    notes: RunNotes


def read_arrays(
    directory: str | Path,
    keys: LogKeys,
    *,
    needs_losses: bool = True,
    instead: str | None = None,
    progress: Progress | None = None,
) -> LogArrays:
    """Read all runs below a directory; the arguments and errors are those of `logs.read_logs`."""
    root, notes = Path(directory), RunNotes()
    try:
        sources = _sources(root, keys, notes, needs_losses, instead, progress)
        return _assemble(root, sources, keys, notes)
    except ValueError as error:
        # What was left out may be the reason. The message holds names that others gave.
        raise ValueError(visible(" ".join([str(error), *notes.warnings[:5]]))) from None


def _sources(
    root: Path,
    keys: LogKeys,
    notes: RunNotes,
    needs_losses: bool,
    instead: str | None,
    progress: Progress | None,
) -> list[RunSource]:
    folders = find_run_folders(root, notes.left_out, prefix=keys.prefix)
    per_epoch = [key for key in (keys.val_loss, keys.val_metric, *keys.others) if key]
    finals = [key for key in (keys.final_metric, keys.final_loss) if key]
    wanted = ReadRequest(
        frozenset([*per_epoch, *finals, *keys.recovered]), keys.prefix, keys.block or "epoch"
    )
    sources = read_sources(root, folders, wanted, notes, progress)
    available = sorted(set().union(*(source.logged.keys for source in sources)))
    for key in per_epoch:
        has_values = any(key in source.logged.by_epoch for source in sources)
        if not has_values and (key not in keys.others or not needs_losses):
            raise ValueError(why_useless(key, sources, available))
    for key in finals:
        if not any(key in source.logged.last for source in sources):
            raise ValueError(why_useless(key, sources, available))
    if needs_losses:
        return _with_losses(sources, keys, instead, available, notes)
    return _with_values(sources, keys, notes)


def _with_values(sources: list[RunSource], keys: LogKeys, notes: RunNotes) -> list[RunSource]:
    kept = [one for one in sources if any(key in one.logged.by_epoch for key in keys.others)]
    missing = [source.name for source in sources if source not in kept]
    if missing:
        notes.left_out.append(
            f"Left out {len(missing)} of {pluralize(len(sources), 'run')} that do not log "
            f"{quote_all(keys.others)} by epoch: {quote_few(missing)}."
        )
    return kept


def _with_losses(
    sources: list[RunSource],
    keys: LogKeys,
    instead: str | None,
    available: list[str],
    notes: RunNotes,
) -> list[RunSource]:
    has = [
        bool(source.losses(keys.recovered)) or instead in source.logged.by_epoch
        for source in sources
    ]
    kept = [source for source, has_one in zip(sources, has, strict=True) if has_one]
    missing = [source.name for source, has_one in zip(sources, has, strict=True) if not has_one]
    why = _why_missing(keys)
    if not kept:
        for key in keys.recovered:
            if key in available:
                raise ValueError(why_useless(key, sources, available))
        raise ValueError(
            f"None of the {pluralize(len(sources), 'run')} has {why}. Logged are: "
            f"{quote_all(available)}; `train_loss` (--train-loss) names one to take as it is."
        )
    if missing:
        notes.left_out.append(
            f"Left out {len(missing)} of {pluralize(len(sources), 'run')} without {why}: "
            f"{quote_few(missing)}."
        )
    borrowed = sum(source.borrows(keys.recovered) for source in kept)
    if borrowed:
        notes.cautions.append(
            f"Took '{keys.train_loss}' as L(e) of {pluralize(borrowed, 'run')} without a record; "
            "whether it is the mean of the step losses cannot be told from the logs."
        )
    return kept


def _why_missing(keys: LogKeys) -> str:
    if keys.block is None:
        logged = " or ".join(f"'{key}'" for key in keys.recovered)
        source = f"a record with a completed epoch or {logged} in its logs"
    else:
        source = f"a record with a completed block of {keys.block} batches, which logs do not give"
    return f"{source}; from other logged values L(e) cannot be recovered exactly"


def _assemble(
    root: Path,
    sources: list[RunSource],
    keys: LogKeys,
    notes: RunNotes,
) -> LogArrays:
    losses = [source.losses(keys.recovered) for source in sources]
    others = {
        key: [source.values(key, keys.recovered) for source in sources]
        for key in (*keys.others, keys.val_loss, keys.val_metric)
        if key
    }
    epochs, longest = _longest([losses, *others.values()], sources)
    check_table_size(root, len(sources), epochs, longest)
    tables = {key: _table(values, epochs) for key, values in others.items()}
    notes.cautions.extend(notes_on_gaps(sources, losses))
    notes.remarks.extend(notes_on_late_values(sources, others))
    if keys.final_metric or keys.final_loss:
        notes.cautions.extend(notes_on_short_runs(sources, losses))
    curves = {
        "train_loss": _table(losses, epochs),
        "val_loss": tables[keys.val_loss] if keys.val_loss else None,
        "val_metric": tables[keys.val_metric] if keys.val_metric else None,
        "final_metric": _finals(sources, keys.final_metric, notes),
        "final_loss": _finals(sources, keys.final_loss, notes),
        "run_ids": tuple(source.name for source in sources),
        "checkpoints": tuple(source.checkpoint for source in sources),
    }
    return LogArrays(
        curves,
        facts=tuple(source.facts for source in sources),
        others={key: tables[key] for key in keys.others},
        has_record=np.array([source.record is not None for source in sources]),
        stopped_at=tuple(source.stopped_at for source in sources),
        notes=notes,
    )


def _longest(tables: list[list[dict[int, float]]], sources: list[RunSource]) -> tuple[int, str]:
    """Return the epochs of the longest run, and its name; 1 where there is no value at all."""
    lengths = [
        (max(one) + 1, source.name)
        for many in tables
        for one, source in zip(many, sources, strict=True)
        if one
    ]
    return max(lengths, default=(1, ""))


def _table(curves: list[dict[int, float]], epochs: int) -> NDArray[np.float64]:
    table = np.full((len(curves), epochs), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[list(curve)] = list(curve.values())
    return table


def _finals(
    sources: list[RunSource], key: str | None, notes: RunNotes
) -> NDArray[np.float64] | None:
    if key is None:
        return None
    notes.cautions.extend(notes_on_finals(sources, key))
    return np.array(
        [np.nan if one.why_not_final(key) else one.logged.last.get(key, np.nan) for one in sources]
    )


def why_useless(key: str, sources: Sequence[RunSource], available: Sequence[str]) -> str:
    """Say why no run has a value of a key, or none that can be placed on an epoch.

    Args:
        key: The logged key that was asked for.
        sources: All runs.
        available: The keys that their logs hold.
    """
    runs = pluralize(len(sources), "run")
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
        f"{pluralize(len(gaps), 'run')} without L(e) for some epochs (no step gave a loss, or a "
        "CSVLogger that resumed has deleted its rows); computed estimates that need those put "
        f"them last: {quote_few(gaps)}."
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
        f"{pluralize(len(short), 'run')} without a record, shorter than the longest: its last "
        "values count as final, since logs do not say whether the training was whole: "
        f"{quote_few(short)}."
    ]


def notes_on_late_values(
    sources: list[RunSource], curves: Mapping[str, list[dict[int, float]]]
) -> list[str]:
    """Say of which keys values were logged after the last completed epoch, which do not count.

    Args:
        sources: All runs.
        curves: Key -> e -> the value that counts, of each run.
    """
    notes = []
    for key, values in curves.items():
        late = [
            source.name
            for source, one in zip(sources, values, strict=True)
            if len(one) < len(source.logged.by_epoch.get(key, {}))
        ]
        if late:
            notes.append(
                f"Values of '{key}' that {pluralize(len(late), 'run')} logged after the last "
                f"completed epoch do not count: {quote_few(late)}."
            )
    return notes


def notes_on_finals(sources: list[RunSource], key: str) -> list[str]:
    """Say of which runs the last value of a key is not what they came to, and why."""
    reasons: dict[str, list[str]] = {}
    for source in sources:
        if reason := source.why_not_final(key):
            reasons.setdefault(reason, []).append(source.name)
    return [
        f"The '{key}' of {pluralize(len(names), 'run')} does not count, as {reason}: "
        f"{quote_few(names)}."
        for reason, names in reasons.items()
    ]
