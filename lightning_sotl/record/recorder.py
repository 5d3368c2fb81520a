"""`Recorder`: writes the record of a fit, also if the disk is full for a while."""

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
from lightning_sotl.record.format import (
    MOST_HPARAM_BYTES,
    inexact_part,
    plain,
    writable_hparams,
)
from lightning_sotl.record.writer import RunRecord

# Seconds between attempts. Each attempt reads the whole record, and blocks may end many times a
# second.
_PAUSE = 10.0


class Recorder:
    """Writes the record of a fit.

    If the record cannot be written, for example on a full disk, the training continues. The
    recorder warns once and tries again every 10 seconds, and at each change of status.

    Args:
        record: The writer of the record, or None to write nothing: on other ranks, and without a
            directory.
    """

    def __init__(self, record: RunRecord | None = None) -> None:
        self._record = record
        self._run: tuple[str, dict[str, Any], LossHistory, float] | None = None
        # If the record is behind, the header, the units and these lines are still to be written.
        # The lines are partial functions because a spawned process gets this object by pickle.
        self._is_behind = False
        self._missing: list[Callable[[RunRecord], None]] = []
        self._failed_at = -math.inf  # on the monotonic clock
        # The newest unit, with its checkpoint and metrics.
        self._unit = -1
        self._checkpoint: str | None = None
        self._metrics: dict[str, float] = {}
        self._has_status = self._has_warned = self._has_warned_shared = False

    @property
    def path(self) -> Path | None:
        """The file of the record, or None if nothing is written."""
        return None if self._record is None else self._record.path

    def start(
        self, run_id: str, facts: dict[str, Any], history: LossHistory, *, after: float
    ) -> float:
        """Write the header, and the units that the record lacks after a move or a kill.

        Units in the record are not written again, because their lines may name checkpoints. The
        header names the hyper-parameters that JSON changes.

        Returns:
            The time in the header, which is later than `after`. Without a record, or if the record
            cannot be read, `after` itself.
        """
        if self._record is None:
            return after
        given = facts.get("hparams", {})
        hparams, left_out = writable_hparams(given)
        if left_out:
            warn_user(
                f"The run's record does not contain the hyper-parameters {quote_few(left_out)}: "
                f"they do not fit into {MOST_HPARAM_BYTES:,} bytes of JSON with at most "
                f"{MOST_NESTED} levels. To promote the run, pass them again."
            )
        inexact = (
            str(name)
            for name, value in given.items()
            if str(name) in hparams and inexact_part("", {name: value})
        )
        header = {
            **facts,
            "hparams": hparams,
            "inexact_hparams": sorted({*inexact, *left_out}),
            "parent": after,  # null for a new run
            "parent_units": history.completed,
        }
        self._run, self._is_behind = (run_id, plain(header), history, after), True
        self._write()
        return max(after, self._record.begun)

    def add_facts(self, **facts: Any) -> None:
        """Repeat the header with facts that were not known at the start of the fit."""
        if self._run is not None:
            run_id, header, history, after = self._run
            self._run, self._is_behind = (run_id, {**header, **plain(facts)}, history, after), True
            self._write()

    def unit(
        self,
        history: LossHistory,
        unit: int,
        checkpoint: str | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Write L(e) of a completed unit, with its checkpoint and metrics if they are known.

        A later line of the same unit repeats them, because the last line counts.
        """
        if unit not in history:
            return
        if unit != self._unit:
            self._unit, self._checkpoint, self._metrics = unit, None, {}
        self._checkpoint = checkpoint or self._checkpoint
        self._metrics = {**self._metrics, **(metrics or {})}
        loss, steps = _mean(history, unit)
        self._write(
            partial(
                RunRecord.unit,
                unit=unit,
                loss=loss,
                steps=steps,
                checkpoint=self._checkpoint,
                metrics=self._metrics,
            )
        )

    def status(self, status: str, **facts: Any) -> None:
        """Write the status of this fit, the first time only."""
        if not self._has_status:
            self._failed_at = -math.inf  # try at once: this may be the last attempt
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
            self._is_behind = True  # until all lines are written
            for line in self._missing:
                line(self._record)
        except (OSError, UnreadableFileError) as error:
            if not self._has_warned:
                warn_user(
                    f"The run's record '{self._record.path}' cannot be written ({error}); the run "
                    "continues, and missing lines will be written as soon as possible.",
                )
            self._has_warned, self._failed_at = True, time.monotonic()
        else:
            self._is_behind = False
            self._missing.clear()
            self._warn_if_shared(self._record)

    def _restate(self, record: RunRecord) -> None:
        """Write the header and the missing units; the file may have been deleted meanwhile."""
        if self._run is None:
            return
        run_id, facts, history, after = self._run
        written = record.units_of(run_id)
        record.header(run_id, after=after, **facts)
        for unit, loss in history.losses().items():
            if unit not in written or written[unit] != (loss if math.isfinite(loss) else None):
                record.unit(unit, *_mean(history, unit))

    def _warn_if_shared(self, record: RunRecord) -> None:
        if record.is_shared and not self._has_warned_shared:
            warn_user(
                f"Another process also writes to the run's record '{record.path}'. The record "
                "stays readable, but the logs beside it mix the runs. Give each run its own "
                "directory.",
            )
            self._has_warned_shared = True


def _mean(history: LossHistory, unit: int) -> tuple[float, int]:
    total, count = history[unit]
    return total / count, count
