"""`RunSource`: the record and the logs of one run, and what they show."""

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
        name: The name of the run: its folder, relative to the directory of runs.
        record: The record of the run, or None.
        logged: The values in the logs of the run.
        keys: The logged keys to read, and the unit of the losses.
    """

    name: str
    record: RecordedRun | None
    logged: Logged
    keys: LogKeys

    @cached_property
    def losses(self) -> dict[int, float]:
        """L(e) by epoch, from the record or else from the logs. `+inf` if it is not finite."""
        key = self.loss_key
        if key is None:
            return self.recorded_losses
        if key == self.keys.monitor:
            curve = self.logged.by_epoch[key]
        else:
            curve = self.logged.means.get(key, self._values_of_complete_epochs(key))
        return {e: value if math.isfinite(value) else math.inf for e, value in curve.items()}

    def _values_of_complete_epochs(self, key: str) -> dict[int, float]:
        """Return e -> the last value of a logged key in epoch e, for complete epochs."""
        values = self.logged.by_epoch.get(key, {})
        return {epoch: value for epoch, value in values.items() if epoch < self.logged.completed}

    @property
    def recorded_losses(self) -> dict[int, float]:
        """L(e) by epoch in the record. Empty without a record in the wanted unit."""
        return self.record.losses if self.record and self.record.unit == self.keys.unit else {}

    @property
    def loss_key(self) -> str | None:
        """The logged key to read L(e) from. None if the record has L(e), or if no key has it."""
        if self.recorded_losses:
            return None
        return next((key for key in self.keys.losses if key in self.logged.by_epoch), None)

    def values(self, key: str) -> dict[int, float]:
        """Return e -> the last value of a logged key in epoch e.

        If there are values of completed epochs, only those count. A later value belongs to a
        validation after the training, or to an incomplete epoch.
        """
        values = self.logged.by_epoch.get(key, {})
        last = max(self.losses, default=self.logged.completed - 1)
        return {epoch: value for epoch, value in values.items() if epoch <= last} or values

    def why_not_final(self, key: str) -> str | None:
        """Return why the last value of a key is not a final value of the run, or None if it is."""
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
            return "it was logged before the run resumed"
        return None

    @property
    def facts(self) -> dict[str, Any]:
        """The record's header, and why the run was stopped. Empty without a record."""
        if self.record is None:
            return {}
        facts = {**self.record.facts, "stopping_reason": self.record.status.get("reason")}
        # A record from another writer may hold anything.
        if not isinstance(facts["stopping_reason"], str):
            del facts["stopping_reason"]
        return facts

    @property
    def checkpoint(self) -> str | None:
        """The newest checkpoint, which is also found if it was moved with the run's folder."""
        if self.record is None or not self.record.checkpoints:
            return None
        path = self.record.checkpoints[max(self.record.checkpoints)]
        folders = [*self.record.folders, *self.record.inherited]
        places = [place for folder in folders for place in (folder / "checkpoints", folder)]
        return find_moved(path, places) or path

    @property
    def stopped_at(self) -> int | None:
        """T at which a stopper first ended the run, in the wanted unit, or None."""
        if self.record is None or self.record.unit != self.keys.unit:
            return None
        return self.record.stopped_at

    @property
    def is_unfinished(self) -> bool:
        """Whether the record shows that the run was not trained to its end."""
        if self.record is None:
            return False
        status, reason = self.record.status.get("status"), self.record.status.get("reason")
        # A run that another callback ended, such as EarlyStopping, counts as finished. So does a
        # run that a stopper ended at the full budget.
        budget = self.record.facts.get("max_epochs")
        if self.record.unit == "epoch" and len(self.record.losses) == budget:
            return False
        return status != "finished" and reason != "trainer.should_stop"
