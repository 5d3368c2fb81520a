"""SoTL-E as a torchmetrics Metric, for Fabric and hand-written loops."""

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
    r"""The sum of the training losses of the last `window` epochs (SoTL-E), over all ranks.

    .. math:: \mathrm{SoTL\mbox{-}E}(T) = \sum_{e=T-E}^{T-1} \frac{1}{B_e} \sum_i \ell(e, i)

    Lower is better. Feed it each training loss as the step returned it, before any division by
    gradient accumulation, and close each epoch:

    - ``update(loss)``: one mini-batch loss, a tensor with one element or a number, in the loss's
      own unit; nothing waits for the device.
    - ``close_epoch()``: the epoch is complete; its mean moves into the window.
    - ``compute()``: a 0-d float64 tensor (float32 on MPS), the sum after the epochs closed so
      far; NaN before `window` of them are closed, or while one of them had no loss, and `+inf`
      if one of them is not finite. In a distributed run every rank must call it.

    All states are sums over ranks and are part of `state_dict`, so a checkpoint of the module
    carries them. With several ranks save after `sync()`, or each rank's own. A state of another
    `window` is refused with a RuntimeError. In Lightning log `metric.compute()`, not the metric,
    which Lightning would reset after each epoch.

    Args:
        window: E, at least 1; how many closed epochs are summed.
        **kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        TypeError: If `window` is no integer.
        ValueError: If `window` is below 1.

    Example:
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

    if TYPE_CHECKING:  # `torch.jit.script` reads a class's annotations, and not as strings
        sums: Tensor
        counts: Tensor

    def __init__(self, window: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = validation.positive_int("window", window)
        # Slot 0 is the open epoch, slot k the k-th newest closed one.
        for name in ("sums", "counts"):
            empty = torch.zeros(window + 1, dtype=torch.float64)
            self.add_state(name, default=empty, dist_reduce_fx="sum", persistent=True)

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count one training loss, as `update` does; return `compute()` of that loss alone: NaN."""
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._in_forward = False

    def update(self, loss: Tensor | float) -> None:
        """Count one training loss of the open epoch.

        Args:
            loss: The step's mean loss, one element.

        Raises:
            ValueError: If `loss` has more than one element.
        """
        # Torch would convert a number to its default dtype, which may be bfloat16.
        dtype = None if isinstance(loss, Tensor) else torch.float64
        value = torch.as_tensor(loss, dtype=dtype).detach()
        if value.numel() != 1:
            raise ValueError(
                f"Expected `loss` to be one number but got the shape {tuple(value.shape)}."
            )
        self.sums[0] += value.reshape(()).to(self.sums.device, self.sums.dtype)
        self.counts[0] += 1

    def close_epoch(self) -> None:
        """Complete the open epoch: it enters the window, and the oldest epoch leaves it."""
        for name in ("sums", "counts"):
            state = getattr(self, name)
            setattr(self, name, torch.cat([torch.zeros_like(state[:1]), state[:-1]]))
        # Not an update, so torchmetrics would return the value of the epoch before again.
        self._computed = None

    def compute(self) -> Tensor:
        """Return SoTL-E after the closed epochs; the class describes it. Lower is better."""
        sums, counts = self.sums[1:], self.counts[1:]
        losses = torch.where(counts > 0, sums / counts, torch.nan)
        diverged = (counts > 0) & ~torch.isfinite(losses)
        losses = torch.where(diverged, torch.inf, losses)
        total = losses[-1]
        for loss in reversed(losses[:-1].unbind()):  # oldest to newest, as `sotl_e` adds them
            total = total + loss
        return total

    def reset(self) -> None:
        """Forget all losses, for a new run.

        Do not reset after each epoch: a window of several epochs would never have a value.
        `self.log(name, metric)` does so, and a warning reports it.
        """
        if not self._in_forward:  # torchmetrics resets there, and restores afterwards
            self._warn_of_early_resets()
        super().reset()

    def _warn_of_early_resets(self) -> None:
        closed = int((self.counts[1:] > 0).sum())
        if not closed:
            return
        self._early_resets = self._early_resets + 1 if closed < self.window else 0
        if self._early_resets == 2:  # one may be a run that ended early
            warn_user(
                f"This SumOfTrainingLosses was reset twice before its window of {self.window} "
                "epochs was full, so it had no value. `self.log(name, metric)` resets the metric "
                "after each epoch; write `self.log(name, metric.compute())`."
            )

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or several in the order of epochs, as other torchmetrics do.

        Args:
            val: What `compute()` returned, once or after each of several epochs; None for its
                value now.
            ax: The matplotlib axes to draw on; None for new ones.

        Returns:
            Figure (None if `ax` is given) and axes.

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
        """Restore the states, and drop the value that was computed from the states before."""
        for name in ("sums", "counts"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                # Torch raises an error with these messages, also for `strict=False`.
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
        self._update_count = max(self._update_count, 1)  # or `compute` would warn

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move the states with the module, but keep their dtype: bfloat16 sums stop growing."""
        device = fn(torch.empty(0)).device

        def move(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return fn(tensor)
            return tensor.to(device, accumulation_dtype(device))

        return super()._apply(move, *args, **kwargs)
