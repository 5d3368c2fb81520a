"""The registry of estimates that are computed from training losses.

The monitor, the command line, the policies and the `evaluation` package all read `FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_sotl.losses import estimators

Losses = NDArray[np.float64]
_NUMBERS = {"window": "[1-9][0-9]*", "decay": "[0-9][0-9.e+-]*"}


@dataclass(frozen=True)
class Family:
    """A family of estimates, for example SoTL-E for every E. Lower is better.

    Attributes:
        name: The name in tables, such as "sotl-e". A parameter is appended: "sotl-e10".
        suffix: The part of a logged name that comes before the parameter, such as "_e" in
            "sotl_e10".
        function: (losses of shape `(..., epochs)`, parameter) -> estimates of the same shape. Entry
            `k - 1` is the estimate after `k` epochs, or NaN while it is not available.
        parameter: The kind of parameter. With "window", an estimate needs only the losses of that
            many last epochs. All other families need every epoch.
        default: The parameter that is used if a name has none.
        carry: (estimate so far, new loss, parameter) -> next estimate. Required for a family that
            needs every epoch; the monitor calls it once per epoch, starting from 0.0.
    """

    name: str
    suffix: str
    function: Callable[[Losses, float], Losses]
    parameter: Literal["window", "decay"] | None = None
    default: float | None = None
    carry: Callable[[float, float, float], float] | None = None

    @property
    def pattern(self) -> str:
        """A regular expression for the part of a logged name after the prefix and the block."""
        number = "()" if self.parameter is None else f"({_NUMBERS[self.parameter]})"
        return re.escape(self.suffix) + number


def _sotl(losses: Losses, _: float) -> Losses:
    return estimators.sotl(losses)


def _sotl_e(losses: Losses, window: float) -> Losses:
    return estimators.sotl_e(losses, window=int(window))


def _sotl_ema(losses: Losses, decay: float) -> Losses:
    return estimators.sotl_ema(losses, decay=decay)


def _add(total: float, loss: float, _: float) -> float:
    return estimators.discounted_sum(total, loss)


def _add_discounted(total: float, loss: float, decay: float) -> float:
    return estimators.discounted_sum(total, loss, decay=decay)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family("sotl", "", _sotl, carry=_add),
            Family("sotl-e", "_e", _sotl_e, parameter="window", default=1),
            Family(
                "sotl-ema",
                "_ema",
                _sotl_ema,
                parameter="decay",
                default=0.999,
                carry=_add_discounted,
            ),
        )
    }
)
"""Family name -> family. Immutable."""
