"""A module that logs known values by step or by epoch, and stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from tests.support.helpers import loader, scripted_loss


class LoggingModel(pl.LightningModule):
    """Logs `train_loss` in each step and `val_acc` after each validation.

    Args:
        factor: The loss is `scripted_loss` times this factor.
        how: Arguments of `log` for the loss, such as `on_epoch`.
        before: Further metrics that each step logs before the loss: name -> a function of the
            module that returns the value.
        batches: The number of batches per epoch.
    """

    def __init__(
        self,
        factor: float = 1.0,
        how: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
        batches: int = 4,
    ) -> None:
        super().__init__()
        self.factor, self.how, self.before, self.batches = factor, how or {}, before or {}, batches
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.losses: dict[int, list[float]] = {}

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        value = self.factor * scripted_loss(self.current_epoch, index)
        self.losses.setdefault(self.current_epoch, []).append(value)
        for name, make in self.before.items():
            self.log(name, make(self), **self.how)
        self.log("train_loss", value, batch_size=1, **self.how)
        return self.weight * 0 + value

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val_acc", self.accuracy(self.current_epoch), batch_size=1)

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("test_acc", 0.5 * self.factor, batch_size=1)

    def accuracy(self, epoch: int) -> float:
        """Return the accuracy after an epoch."""
        return self.factor * (epoch + 1) / 16

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return loader(self.batches)

    def val_dataloader(self) -> Any:
        return loader(1)

    def test_dataloader(self) -> Any:
        return loader(1)
