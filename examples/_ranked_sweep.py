"""The small sweep that `rank_runs.py` ranks: networks of random sizes, all trained to the end."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from _classifier import make_loader, quieten
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from tqdm import tqdm

from lightning_sotl import SoTLMonitor

BATCH_SIZE = 32


class Network(LightningModule):
    """Fully connected layers of equal width, from 8 x 8 pixels to the logits of ten digits."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = [64, *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 10))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Return the loss; the monitor needs nothing more."""
        return cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        """Log the validation accuracy."""
        self._log_accuracy("val_acc", batch)

    def test_step(self, batch: list[torch.Tensor]) -> None:
        """Log the test accuracy."""
        self._log_accuracy("test_acc", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def _log_accuracy(self, name: str, batch: list[torch.Tensor]) -> None:
        images, labels = batch
        self.log(name, (self.layers(images).argmax(1) == labels).float().mean())


def train_sweep(logs: Path, *, runs: int, epochs: int, seed: int) -> None:
    """Train networks of random widths and depths to the end, with the monitor attached."""
    quieten()
    torch.set_num_threads(1)  # more threads are slower on networks this small
    generator = np.random.default_rng(seed)
    train, val, test = random_splits(generator)
    for _ in tqdm(range(runs), desc="sweep"):
        torch.manual_seed(int(generator.integers(2**31)))
        model = Network(int(2 ** generator.integers(2, 8)), int(generator.integers(1, 4)))
        train_loader = make_loader(train, BATCH_SIZE, shuffle=True)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[SoTLMonitor()],
            logger=CSVLogger(logs, name=""),
            log_every_n_steps=len(train_loader),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, train_loader, make_loader(val, len(val)))
        trainer.test(model, make_loader(test, len(test)), verbose=False)


def random_splits(generator: np.random.Generator) -> list[TensorDataset]:
    """Return scikit-learn's 1,797 digits in three parts: training, validation, test."""
    images, labels = load_digits(return_X_y=True)
    pixels, digits = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.tensor(generator.permutation(len(labels)))
    return [TensorDataset(pixels[part], digits[part]) for part in order.tensor_split([797, 1297])]
