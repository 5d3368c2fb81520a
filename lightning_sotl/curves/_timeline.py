"""`Timeline`: the values of one log in the order of training, without those that a resume undid."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._series import Position, Series
from lightning_sotl.curves._spans import Spans, whole_epochs

# Where a new Trainer logs a validation or test. The first step of a training has it too.
_UNTRAINED: Position = (0, 0.0)
_NO_STEP = -1.0


class _Row(NamedTuple):
    number: int
    position: Position
    values: Mapping[str, float]
    others: Collection[str]

    @property
    def keys(self) -> set[str]:
        return {*self.values, *self.others}


@dataclass
class _Segment:
    """The rows since the log returned to an earlier position.

    Attributes:
        first: The first row.
        previous: The position of the row before it.
        keys: The keys in the rows so far.
        has_other_steps: Whether the epoch of the first row had already ended at a smaller step.
        is_open: Whether the rows so far do not show yet if they repeat earlier ones.
    """

    first: _Row
    previous: Position
    has_other_steps: bool
    keys: set[str] = field(default_factory=set)
    is_open: bool = True


class Timeline:
    """Receives the rows of a log in the order in which they were written.

    If a row has an earlier position than the row before it, and a key that was already logged there
    or later, the training was resumed or started again. The row then undoes everything that was
    logged from its position on, also for keys that are not logged again. Rows without an epoch have
    no position.

    Args:
        wanted: The keys whose values are kept.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._series = {key: Series() for key in wanted}
        self._without_epoch = {key: Series() for key in wanted}
        self._newest: dict[str, Position] = {}
        self._spans = Spans()
        self._opening: Position | None = None
        self._opening_keys: set[str] = set()
        self._unsure: dict[str, int] = {}
        self._first_step: _Row | None = None
        self._position: Position | None = None
        self._segment: _Segment | None = None
        self._held: list[_Row] = []
        self._rows = self._replaced = self._restarts = 0

    def add(
        self,
        epoch: int | None,
        step: float | None,
        values: Mapping[str, float],
        others: Collection[str] = (),
    ) -> None:
        """Add the next row.

        Args:
            epoch: Its epoch, or None.
            step: Its step, or None.
            values: The numbers of wanted keys.
            others: Further keys with a value in this row.
        """
        self._rows += 1
        if epoch is None:
            row = _Row(self._rows, (-1, _NO_STEP if step is None else step), values, others)
            _append(self._without_epoch, row)
            return
        row = _Row(self._rows, self._position_of(epoch, step), values, others)
        if row.position == _UNTRAINED and self._may_be_untrained(row):
            self._held.append(row)
            return
        if self._held:
            self._release(is_training=epoch == 0 or row.position == (1, 1.0))
        if step is not None:
            self._drop_repeated(row)
        self._place(row)

    def purge(self, step: float) -> None:
        """Undo everything logged from a step on, as TensorBoard does for `purge_step`."""
        self._release(is_training=False)
        for series in (*self._series.values(), *self._without_epoch.values()):
            series.drop_steps_from(step)
        self._position = self._spans.drop_steps_from(step)
        self._segment = None
        if self._position is None:
            self._opening = None

    def fill(self, logged: Logged) -> None:
        """Put the remaining values into `logged`."""
        self._release(is_training=False)
        self._settle()
        logged.replaced += self._replaced
        logged.restarts += self._restarts
        bounds = self._spans.steps_per_epoch()
        logged.completed = self._spans.count_complete(bounds)
        for key, series in self._series.items():
            loose = self._without_epoch[key]
            if any(step != _NO_STEP for step in loose.steps):
                logged.without_epoch.add(key)
            if loose.rows and (not series.rows or loose.rows[-1] > series.rows[-1]):
                logged.last[key], logged.last_epochs[key] = loose.values[-1], None
            elif series.rows:
                logged.last[key], logged.last_epochs[key] = series.values[-1], series.epochs[-1]
            groups = series.by_epoch()
            curve = {group.epoch: group.values[-1] for group in groups}
            if 0 in curve and self._is_untrained(series, len(groups[0].values) - 1):
                del curve[0]
            if curve:
                logged.by_epoch[key] = curve
            if any(len(group.values) > 1 for group in groups):
                logged.means[key] = {
                    group.epoch: group.mean
                    for group in whole_epochs(groups, bounds)
                    if group.epoch < logged.completed
                }

    def _may_be_untrained(self, row: _Row) -> bool:
        """Return whether a row at step 0 may be from a validation or test by a new Trainer."""
        return (
            bool(self._held)
            or (self._position is not None and self._position[0] > 0)
            or any(self._newest.get(key, _UNTRAINED) > _UNTRAINED for key in row.keys)
        )

    def _is_untrained(self, series: Series, place: int) -> bool:
        """Return whether a value was logged before the first step, for example by a validation."""
        return (
            series.position(place) == _UNTRAINED
            and self._first_step is not None
            and self._first_step.position[0] == 0
            and series.rows[place] < self._first_step.number
        )

    def _position_of(self, epoch: int, step: float | None) -> Position:
        if step is not None:
            return epoch, step
        same = self._position is not None and self._position[0] == epoch
        return self._position if same and self._position else (epoch, _NO_STEP)

    def _place(self, row: _Row) -> None:
        """Add a row that was logged in a training."""
        if self._position is not None and row.position < self._position:
            ended = self._spans.has_ended_before(row.position)
            self._segment = _Segment(row, self._position, ended)
        if self._segment is not None and self._segment.is_open:
            self._look_back(self._segment, row)
        if self._opening is None:
            self._opening = row.position
        if row.position == self._opening:
            self._opening_keys |= row.keys
        if self._first_step is None and row.position > _UNTRAINED:
            self._first_step = row
        _append(self._series, row)
        for key in (*row.values, *row.others):
            self._newest[key] = row.position
        self._spans.add(row.position)
        self._position = row.position

    def _release(self, *, is_training: bool) -> None:
        """Add the rows at step 0 that were held back until the next row showed their origin."""
        held, self._held = self._held, []
        for row in held:
            if is_training:
                self._place(row)
            else:
                _append(self._without_epoch, row)

    def _drop_repeated(self, row: _Row) -> None:
        """Drop the values that the keys of a row already have at the same position."""
        for key in row.values:
            series = self._series[key]
            if series.rows and series.position(-1) == row.position:
                self._replaced += series.drop(len(series.rows) - 1, len(series.rows))

    def _look_back(self, segment: _Segment, row: _Row) -> None:
        """Undo what a segment logs again, once one of its keys shows that it does."""
        new = row.keys - segment.keys
        segment.keys |= new
        if any(self._newest.get(key, (-1, 0.0)) >= row.position for key in new):
            segment.is_open = False
            self._undo(segment)
        elif row.position > segment.previous:
            segment.is_open = False

    def _settle(self) -> None:
        """Undo values at the position of a resume if their keys have not been logged since."""
        for key, row in self._unsure.items():
            series = self._series[key]
            last = len(series.rows) - 1
            if last < 0 or series.rows[last] != row or self._position is None:
                continue
            is_logged_by_step = last > 0 and series.epochs[last - 1] == series.epochs[last]
            if self._position > series.position(last) or not is_logged_by_step:
                self._replaced += series.drop(last, last + 1)
        self._unsure = {}

    def _undo(self, segment: _Segment) -> None:
        """Undo the values that were logged before a segment at its position or later."""
        self._settle()
        row, position = segment.first.number, segment.first.position
        opening = self._opening
        if opening is None or (
            position < opening
            or (position == opening and segment.first.keys & self._opening_keys)
            or (segment.has_other_steps and position[0] <= opening[0])
        ):
            self._restarts += 1
            self._opening, self._opening_keys = position, segment.first.keys
            self._first_step = segment.first if position > _UNTRAINED else None
            self._spans = Spans()
            self._spans.add(position)
            for series in (*self._series.values(), *self._without_epoch.values()):
                series.drop(0, series.count_before(row))
            return
        self._spans.drop_after(position)
        if segment.has_other_steps:
            position = (position[0], -math.inf)
        undone_from = row
        for key, series in self._series.items():
            begin = series.count_up_to(position, row, excludes=key in segment.first.keys)
            if begin < series.count_before(row):
                undone_from = min(undone_from, series.rows[begin])
        for key, series in self._series.items():
            begin = series.count_up_to(position, row)
            # At the same position, a value may have been logged before the checkpoint if it was
            # logged before the keys that are repeated, for example a loss before a validation.
            while (
                begin
                and series.position(begin - 1) == position
                and series.rows[begin - 1] >= undone_from
            ):
                begin -= 1
            self._replaced += series.drop(begin, series.count_before(row))
            if begin and series.position(begin - 1) == position:
                self._unsure[key] = series.rows[begin - 1]
        for series in self._without_epoch.values():
            series.drop(series.count_before(undone_from), series.count_before(row))


def _append(target: dict[str, Series], row: _Row) -> None:
    for key, value in row.values.items():
        target[key].append(row.number, row.position, value)
