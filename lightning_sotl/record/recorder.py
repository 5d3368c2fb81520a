"""What of a running Trainer goes into the run's record, and where that record lies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning_sotl._utils.files import MOST_NESTED, UnreadableFileError
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import quote_few
from lightning_sotl.losses.history import LossHistory
from lightning_sotl.record.format import MOST_HPARAM_BYTES, plain, writable_hparams
from lightning_sotl.record.writer import RunRecord

# To try again means to read what is there, and blocks may end many times a second.
_PAUSE = 10.0  # seconds


class Recorder:
    """Writes the record of one fit; on other ranks, and without a directory, it writes nothing.

    A record that cannot be written, as on a full disk, does not end the training: it warns, once,
    and from time to time, and with a change of status, it tries again to write all that is missing.
    """

    def __init__(self, record: RunRecord | None = None) -> None:
        """Write into `record`, or nowhere."""
        self._record = record
        self._has_status = self._has_warned = self._said_shared = False
        self._known: tuple[str, dict[str, Any], LossHistory, float] | None = None
        self._is_behind = False
        self._failed_at = -math.inf  # seconds of the clock that only goes forward
        # Partial functions, since a spawned process gets this object by pickle.
        self._missing: list[Callable[[RunRecord], None]] = []

    @property
    def path(self) -> Path | None:
        """Where the record lies, or None."""
        return None if self._record is None else self._record.path

    def start(
        self, run_id: str, facts: dict[str, Any], history: LossHistory, *, after: float
    ) -> float:
        """Write what the run's losses depend on, and those that the record does not have yet.

        These were trained in another directory, or lost to a kill. A line that is there stays: it
        may name a checkpoint.

        Returns the time in the header, which is later than `after`, also if it can only be written
        later; without a record, or one that cannot even be read, `after`.
        """
        if self._record is None:
            return after
        hparams, left_out = writable_hparams(facts.get("hparams", {}))
        if left_out:
            warn_user(
                f"The run's record has no {quote_few(left_out)} of the hyper-parameters: it keeps "
                f"what JSON holds in {MOST_HPARAM_BYTES:,} bytes and {MOST_NESTED} levels. A "
                "promotion has to give the rest again."
            )
        header = plain({**facts, "hparams": hparams})
        self._known, self._is_behind = (run_id, header, history, after), True
        self._write()
        return max(after, self._record.begun)

    def unit(self, history: LossHistory, unit: int, checkpoint: str | None = None) -> None:
        """Write L(e) of a closed unit, and a checkpoint that was saved after it."""
        if unit in history:
            loss, steps = _mean(history, unit)
            self._write(
                partial(RunRecord.unit, unit=unit, loss=loss, steps=steps, checkpoint=checkpoint)
            )

    def status(self, status: str, **facts: Any) -> None:
        """Write the first change of status in this fit; what follows are echoes of it."""
        if not self._has_status:
            self._failed_at = -math.inf  # there may be no later time to try
            self._write(partial(RunRecord.status, status=status, **facts))
            self._has_status = True

    def _write(self, *lines: Callable[[RunRecord], None]) -> None:
        if self._record is None:
            return
        self._missing += lines
        if time.monotonic() < self._failed_at + _PAUSE:
            return
        try:
            if self._is_behind:
                self._restate(self._record)
            self._is_behind = True  # until all of these stand there
            for line in self._missing:
                line(self._record)
        except (OSError, UnreadableFileError) as error:
            if not self._has_warned:
                warn_user(
                    f"The run's record '{self._record.path}' cannot be written ({error}); the run "
                    "goes on, and what is missing will be written as soon as that is possible.",
                )
            self._has_warned, self._failed_at = True, time.monotonic()
        else:
            self._is_behind = False
            self._missing.clear()
            self._warn_if_shared(self._record)

    def _restate(self, record: RunRecord) -> None:
        """Write the header, also again: whoever has freed a full disk may have taken the file."""
        if self._known is None:
            return
        run_id, facts, history, after = self._known
        there = record.units_of(run_id)
        record.header(run_id, after=after, **facts)
        for unit, loss in history.losses().items():
            if unit not in there or there[unit] != (loss if math.isfinite(loss) else None):
                record.unit(unit, *_mean(history, unit))

    def _warn_if_shared(self, record: RunRecord) -> None:
        if record.is_shared and not self._said_shared:
            warn_user(
                f"Another process writes into the run's record '{record.path}' too. The record "
                "keeps the two apart, but the logs beside it do not: give each run a directory of "
                "its own.",
            )
            self._said_shared = True


def _mean(history: LossHistory, unit: int) -> tuple[float, int]:
    total, count = history[unit]
    return total / count, count
