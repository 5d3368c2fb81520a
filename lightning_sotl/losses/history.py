"""The losses of a run's completed epochs (or blocks), and the estimates that follow from them.

A unit is an epoch, or a block of training batches. A completed unit is also called closed, and the
unit in progress is called open.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_sotl.losses.names import LoggedEstimate
from lightning_sotl.losses.window import LossWindow

log = logging.getLogger(__name__)


class RunLosses:
    """The losses of a run's closed units and of its open unit.

    Attributes:
        history: The closed units.
        open: The window of the open unit, or None between two units.
        carries: Whether this process restores sums that were saved for all ranks. Exactly one
            process does, so that nothing is counted twice.

    Examples:
        >>> losses = RunLosses({})
        >>> window = losses.window(0)
        >>> losses.close(total=6.0, count=4)
        >>> losses.history.losses()
        {0: 1.5}
    """

    def __init__(self, logged: Mapping[str, LoggedEstimate], *, carries: bool = True) -> None:
        """Start an empty run that computes the estimates `logged` (name -> estimate)."""
        self.history = LossHistory(logged)
        self.open: LossWindow | None = None
        self.carries = carries

    @property
    def is_empty(self) -> bool:
        """Whether no unit has begun."""
        return self.history.completed == 0 and self.open is None

    @property
    def has_any(self) -> bool:
        """Whether any loss has been counted."""
        return bool(self.history.losses()) or (self.open is not None and self.open.result()[1] > 0)

    def window(self, unit: int) -> LossWindow:
        """Return the window of `unit`, and open it if needed.

        A unit that was already completed is opened again with its losses.
        """
        if self.open is not None and self.open.unit == unit:
            return self.open
        if self.open is not None and self.open.steps:
            cut = self.open
            log.info(
                "Epoch or block %d was cut short after %d batches, so it has no loss.",
                cut.unit,
                cut.steps,
            )
        if unit in self.history:
            self.open = self._new_window(unit, *self.history[unit])
        else:
            self.open = LossWindow(unit)
            if unit < self.history.completed:
                self.open.unseen_steps = 1  # completed without a loss, so it never gets one
        return self.open

    def drop_from(self, unit: int) -> None:
        """Drop a unit and all later units, because it is trained again from its first step."""
        self.history.drop_from(unit)
        if self.open is not None and self.open.unit >= unit:
            self.open = None

    def start_midway(self, unit: int, unseen_steps: int) -> None:
        """Start in a run that already trained `unseen_steps` steps of `unit` without this monitor.

        Args:
            unit: The unit in progress.
            unseen_steps: How many of its steps were trained before.
        """
        self.history.completed = unit
        if unseen_steps:
            window = self.window(unit)
            window.steps = window.unseen_steps = unseen_steps

    def close(self, total: float, count: int) -> None:
        """Complete the open unit with the sum and number of its losses over all ranks.

        If some of its steps were not counted, the unit has no loss, because the mean of the other
        steps would be a different number.
        """
        if self.open is not None:
            self.history.close(self.open.unit, total, 0 if self.open.unseen_steps else count)
        self.open = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers; the open unit's are those of this process."""
        window = self.open
        state: dict[str, Any] = {"history": self.history.state_dict(), "open": None}
        if window is not None:
            total, count = window.result()
            state["open"] = {
                "unit": window.unit,
                "total": total,
                "count": count,
                "steps": window.steps,
                "misses": window.unseen_steps,
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state in which the sum of the open unit is over all ranks."""
        self.history.load_state_dict(state["history"])
        opened = state["open"]
        self.open = None
        if opened is not None:
            self.open = self._new_window(opened["unit"], opened["total"], opened["count"])
            self.open.steps, self.open.unseen_steps = opened["steps"], opened["misses"]

    def _new_window(self, unit: int, total: float, count: int) -> LossWindow:
        return LossWindow(unit, total=total, count=count) if self.carries else LossWindow(unit)


class LossHistory:
    """The closed units of a run, and the estimates after the newest one.

    It stores sums and counts instead of means, because Lightning may reopen a unit after a resume
    and train another batch in it.

    Attributes:
        completed: T, the number of completed units, including those without a loss.
    """

    completed: int
    _units: dict[int, tuple[float, int]]
    _carried: int
    _totals: dict[str, float]

    def __init__(self, logged: Mapping[str, LoggedEstimate]) -> None:
        """Start an empty history that computes the estimates `logged` (name -> estimate)."""
        self._logged = dict(logged)
        self._clear()

    def __contains__(self, unit: int) -> bool:
        return unit in self._units

    def __getitem__(self, unit: int) -> tuple[float, int]:
        """Return the sum and number of a closed unit's losses."""
        return self._units[unit]

    @property
    def is_empty(self) -> bool:
        """Whether no completed unit has a loss."""
        return not self._units

    def close(self, unit: int, total: float, count: int) -> None:
        """Complete a unit with `count` losses that sum to `total`; with 0 losses it is a gap."""
        self.completed = max(self.completed, unit + 1)
        if count:
            self._units[unit] = (total, count)
        if unit < self._carried:
            self._carried, self._totals = 0, dict.fromkeys(self._totals, 0.0)
        while self._carried in self._units:
            loss = self._loss(self._carried)
            for name, sum_so_far in self._totals.items():
                self._totals[name] = self._logged[name].carry(sum_so_far, loss)
            self._carried += 1

    def drop_from(self, unit: int) -> None:
        """Drop a unit and all later units, as if they had not been completed."""
        kept = {known: pair for known, pair in self._units.items() if known < unit}
        self.load_state_dict({"completed": min(self.completed, unit), "units": kept})

    def losses(self) -> dict[int, float]:
        """Return unit -> L(e), in ascending order, for the closed units with a loss."""
        return {unit: self._loss(unit) for unit in sorted(self._units)}

    def estimates(self) -> dict[str, float]:
        """Return name -> value of the available estimates after the newest completed unit.

        Lower is better. An estimate that needs a unit without a loss is not available.
        """
        values: dict[str, float] = {}
        for name, estimate in self._logged.items():
            if estimate.window is None:
                if self._carried == self.completed > 0:
                    values[name] = self._totals[name]
                continue
            newest = range(self.completed - estimate.window, self.completed)
            if all(unit in self._units for unit in newest):
                losses = np.array([self._loss(unit) for unit in newest])
                values[name] = float(estimate.scores(losses)[-1])
        return values

    def gaps(self) -> list[int]:
        """Return the completed units without a loss; if there are any, SoTL has no value."""
        return [unit for unit in range(self._carried, self.completed) if unit not in self._units]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers that `load_state_dict` restores exactly."""
        units = {unit: list(pair) for unit, pair in self._units.items()}
        return {"completed": self.completed, "units": units}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`, even if it was saved for other estimates."""
        self._clear()
        for unit, (total, count) in sorted(state["units"].items()):
            self.close(int(unit), float(total), int(count))
        self.completed = int(state["completed"])

    def _clear(self) -> None:
        self.completed = 0
        self._units = {}
        # The estimates that need every unit, as they are after the first `_carried` units.
        self._carried = 0
        self._totals = dict.fromkeys(
            (name for name, estimate in self._logged.items() if estimate.window is None), 0.0
        )

    def _loss(self, unit: int) -> float:
        total, count = self._units[unit]
        return total / count
