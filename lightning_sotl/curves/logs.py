"""From a directory of runs to `LearningCurves`: records first, then Lightning's own logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.curves._log_arrays import LogKeys, Progress, read_arrays
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.ranks import Mode

__all__ = ["FoundRuns", "LogKeys", "read_logs"]


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
    found = read_arrays(
        directory, keys or LogKeys(), needs_losses=needs_losses, instead=instead, progress=progress
    )
    return FoundRuns(
        LearningCurves(**found.curves, metric_mode=metric_mode, final_mode=final_mode),
        facts=found.facts,
        others=found.others,
        has_record=found.has_record,
        stopped_at=found.stopped_at,
        notes=found.notes,
    )
