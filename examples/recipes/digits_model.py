"""The small digits network of all recipes. A run takes a fraction of a second."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)  # more threads are slower on a network this small


class DigitsModel(LightningModule):
    """A network with one hidden layer and a cosine schedule over the full `max_epochs`."""

    def __init__(self, width: int = 16, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss; the monitor needs nothing more."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> dict[str, object]:
        """Return Adam on a schedule that ends at `max_epochs`, wherever the run is stopped."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def train_dataloader(self) -> DataLoader:
        """Return all digits in shuffled batches of 64."""
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images).float() / 16, torch.tensor(labels))
        return DataLoader(data, batch_size=64, shuffle=True)
