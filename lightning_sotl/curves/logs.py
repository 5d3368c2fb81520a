"""Reads a directory of runs: their records, or else Lightning's own logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.curves._folders import is_run_file
from lightning_sotl.curves._log_arrays import read_arrays
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._runs import Progress
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.ranks import Mode

__all__ = ["FoundRuns", "LogKeys", "is_run_file", "read_logs"]


@dataclass(frozen=True)
class FoundRuns:
    """The runs of a directory.

    Attributes:
        curves: The curves of the runs.
        facts: For each run, the header of its record. Empty without a record.
        others: Key -> its value after each epoch, shape `(runs, epochs)`. NaN for no value.
        has_record: Which runs have a record, shape `(runs,)`.
        stopped_at: For each run, the T at which a stopper first ended it, or None.
        notes: What was left out or joined, or could not be read.
        checkpoint_facts: For each run, the header of the process that wrote its newest checkpoint.
        checkpoint_epochs: For each run, after how many epochs (or blocks) this checkpoint was
            saved. 0 without a checkpoint.
        is_finished: For each run, whether its record shows that it was trained to its end.
    """

    curves: LearningCurves
    facts: tuple[dict[str, Any], ...]
    others: dict[str, NDArray[np.float64]]
    has_record: NDArray[np.bool_]
    stopped_at: tuple[int | None, ...]
    notes: RunNotes = field(default_factory=RunNotes)
    checkpoint_facts: tuple[dict[str, Any], ...] = ()
    checkpoint_epochs: tuple[int, ...] = ()
    is_finished: tuple[bool, ...] = ()


def read_logs(
    directory: str | Path | Sequence[str | Path],
    keys: LogKeys | None = None,
    *,
    metric_mode: Mode = "max",
    final_mode: Mode | None = None,
    needs_losses: bool = True,
    instead: str | None = None,
    progress: Progress | None = None,
) -> FoundRuns:
    """Read all runs below one or several directories.

    L(e) comes from a run's record, in float64. Without a record, it comes from the logged
    `<prefix>_e1`, which a CSVLogger stores with about 16 digits and TensorBoard as a float32. Other
    logged means do not give L(e) exactly. A run that does not log `<prefix>_e1` is left out, unless
    `keys.train_loss` names the key to use. Blocks are read from records only. The target of a run
    does not count if its record shows that it was not trained to the end.

    Args:
        directory: One or several directories with records, `metrics.csv` or event files at any
            depth. Each folder with such files is a run. The path of such a file means its folder.
            With several directories, the names of runs are relative to their common folder.
        keys: The keys to read.
        metric_mode: "max" if a higher validation metric is better.
        final_mode: The same for the target. None uses `metric_mode`.
        needs_losses: True leaves out runs without L(e). False leaves out runs without any of
            `keys.others`; the losses of the remaining runs may be NaN.
        instead: One of `keys.others`. A run that logs it needs no L(e).
        progress: Called with the number of folders read so far and the total.

    Raises:
        NotADirectoryError: If `directory` is neither a directory nor such a file.
        ModuleNotFoundError: If all runs have only TensorBoard's event files and `tensorboard` is
            not installed. Beside other runs, they are left out with a note.
        ValueError: If there are no runs, if no run has L(e), or if no run has a number for a
            wanted key (for a curve, with its epoch). The message lists the logged keys and what
            could not be read.
    """
    found = read_arrays(
        directory, keys or LogKeys(), needs_losses=needs_losses, instead=instead, progress=progress
    )
    return FoundRuns(
        LearningCurves(**found.curves, metric_mode=metric_mode, final_mode=final_mode),
        facts=tuple(source.facts for source in found.sources),
        others=found.others,
        has_record=np.array([source.record is not None for source in found.sources]),
        stopped_at=tuple(source.stopped_at for source in found.sources),
        checkpoint_facts=tuple(
            source.record.checkpoint_facts if source.record else {} for source in found.sources
        ),
        checkpoint_epochs=tuple(
            max(source.record.checkpoints, default=-1) + 1 if source.record else 0
            for source in found.sources
        ),
        is_finished=tuple(
            source.record is not None and not source.is_unfinished for source in found.sources
        ),
        notes=found.notes,
    )
