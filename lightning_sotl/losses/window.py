"""The accumulator that sums the losses of single steps to L(e)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which losses are added on `device`: float64, or float32 on MPS.

    A bfloat16 sum of 20,000 losses of 2.3 stops growing at 1024, and a float32 sum has a relative
    error of 1e-6. MPS does not support float64.
    """
    return torch.float32 if device.type == "mps" else torch.float64


class LossWindow:
    """The sum and number of the losses of one unit (an epoch or a block) while it is open.

    `add` only stores a reference. As soon as `_BUFFER` losses are stored, they are summed together
    on their own device, without a synchronization. Memory does not grow with the number of losses.

    On the CPU, losses are added in the order of arrival, even if the window is saved and loaded in
    between. A resumed sum is therefore bit-equal to an uninterrupted one.

    Attributes:
        unit: Index of the epoch or block.
        steps: Training steps of the unit so far, including those without a loss. The caller counts
            them.
        unseen_steps: Training steps of the unit whose losses are unknown.
    """

    _BUFFER = 256

    def __init__(self, unit: int, *, total: float = 0.0, count: int = 0) -> None:
        """Open the window of `unit`, starting from the `total` and `count` of earlier losses."""
        self.unit = unit
        self.steps = 0
        self.unseen_steps = 0
        self._count = count
        self._total: float | Tensor = total
        self._waiting: list[Tensor] = []
        self._scale = 1

    def add(self, loss: Tensor, scale: int = 1) -> None:
        """Add one 0-d loss times `scale`; the tensor must not change afterwards."""
        if scale != self._scale:
            self._flush()
            self._scale = scale
        self._waiting.append(loss)
        if len(self._waiting) >= self._BUFFER:
            self._flush()

    def result(self) -> tuple[float, int]:
        """Return the sum and number of the losses so far; this waits for the device."""
        self._flush()
        return float(self._total), self._count

    def _flush(self) -> None:
        if not self._waiting:
            return
        if any(loss._version for loss in self._waiting):
            raise RuntimeError(
                "The loss in the outputs of `training_step` was changed in place by a callback or "
                "by the module's `on_train_batch_end`, so its value is lost. Change a copy. Note "
                "that `trainer.strategy.reduce` works in place."
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
    """Return the sum of the terms, added from left to right on the CPU.

    `torch.sum` adds pairwise, so its last bits depend on how the terms are split into calls. A
    running sum adds one term after the other. On a GPU, `cumsum` guarantees no order, and it raises
    if deterministic algorithms are enabled. `sum` is good enough there: float64 sums of float32
    losses are exact in any order if the losses are within 8 orders of magnitude.
    """
    return terms.cumsum(0)[-1] if terms.device.type == "cpu" else terms.sum()
