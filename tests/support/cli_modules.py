"""Modules for LightningCLI. Loading a checkpoint imports them by their path."""

from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch

from tests.support.helpers import loader


class _Net:
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.ones(width))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.weight - batch.mean()).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Data:
    def __init__(self, batches: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return loader(self.hparams["batches"])


class Net(_Net, pytorch_lightning.LightningModule):
    pass


class Data(_Data, pytorch_lightning.LightningDataModule):
    pass


class OtherNet(_Net, lightning.pytorch.LightningModule):
    pass


class OtherData(_Data, lightning.pytorch.LightningDataModule):
    pass


def cli_classes(package: str) -> tuple[Any, Any]:
    """Return the classes of the module and of the data module for a Lightning package."""
    return (Net, Data) if package == "pytorch_lightning" else (OtherNet, OtherData)
