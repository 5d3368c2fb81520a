"""From single losses to L(e): the one accumulator of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which losses are added on `device`: float64, float32 on MPS.

    A bfloat16 sum of 20,000 losses of 2.3 stops at 1024, a float32 one is off by 1e-6 of its
    value; MPS has no float64.
    """
    return torch.float32 if device.type == "mps" else torch.float64


class LossWindow:
    """Sum and number of the losses of one unit (an epoch or a block) while it is open.

    `add` only keeps a reference. When `_BUFFER` losses wait, they are added at once, on their own
    device and without waiting for it. Memory does not grow with the number of losses.

    Losses are added in the order of arrival, whatever is saved and loaded in between, so a resumed
    sum is bit-equal to an uninterrupted one.

    Attributes:
        unit: Index of the epoch or block.
        steps: Training steps counted in it, also those without a loss; the owner counts them.
        unseen_steps: Training steps of it that were not counted.
    """

    _BUFFER = 256

    def __init__(self, unit: int, *, total: float = 0.0, count: int = 0) -> None:
        """Open the window of `unit` with the sum and number that this process has added before."""
        self.unit = unit
        self.steps = 0
        self.unseen_steps = 0
        self._count = count
        self._total: float | Tensor = total
        self._waiting: list[Tensor] = []
        self._scale = 1

    def add(self, loss: Tensor, scale: int = 1) -> None:
        """Count one 0-d loss, times `scale`; nobody may change the tensor afterwards."""
        if scale != self._scale:
            self._flush()
            self._scale = scale
        self._waiting.append(loss)
        if len(self._waiting) >= self._BUFFER:
            self._flush()

    def result(self) -> tuple[float, int]:
        """Return sum and number of the losses so far; waits for the device."""
        self._flush()
        return float(self._total), self._count

    def _flush(self) -> None:
        if not self._waiting:
            return
        if any(loss._version for loss in self._waiting):
            raise RuntimeError(
                "The loss in the outputs of `training_step` was changed in place, by a callback "
                "or by `on_train_batch_end` of the module, so its value is lost. Change a copy; "
                "`trainer.strategy.reduce` works in place."
            )
        losses = torch.stack(self._waiting)
        if losses.is_complex():
            raise TypeError(f"Expected the loss to be real but got {losses.dtype}.")
        losses = losses.type(accumulation_dtype(losses.device)) * self._scale
        before = self._total
        start = before.reshape(1) if isinstance(before, Tensor) else losses.new_full((1,), before)
        self._total = _sum_in_order(torch.cat([start, losses]))
        self._count += len(self._waiting)
        self._waiting.clear()

    def __getstate__(self) -> dict[str, Any]:
        total, count = self.result()
        return {**self.__dict__, "_total": total, "_count": count}


def _sum_in_order(terms: Tensor) -> Tensor:
    """Return the sum, added from left to right on the CPU.

    `sum` adds in pairs, so its last bits depend on how the terms are split; a running sum adds one
    term after the other. On a GPU, `cumsum` keeps no such order, and raises with deterministic
    algorithms. There `sum` is enough: float64 sums of float32 losses are exact in any order as
    long as the losses are within 8 orders of magnitude.
    """
    return terms.cumsum(0)[-1] if terms.device.type == "cpu" else terms.sum()
