"""SoTL-E as a torchmetrics Metric, for Lightning Fabric and hand-written training loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_sotl._utils import validation
from lightning_sotl._utils.extras import require
from lightning_sotl._utils.messages import warn_user
from lightning_sotl.losses.window import accumulation_dtype


class SumOfTrainingLosses(Metric):
    """Computes the sum of the training losses of the last E epochs (SoTL-E) as a torchmetric.

    Use it in Lightning Fabric and in your own training loops. With a Lightning Trainer, the
    callback `SoTLMonitor` needs less code.

    The formula is `SoTL-E(T) = L(T-E) + ... + L(T-1)`, where L(e) is the mean loss of epoch e over
    all steps and ranks. Lower is better. Call three methods:

    - `update(loss)` after each training step, with the loss before any division by the number of
      accumulated batches.
    - `close_epoch()` after the last step of each epoch.
    - `compute()` to read the estimate after the epochs that are closed so far.

    The states are part of `state_dict`, so a checkpoint of a module that holds the metric contains
    them. They are sums over ranks: with several ranks, save after `sync()`, or save the state of
    each rank.

    In a LightningModule, write `self.log(name, metric.compute())`. With `self.log(name, metric)`,
    Lightning would reset the metric after each epoch.

    Args:
        window: E, the number of closed epochs to sum, at least 1.
        **kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        TypeError: If `window` is not an integer.
        ValueError: If `window` is below 1.
        RuntimeError: In `load_state_dict`, if the state was saved with another `window`.

    Examples:
        >>> from lightning_sotl import SumOfTrainingLosses
        >>> metric = SumOfTrainingLosses(window=2)
        >>> for epoch in [(4.0, 2.0), (2.0, 1.0), (1.0, 0.5)]:
        ...     for loss in epoch:
        ...         metric.update(loss)
        ...     metric.close_epoch()
        >>> float(metric.compute())
        2.25

    Source:
        Ru et al., arXiv 2006.04492, section 2; called TSE-E in the NeurIPS 2021 version.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    _in_forward = False
    _early_resets = 0

    if TYPE_CHECKING:  # `torch.jit.script` cannot read annotations that are strings
        sums: Tensor
        counts: Tensor

    def __init__(self, window: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = validation.positive_int("window", window)
        # Slot 0 is the open epoch, slot k the k-th newest closed epoch.
        for name in ("sums", "counts"):
            empty = torch.zeros(window + 1, dtype=torch.float64)
            self.add_state(name, default=empty, dist_reduce_fx="sum", persistent=True)

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add one training loss, as `update` does, and return NaN.

        torchmetrics returns `compute()` of this loss alone, which has no closed epoch.
        """
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._in_forward = False

    def update(self, loss: Tensor | float) -> None:
        """Add one training loss to the open epoch, without waiting for the device.

        Args:
            loss: The mean loss of one step, in the unit of the loss: a number, or a tensor with one
                element.

        Raises:
            ValueError: If `loss` does not have exactly one element.
        """
        # Torch would convert a number to the default dtype, which may be bfloat16.
        dtype = None if isinstance(loss, Tensor) else torch.float64
        value = torch.as_tensor(loss, dtype=dtype).detach()
        if value.numel() != 1:
            raise ValueError(
                f"Expected `loss` to be one number but got the shape {tuple(value.shape)}."
            )
        self.sums[0] += value.reshape(()).to(self.sums.device, self.sums.dtype)
        self.counts[0] += 1

    def close_epoch(self) -> None:
        """Complete the open epoch: its mean loss enters the window, and the oldest leaves it."""
        for name in ("sums", "counts"):
            state = getattr(self, name)
            setattr(self, name, torch.cat([torch.zeros_like(state[:1]), state[:-1]]))
        # torchmetrics caches the value until the next update.
        self._computed = None

    def compute(self) -> Tensor:
        """Return SoTL-E after the epochs that are closed so far. Lower is better.

        With several ranks, every rank must call it.

        Returns:
            A 0-d float64 tensor (float32 on MPS). It is NaN before `window` epochs are closed, and
            if an epoch in the window has no loss. It is `+inf` if the loss of an epoch in the
            window is not finite.
        """
        sums, counts = self.sums[1:], self.counts[1:]
        losses = torch.where(counts > 0, sums / counts, torch.nan)
        diverged = (counts > 0) & ~torch.isfinite(losses)
        losses = torch.where(diverged, torch.inf, losses)
        total = losses[-1]
        for loss in reversed(losses[:-1].unbind()):  # from oldest to newest, as in `sotl_e`
            total = total + loss
        return total

    def reset(self) -> None:
        """Drop all losses, to start a new run.

        Do not call it after each epoch, because a window of several epochs would never be full.
        `self.log(name, metric)` does call it after each epoch; this causes a warning.
        """
        if not self._in_forward:  # `forward` resets the states and restores them afterwards
            self._warn_of_early_resets()
        super().reset()

    def _warn_of_early_resets(self) -> None:
        closed = int((self.counts[1:] > 0).sum())
        if not closed:
            return
        self._early_resets = self._early_resets + 1 if closed < self.window else 0
        if self._early_resets == 2:  # a single one may follow a run that ended early
            warn_user(
                f"This SumOfTrainingLosses was reset twice before its window of {self.window} "
                "epochs was full, so it had no value. `self.log(name, metric)` resets the metric "
                "after each epoch. Use `self.log(name, metric.compute())` instead."
            )

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or a sequence of values in the order of the epochs.

        Args:
            val: One or several results of `compute()`, or None for the current value.
            ax: The matplotlib axes to draw on, or None for new axes.

        Returns:
            The figure (None if `ax` is given) and the axes.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
        """
        require("matplotlib", extra="plot", purpose="plot a metric")
        return self._plot(val, ax)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Restore the states, and drop the cached value of the old states."""
        for name in ("sums", "counts"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                # Torch raises a RuntimeError with these messages, even with `strict=False`.
                error_msgs.append(
                    f"Expected `window` to be {saved.numel() - 1}, as in the state "
                    f"'{prefix}{name}', but got {self.window}."
                )
                return
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        self._computed = None
        self._update_count = max(self._update_count, 1)  # otherwise `compute` would warn

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move the states with the module, but keep their dtype; bfloat16 sums stop growing."""
        device = fn(torch.empty(0)).device

        def move(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return fn(tensor)
            return tensor.to(device, accumulation_dtype(device))

        return super()._apply(move, *args, **kwargs)
