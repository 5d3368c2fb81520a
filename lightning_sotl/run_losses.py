"""All losses of one run so far: the closed units and the open one, and how they are saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning_sotl.history import LossHistory
from lightning_sotl.window import LossWindow

log = logging.getLogger(__name__)


class RunLosses:
    """The history of a run and its open window.

    Attributes:
        history: The closed units.
        open: The window of the unit in progress, or None between two units.
        carries: Whether this process takes over sums that were saved for all ranks. One of them
            must, and only one.

    Example:
        >>> losses = RunLosses({})
        >>> window = losses.window(0)
        >>> losses.close(total=6.0, count=4)
        >>> losses.history.losses()
        {0: 1.5}
    """

    def __init__(self, kinds: Mapping[str, int | float | None], *, carries: bool = True) -> None:
        """Start an empty run that yields the estimates `kinds`, see `history.metric_names`."""
        self.history = LossHistory(kinds)
        self.open: LossWindow | None = None
        self.carries = carries

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of any unit."""
        return self.history.completed == 0 and self.open is None

    @property
    def has_any(self) -> bool:
        """Whether any loss has been counted."""
        return bool(self.history.losses()) or (self.open is not None and self.open.result()[1] > 0)

    def window(self, unit: int) -> LossWindow:
        """Return the open window of `unit`; a complete unit is opened again with its losses."""
        if self.open is not None and self.open.unit == unit:
            return self.open
        if self.open is not None and self.open.steps:
            cut = self.open
            log.info("Unit %d was cut after %d batches: no epoch loss.", cut.unit, cut.steps)
        total, count = self.history.get(unit, (0.0, 0))
        self.open = self._new_window(unit, total, count)
        if unit < self.history.completed and unit not in self.history:
            self.open.misses = 1  # at least: it was completed without a mean, and stays so
        return self.open

    def forget_from(self, unit: int) -> None:
        """Forget a unit, and all after it, since it is trained again from its first step."""
        self.history.forget_from(unit)
        if self.open is not None and self.open.unit >= unit:
            self.open = None

    def join(self, unit: int, misses: int) -> None:
        """Come into a run in which `misses` steps of `unit` were trained already, uncounted."""
        self.history.completed = unit
        if misses:
            window = self.window(unit)
            window.steps = window.misses = misses

    def close(self, total: float, count: int) -> None:
        """Complete the open unit with its sum and number of losses over all ranks.

        If some of its steps were not counted, it gives no loss: a mean of the rest is another.
        """
        if self.open is not None:
            self.history.close(self.open.unit, total, 0 if self.open.misses else count)
        self.open = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; of the open unit, those of this process."""
        window = self.open
        state: dict[str, Any] = {"history": self.history.state_dict(), "open": None}
        if window is not None:
            total, count = window.result()
            state["open"] = {
                "unit": window.unit,
                "total": total,
                "count": count,
                "steps": window.steps,
                "misses": window.misses,
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state in which the open unit's sum is of all ranks."""
        self.history.load_state_dict(state["history"])
        opened = state["open"]
        self.open = None
        if opened is not None:
            self.open = self._new_window(opened["unit"], opened["total"], opened["count"])
            self.open.steps, self.open.misses = opened["steps"], opened["misses"]

    def _new_window(self, unit: int, total: float, count: int) -> LossWindow:
        return LossWindow(unit, total=total, count=count) if self.carries else LossWindow(unit)
