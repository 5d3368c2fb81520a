"""All that is known of one run, from its record and its logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_sotl._reading import exists
from lightning_sotl.curves.logged import Logged
from lightning_sotl.curves.recorded_runs import RecordedRun


@dataclass
class RunSource:
    """All that is known of one run.

    Attributes:
        name: What it is called: its folder, relative to the directory of runs.
        record: What its record says, or None.
        logged: What its logs say.
        unit: Of the losses that are wanted: "epoch", or a block size.
    """

    name: str
    record: RecordedRun | None
    logged: Logged
    unit: str | int

    def losses(self, keys: Sequence[str]) -> dict[int, float]:
        """Return e -> L(e), from the record or from the first of `keys` that is logged."""
        recorded = self._recorded()
        if recorded:
            return recorded
        for key in keys:
            if key in self.logged.by_epoch:
                values = self.logged.by_epoch[key]
                # A loss that was logged and is no number is one of a diverged run.
                return {e: value if np.isfinite(value) else np.inf for e, value in values.items()}
        return {}

    def borrows(self, keys: Sequence[str]) -> bool:
        """Return whether `losses` come from another key than the monitor's own."""
        if not keys or self._recorded() or keys[0] in self.logged.by_epoch:
            return False
        return bool(self.losses(keys))

    def _recorded(self) -> dict[int, float]:
        if self.record is None or self.record.facts.get("unit", "epoch") != self.unit:
            return {}
        return self.record.losses

    @property
    def facts(self) -> dict[str, Any]:
        """What the run's losses depend on, and why it was stopped; empty without a record."""
        if self.record is None:
            return {}
        reason = self.record.status.get("reason")
        return {**self.record.facts, **({} if reason is None else {"stopping_reason": reason})}

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint after the newest epoch that has one; where it lies after a move."""
        if self.record is None or not self.record.checkpoints:
            return None
        path = self.record.checkpoints[max(self.record.checkpoints)]
        name = Path(path).name
        if exists(path) or name in ("", ".."):
            return path
        moved = [folder / "checkpoints" / name for folder in self.record.folders]
        return next((str(other.absolute()) for other in moved if exists(other)), path)

    @property
    def stopped_at(self) -> int | None:
        """T at which a stopper has ended the run first."""
        return None if self.record is None else self.record.stopped_at

    @property
    def is_unfinished(self) -> bool:
        """Whether the record says that the run was not trained to its end."""
        if self.record is None:
            return False
        status, reason = self.record.status.get("status"), self.record.status.get("reason")
        # Ended by another callback, as EarlyStopping, is an end.
        return status != "finished" and reason != "trainer.should_stop"
