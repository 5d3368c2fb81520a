"""From a directory of runs to `LearningCurves`: records first, then Lightning's own logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._ranks import Mode
from lightning_sotl._wording import counted, listed, some, visible
from lightning_sotl.curves.folders import find_run_folders
from lightning_sotl.curves.log_notes import notes_on_gaps, notes_on_short_runs, why_useless
from lightning_sotl.curves.logged import check_table_size
from lightning_sotl.curves.run_joining import Wanted, read_sources
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.run_source import RunSource
from lightning_sotl.curves.table import LearningCurves

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
class FoundRuns:
    """What a directory of runs holds.

    Attributes:
        curves: The curves of the runs.
        facts: Of each run what its losses depend on, from its record; empty without one.
        others: Key -> its value after each epoch, shape `(runs, epochs)`, NaN where there is none.
        has_record: Which runs have a record, shape `(runs,)`.
        stopped_at: Of each run the T at which a stopper has ended it first, or None.
        notes: What was left out, joined or could not be read.
    """

    curves: LearningCurves
    facts: tuple[dict[str, Any], ...]
    others: dict[str, NDArray[np.float64]]
    has_record: NDArray[np.bool_]
    stopped_at: tuple[int | None, ...]
    notes: RunNotes = field(default_factory=RunNotes)

    @property
    def left_out(self) -> list[str]:
        """What was not read, or does not count, in sentences."""
        return self.notes.left_out


def read_logs(
    directory: str | Path,
    keys: LogKeys | None = None,
    *,
    metric_mode: Mode = "max",
    final_mode: Mode | None = None,
    needs_losses: bool = True,
    instead: str | None = None,
    progress: Progress | None = None,
) -> FoundRuns:
    """Read all runs below a directory.

    A run's L(e) comes from its record in float64. Without one it comes from the logged
    `<prefix>_e1`, which a CSVLogger keeps to about 16 digits and TensorBoard in float32; where
    that is not logged, L(e) cannot be recovered exactly from an epoch's other means, and the run
    is left out unless `keys.train_loss` names what to take. A target counts only for runs that,
    as their record says, were trained to the end.

    Args:
        directory: Holds records, `metrics.csv` or event files at any depth; a folder is a run.
        keys: What to read.
        metric_mode: "max" if a higher validation metric is better.
        final_mode: The same for the target; None for the same.
        needs_losses: Whether a run without L(e) is left out; otherwise one without any of
            `keys.others` is, and its losses may be NaN.
        instead: One of `keys.others` that does in place of L(e).
        progress: Is called with the number of folders read and of all.

    Raises:
        NotADirectoryError: If `directory` is none.
        ValueError: If it holds no run, if no run has L(e), or if no run has a number for a key
            that was asked for, on an epoch where a curve is wanted; the message says what is
            there, and what could not be read.
    """
    root, keys, notes = Path(directory), keys or LogKeys(), RunNotes()
    try:
        sources = _sources(root, keys, notes, needs_losses, instead, progress)
        return _assemble(root, sources, keys, metric_mode, final_mode, notes)
    except ValueError as error:
        # What was left out may be why; and it has names that others gave.
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
    wanted = Wanted(
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
            f"Left out {len(missing)} of {counted(len(sources), 'run')} that do not log "
            f"{listed(keys.others)} by epoch: {some(missing)}."
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
            f"None of the {counted(len(sources), 'run')} has {why}. Logged are: "
            f"{listed(available)}; `train_loss` (--train-loss) names one to take as it is."
        )
    if missing:
        notes.left_out.append(
            f"Left out {len(missing)} of {counted(len(sources), 'run')} without {why}: "
            f"{some(missing)}."
        )
    borrowed = sum(source.borrows(keys.recovered) for source in kept)
    if borrowed:
        notes.cautions.append(
            f"Took '{keys.train_loss}' as L(e) of {counted(borrowed, 'run')} without a record; "
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
    metric_mode: Mode,
    final_mode: Mode | None,
    notes: RunNotes,
) -> FoundRuns:
    losses = [source.losses(keys.recovered) for source in sources]
    others = {
        key: [source.logged.by_epoch.get(key, {}) for source in sources]
        for key in (*keys.others, keys.val_loss, keys.val_metric)
        if key
    }
    epochs, longest = _longest([losses, *others.values()], sources)
    check_table_size(root, len(sources), epochs, longest)
    tables = {key: _table(values, epochs) for key, values in others.items()}
    notes.cautions.extend(notes_on_gaps(sources, losses))
    if keys.final_metric or keys.final_loss:
        notes.cautions.extend(notes_on_short_runs(sources, losses))
    curves = LearningCurves(
        _table(losses, epochs),
        val_loss=tables[keys.val_loss] if keys.val_loss else None,
        val_metric=tables[keys.val_metric] if keys.val_metric else None,
        final_metric=_finals(sources, keys.final_metric, notes),
        final_loss=_finals(sources, keys.final_loss, notes),
        metric_mode=metric_mode,
        final_mode=final_mode,
        run_ids=tuple(source.name for source in sources),
        checkpoints=tuple(source.checkpoint for source in sources),
    )
    return FoundRuns(
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
    values = np.full(len(sources), np.nan)
    unfinished = []
    for place, source in enumerate(sources):
        if key in source.logged.last and source.is_unfinished:
            unfinished.append(source.name)
        else:
            values[place] = source.logged.last.get(key, np.nan)
    if unfinished:
        notes.cautions.append(
            f"The '{key}' of {counted(len(unfinished), 'run')} does not count, as the training was "
            f"stopped early or is not finished: {some(unfinished)}."
        )
    return values
