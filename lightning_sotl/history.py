"""The closed epochs (or blocks) of one run, and the estimates after the newest of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_sotl import estimators


def metric_names(
    prefix: str, windows: tuple[int, ...], ema_decay: float | None, block: int | None
) -> dict[str, int | float | None]:
    """Return name -> what it is: None for SoTL, an int E for SoTL-E, a float decay for the EMA.

    The name carries all that makes two values comparable, so that values of different kinds
    never meet in one ranking by accident.

    Example:
        >>> metric_names("sotl", (1, 10), 0.999, None)
        {'sotl': None, 'sotl_e1': 1, 'sotl_e10': 10, 'sotl_ema0.999': 0.999}
        >>> list(metric_names("sotl", (5,), None, 1000))
        ['sotl_b1000', 'sotl_b1000_e5']
    """
    base = prefix if block is None else f"{prefix}_b{block}"
    names: dict[str, int | float | None] = {base: None}
    names.update({f"{base}_e{window}": window for window in windows})
    if ema_decay is not None:
        names[f"{base}_ema{ema_decay!r}"] = ema_decay
    return names


class LossHistory:
    """Sums and numbers of the losses of the closed units, and what they amount to.

    A unit is an epoch, or a block of training batches. Sums and numbers are kept, not means,
    since Lightning may open a unit again after a resume and train another batch in it.

    Attributes:
        completed: T, the number of completed units, whether or not each gave a loss.
    """

    completed: int
    _units: dict[int, tuple[float, int]]
    _folded: int
    _sums: dict[str, float]

    def __init__(self, kinds: Mapping[str, int | float | None]) -> None:
        """Start an empty history that yields the estimates `kinds`, see `metric_names`."""
        self._kinds = dict(kinds)
        self._clear()

    def __contains__(self, unit: int) -> bool:
        return unit in self._units

    def get(self, unit: int, default: tuple[float, int]) -> tuple[float, int]:
        """Return sum and number of the losses of a unit, or `default` if it is not closed."""
        return self._units.get(unit, default)

    def __getitem__(self, unit: int) -> tuple[float, int]:
        """Return sum and number of the losses of a closed unit."""
        return self._units[unit]

    def close(self, unit: int, total: float, count: int) -> None:
        """Complete a unit that gave `count` losses with the sum `total`; none leaves a gap."""
        self.completed = max(self.completed, unit + 1)
        if count:
            self._units[unit] = (total, count)
        if unit < self._folded:
            self._folded, self._sums = 0, dict.fromkeys(self._sums, 0.0)
        while self._folded in self._units:
            self._fold(self._loss(self._folded))

    def forget_from(self, unit: int) -> None:
        """Take back that a unit, and all after it, were completed."""
        kept = {known: pair for known, pair in self._units.items() if known < unit}
        self.load_state_dict({"completed": min(self.completed, unit), "units": kept})

    def losses(self) -> dict[int, float]:
        """Return unit -> L(e), in ascending order, for the closed units that gave a loss."""
        return {unit: self._loss(unit) for unit in sorted(self._units)}

    def estimates(self) -> dict[str, float]:
        """Return name -> value after the newest completed unit, of those that are available.

        An estimate that needs a unit without a loss is not available. Lower is better.
        """
        values: dict[str, float] = {}
        for name, kind in self._kinds.items():
            if not isinstance(kind, int):
                if self._folded == self.completed > 0:
                    values[name] = self._sums[name]
                continue
            newest = range(self.completed - kind, self.completed)
            if all(unit in self._units for unit in newest):
                losses = [self._loss(unit) for unit in newest]
                values[name] = float(estimators.sotl_e(losses, window=kind)[-1])
        return values

    def gaps(self) -> list[int]:
        """Return the completed units that have no loss: while there are any, SoTL has no value."""
        return [unit for unit in range(self._folded, self.completed) if unit not in self._units]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers that `load_state_dict` takes back exactly."""
        units = {unit: list(pair) for unit, pair in self._units.items()}
        return {"completed": self.completed, "units": units}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, whatever estimates it was written for."""
        self._clear()
        for unit, (total, count) in sorted(state["units"].items()):
            self.close(int(unit), float(total), int(count))
        self.completed = int(state["completed"])

    def _clear(self) -> None:
        self.completed = 0
        self._units = {}
        # Sums from unit 0 on, over the first `_folded` units: one step a unit, not one a run.
        self._folded = 0
        self._sums = {n: 0.0 for n, kind in self._kinds.items() if not isinstance(kind, int)}

    def _loss(self, unit: int) -> float:
        total, count = self._units[unit]
        return total / count

    def _fold(self, loss: float) -> None:
        for name, total in self._sums.items():
            kind = self._kinds[name]
            decay = 1.0 if kind is None else kind
            self._sums[name] = estimators.discounted_sum(total, loss, decay=decay)
        self._folded += 1
