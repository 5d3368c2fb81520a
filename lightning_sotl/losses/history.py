"""The closed epochs (or blocks) of one run, and the estimates after the newest of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_sotl.losses.names import LoggedEstimate
from lightning_sotl.losses.window import LossWindow

log = logging.getLogger(__name__)


class RunLosses:
    """The history of a run and its open window.

    Attributes:
        history: The closed units.
        open: The window of the unit in progress, or None between two units.
        carries: Whether this process takes over sums that were saved for all ranks; exactly one
            process does.

    Example:
        >>> losses = RunLosses({})
        >>> window = losses.window(0)
        >>> losses.close(total=6.0, count=4)
        >>> losses.history.losses()
        {0: 1.5}
    """

    def __init__(self, logged: Mapping[str, LoggedEstimate], *, carries: bool = True) -> None:
        """Start an empty run that yields the estimates `logged`, by name."""
        self.history = LossHistory(logged)
        self.open: LossWindow | None = None
        self.carries = carries

    @property
    def is_empty(self) -> bool:
        """Whether no unit was begun."""
        return self.history.completed == 0 and self.open is None

    @property
    def has_any(self) -> bool:
        """Whether any loss has been counted."""
        return bool(self.history.losses()) or (self.open is not None and self.open.result()[1] > 0)

    def window(self, unit: int) -> LossWindow:
        """Return the open window of `unit`; a complete unit opens again with its losses."""
        if self.open is not None and self.open.unit == unit:
            return self.open
        if self.open is not None and self.open.steps:
            cut = self.open
            log.info("Unit %d was cut after %d batches: no epoch loss.", cut.unit, cut.steps)
        if unit in self.history:
            self.open = self._new_window(unit, *self.history[unit])
        else:
            self.open = LossWindow(unit)
            if unit < self.history.completed:
                self.open.unseen_steps = 1  # it was completed without a mean, and stays so
        return self.open

    def drop_from(self, unit: int) -> None:
        """Drop a unit, and all after it, since it is trained again from its first step."""
        self.history.drop_from(unit)
        if self.open is not None and self.open.unit >= unit:
            self.open = None

    def start_midway(self, unit: int, unseen_steps: int) -> None:
        """Start in a run that has trained `unseen_steps` steps of `unit` without counting them."""
        self.history.completed = unit
        if unseen_steps:
            window = self.window(unit)
            window.steps = window.unseen_steps = unseen_steps

    def close(self, total: float, count: int) -> None:
        """Complete the open unit with its sum and number of losses over all ranks.

        If some of its steps were not counted, it gives no loss: the mean of the rest differs.
        """
        if self.open is not None:
            self.history.close(self.open.unit, total, 0 if self.open.unseen_steps else count)
        self.open = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; for the open unit, those of this process."""
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
        """Restore a state in which the open unit's sum is of all ranks."""
        self.history.load_state_dict(state["history"])
        opened = state["open"]
        self.open = None
        if opened is not None:
            self.open = self._new_window(opened["unit"], opened["total"], opened["count"])
            self.open.steps, self.open.unseen_steps = opened["steps"], opened["misses"]

    def _new_window(self, unit: int, total: float, count: int) -> LossWindow:
        return LossWindow(unit, total=total, count=count) if self.carries else LossWindow(unit)


class LossHistory:
    """The closed units of a run, and the estimates after the newest of them.

    A unit is an epoch, or a block of training batches. It keeps sums and numbers, not means, since
    Lightning may open a unit again after a resume and train another batch in it.

    Attributes:
        completed: T, the number of completed units, whether or not each gave a loss.
    """

    completed: int
    _units: dict[int, tuple[float, int]]
    _carried: int
    _totals: dict[str, float]

    def __init__(self, logged: Mapping[str, LoggedEstimate]) -> None:
        """Start an empty history that yields the estimates `logged`, by name."""
        self._logged = dict(logged)
        self._clear()

    def __contains__(self, unit: int) -> bool:
        return unit in self._units

    def __getitem__(self, unit: int) -> tuple[float, int]:
        """Return sum and number of the losses of a closed unit."""
        return self._units[unit]

    @property
    def is_empty(self) -> bool:
        """Whether no completed unit gave a loss."""
        return not self._units

    def close(self, unit: int, total: float, count: int) -> None:
        """Complete a unit that gave `count` losses with the sum `total`; 0 losses leave a gap."""
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
        """Drop a unit and all after it, as if they had not been completed."""
        kept = {known: pair for known, pair in self._units.items() if known < unit}
        self.load_state_dict({"completed": min(self.completed, unit), "units": kept})

    def losses(self) -> dict[int, float]:
        """Return unit -> L(e), in ascending order, for the closed units that gave a loss."""
        return {unit: self._loss(unit) for unit in sorted(self._units)}

    def estimates(self) -> dict[str, float]:
        """Return name -> available value after the newest completed unit. Lower is better.

        An estimate that needs a unit without a loss is not available.
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
        """Return the completed units without a loss; with any of them SoTL has no value."""
        return [unit for unit in range(self._carried, self.completed) if unit not in self._units]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers from which `load_state_dict` restores the history exactly."""
        units = {unit: list(pair) for unit, pair in self._units.items()}
        return {"completed": self.completed, "units": units}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`, whatever estimates it was written for."""
        self._clear()
        for unit, (total, count) in sorted(state["units"].items()):
            self.close(int(unit), float(total), int(count))
        self.completed = int(state["completed"])

    def _clear(self) -> None:
        self.completed = 0
        self._units = {}
        # Estimates that need all units, after the first `_carried` units.
        self._carried = 0
        self._totals = dict.fromkeys(
            (name for name, estimate in self._logged.items() if estimate.window is None), 0.0
        )

    def _loss(self, unit: int) -> float:
        total, count = self._units[unit]
        return total / count
