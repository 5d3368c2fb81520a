"""`RunSource`: the record and the logs of one run, and what they tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_sotl._utils.files import find_moved
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.curves._log_values import Logged
from lightning_sotl.record.lineage import RecordedRun


@dataclass
class RunSource:
    """The record and the logs of one run.

    Attributes:
        name: Its folder, relative to the directory of runs.
        record: The run's record, or None.
        logged: The values in its logs.
        keys: The logged keys that are wanted, and the unit of the losses.
    """

    name: str
    record: RecordedRun | None
    logged: Logged
    keys: LogKeys

    @cached_property
    def losses(self) -> dict[int, float]:
        """L(e) by epoch, from the record or else from the logs; `+inf` where it is not finite."""
        key = self.loss_key
        if key is None:
            return self.recorded_losses
        if key == self.keys.monitor:
            curve = self.logged.by_epoch[key]
        else:
            curve = self.logged.means.get(key, self.values_of_whole_epochs(key))
        return {e: value if math.isfinite(value) else math.inf for e, value in curve.items()}

    def values_of_whole_epochs(self, key: str) -> dict[int, float]:
        """Return e -> the last value of a logged key in epoch e, without an epoch that was cut."""
        values = self.logged.by_epoch.get(key, {})
        return {epoch: value for epoch, value in values.items() if epoch < self.logged.completed}

    @property
    def recorded_losses(self) -> dict[int, float]:
        """L(e) by epoch in the record; empty without a record of the wanted unit."""
        return self.record.losses if self.record and self.record.unit == self.keys.unit else {}

    @property
    def loss_key(self) -> str | None:
        """The logged key that L(e) is read from; None if the record has L(e), or nothing has."""
        if self.recorded_losses:
            return None
        return next((key for key in self.keys.losses if key in self.logged.by_epoch), None)

    def values(self, key: str) -> dict[int, float]:
        """Return e -> the last value of a logged key in epoch e.

        If some are of completed epochs, only those count: a later value belongs to a validation
        after the training, or to an epoch that was not completed.
        """
        values = self.logged.by_epoch.get(key, {})
        last = max(self.losses, default=self.logged.completed - 1)
        return {epoch: value for epoch, value in values.items() if epoch <= last} or values

    def why_not_final(self, key: str) -> str | None:
        """Return why the last value of a key is not that of the trained run; None if it is."""
        if key not in self.logged.last:
            return None
        if self.is_unfinished:
            return "the training was stopped early or is not finished"
        epoch = self.logged.last_epochs[key]
        # A test after T epochs of training is logged with epoch T.
        if (
            self.record
            and self.record.unit == "epoch"
            and epoch in self.record.ends
            and epoch < max(self.record.losses, default=0)
        ):
            return "it was logged at an earlier end of the training"
        return None

    @property
    def facts(self) -> dict[str, Any]:
        """The record's header, and why the run was stopped; empty without a record."""
        if self.record is None:
            return {}
        reason = self.record.status.get("reason")
        return {**self.record.facts, **({} if reason is None else {"stopping_reason": reason})}

    @property
    def checkpoint(self) -> str | None:
        """The newest checkpoint, also where the run's folder was moved with it."""
        if self.record is None or not self.record.checkpoints:
            return None
        path = self.record.checkpoints[max(self.record.checkpoints)]
        homes = [*self.record.folders, *self.record.inherited]
        return (
            find_moved(path, [place for own in homes for place in (own / "checkpoints", own)])
            or path
        )

    @property
    def stopped_at(self) -> int | None:
        """T at which a stopper first ended the run, in the wanted unit, or None."""
        if self.record is None or self.record.unit != self.keys.unit:
            return None
        return self.record.stopped_at

    @property
    def is_unfinished(self) -> bool:
        """Whether the record says that the run was not trained to its end."""
        if self.record is None:
            return False
        status, reason = self.record.status.get("status"), self.record.status.get("reason")
        # A run that another callback ended, for example EarlyStopping, is finished, and so is one
        # that a stopper ended at the full budget.
        budget = self.record.facts.get("max_epochs")
        if self.record.unit == "epoch" and len(self.record.losses) == budget:
            return False
        return status != "finished" and reason != "trainer.should_stop"
