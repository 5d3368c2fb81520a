"""What a monitored name such as `sotl_e1` stands for: the inverse of `history.metric_names`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.losses import estimators


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


_NAME = re.compile(
    r"(?P<prefix>.+?)(?:_b(?P<block>[1-9][0-9]*))?"
    r"(?:_e(?P<window>[1-9][0-9]*)|_ema(?P<decay>[0-9][0-9.e+-]*))?"
)


@dataclass(frozen=True)
class LoggedEstimate:
    """An estimate that a SoTLMonitor logs.

    Attributes:
        name: As it is logged.
        prefix: The monitor's.
        block: N in block mode, or None for epochs.
        window: E, or None if it is no SoTL-E.
        decay: Of an EMA, or None.
    """

    name: str
    prefix: str
    block: int | None = None
    window: int | None = None
    decay: float | None = None

    @property
    def first_unit(self) -> int:
        """After how many units the estimate is first available."""
        return self.window or 1

    @property
    def unit(self) -> str | int:
        """The unit as a record names it: "epoch" or the block size."""
        return "epoch" if self.block is None else self.block

    def scores(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the estimate after each unit, from L(e) of the same shape `(runs, units)`."""
        if self.window is not None:
            return estimators.sotl_e(losses, window=self.window)
        if self.decay is not None:
            return estimators.sotl_ema(losses, decay=self.decay)
        return estimators.sotl(losses)


def parse_monitor(name: str, *, prefix: str = "sotl") -> LoggedEstimate | None:
    """Return what a name stands for, or None if it is no estimate's.

    Args:
        name: As it is logged. With a window, a decay or a block size at its end it is one of a
            monitor with whatever prefix; without, only if it is `prefix` itself.
        prefix: The prefix of a name that is nothing else.

    Example:
        >>> parse_monitor("sotl_b1000_e5")
        MonitorName(name='sotl_b1000_e5', prefix='sotl', block=1000, window=5, decay=None)
        >>> print(parse_monitor("val_loss"))
        None
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    block, window, decay = match["block"], match["window"], match["decay"]
    if block is window is decay is None and name != prefix:
        return None
    try:
        number = None if decay is None else float(decay)
    except ValueError:
        return None
    if number is not None and not 0.0 < number <= 1.0:
        return None
    return LoggedEstimate(
        name,
        match["prefix"],
        None if block is None else int(block),
        None if window is None else int(window),
        number,
    )
