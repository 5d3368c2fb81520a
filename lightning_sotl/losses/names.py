"""The names under which a monitor logs its estimates, such as `sotl_e1`, and how to parse them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl.losses.families import FAMILIES, Family

_PATTERNS = [
    (family, re.compile(rf"(.+?)(?:_b([1-9][0-9]*))?{family.pattern}"))
    # The empty suffix matches any name, so it must be tried last.
    for family in sorted(FAMILIES.values(), key=lambda family: -len(family.suffix))
]


@dataclass(frozen=True)
class LoggedEstimate:
    """An estimate that a SoTLMonitor logs.

    Its name contains everything that two values must share to be comparable. Values of different
    kinds are therefore never ranked together by accident.

    Attributes:
        family: The family, such as SoTL-E.
        parameter: The family's parameter, such as E, or None if the family has none.
        prefix: The monitor's prefix.
        block: N for blocks of N training batches, or None for epochs.
    """

    family: Family
    parameter: float | None = None
    prefix: str = "sotl"
    block: int | None = None

    @property
    def name(self) -> str:
        """The logged name."""
        base = self.prefix if self.block is None else f"{self.prefix}_b{self.block}"
        number = "" if self.parameter is None else repr(self.parameter)
        return f"{base}{self.family.suffix}{number}"

    @property
    def window(self) -> int | None:
        """How many of the newest units the estimate needs, or None for all units."""
        return int(self.parameter or 1) if self.family.parameter == "window" else None

    @property
    def first_unit(self) -> int:
        """The number of units after which the estimate is first available."""
        return self.window or 1

    @property
    def unit(self) -> str | int:
        """The unit as it is written in a record: "epoch" or the block size."""
        return "epoch" if self.block is None else self.block

    def carry(self, total: float, loss: float) -> float:
        """Return the estimate after one more unit; only for estimates that need all units."""
        assert self.family.carry is not None  # noqa: S101  # every family without a window has one
        return self.family.carry(total, loss, self.parameter or 0.0)

    def scores(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the estimate after each unit from L(e); both have the shape `(..., units)`."""
        return self.family.function(losses, self.parameter or 0.0)


def logged_estimates(
    parameters: Mapping[str, Sequence[float | None]],
    *,
    prefix: str = "sotl",
    block: int | None = None,
) -> dict[str, LoggedEstimate]:
    """Return name -> estimate for the estimates that a monitor logs.

    Args:
        parameters: Family name -> its parameters, or `[None]` for a family without a parameter.
        prefix: The monitor's prefix.
        block: N for blocks of N training batches, or None for epochs.

    Examples:
        >>> list(logged_estimates({"sotl": [None], "sotl-e": [1, 10], "sotl-ema": [0.999]}))
        ['sotl', 'sotl_e1', 'sotl_e10', 'sotl_ema0.999']
        >>> list(logged_estimates({"sotl": [None], "sotl-e": [5]}, block=1000))
        ['sotl_b1000', 'sotl_b1000_e5']
    """
    estimates = [
        LoggedEstimate(FAMILIES[family], parameter, prefix, block)
        for family, values in parameters.items()
        for parameter in values
    ]
    return {estimate.name: estimate for estimate in estimates}


def parse_monitor(name: str, *, prefix: str = "sotl") -> LoggedEstimate | None:
    """Return the estimate that has this logged name, or None if the name is not an estimate's.

    Args:
        name: The logged name. If it ends in a parameter or a block size, it may have any prefix.
            Otherwise it must equal `prefix`.
        prefix: The name of SoTL over all epochs.

    Examples:
        >>> estimate = parse_monitor("sotl_b1000_e5")
        >>> estimate.family.name, estimate.parameter, estimate.block
        ('sotl-e', 5, 1000)
        >>> print(parse_monitor("val_loss"))
        None
    """
    for family, pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        found_prefix, block, number = match.groups()
        if family.parameter is None and block is None and name != prefix:
            return None
        parameter: float | None = None
        if family.parameter == "window":
            parameter = int(number)
        elif family.parameter == "decay":
            try:
                parameter = validation.decay("decay", float(number))
            except ValueError:
                return None
        return LoggedEstimate(family, parameter, found_prefix, int(block) if block else None)
    return None


def unit_of(name: str) -> str:
    """Return "block" for the name of an estimate over blocks, or "epoch" for any other name.

    Examples:
        >>> unit_of("sotl_b1000_e1"), unit_of("sotl_e1"), unit_of("val_loss")
        ('block', 'epoch', 'epoch')
    """
    estimate = parse_monitor(name)
    return "epoch" if estimate is None or estimate.block is None else "block"
