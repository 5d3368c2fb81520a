"""What the digits examples share: module, loaders, log folders, and a quiet Lightning."""

from __future__ import annotations

import itertools
import logging
import warnings
from pathlib import Path

import torch
from _digits import build_network
from pytorch_lightning import LightningModule
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

LEARNING_RATE = 3e-3


class Classifier(LightningModule):
    """A network for the digits, with a cosine schedule over the Trainer's whole budget."""

    def __init__(
        self, kind: str, widths: tuple[int, ...], learning_rate: float = LEARNING_RATE
    ) -> None:
        super().__init__()
        chosen = {"kind": kind, "widths": list(widths), "learning_rate": learning_rate}
        self.save_hyperparameters(chosen)
        self.network = build_network(kind, widths)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss; the monitor needs nothing more."""
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """Log the validation accuracy."""
        self._log_accuracy("val_acc", batch)

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """Log the test accuracy."""
        self._log_accuracy("test_acc", batch)

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW with a schedule that ends at `max_epochs`, even if the run stops earlier."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _log_accuracy(self, name: str, batch: list[torch.Tensor]) -> None:
        images, labels = batch
        correct = self.network(images).argmax(dim=1) == labels
        self.log(name, correct.float().mean(), batch_size=len(labels))


def make_loader(dataset: TensorDataset, batch_size: int, *, shuffle: bool = False) -> DataLoader:
    """Return a loader that slices whole batches from the tensors, not single images."""
    order: Sampler[int] = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def make_log_folder(parent: Path) -> Path:
    """Create and return the first free folder of sweep_0, sweep_1, ...; sweeps never mix."""
    parent.mkdir(parents=True, exist_ok=True)
    folders = (parent / f"sweep_{number}" for number in itertools.count())
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    return folder


def quieten() -> None:
    """Silence Lightning's log lines for each Trainer, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data are tensors in memory
        ".*LeafSpec.*",  # Lightning's own use of torch's pytree
        "You defined a `validation_step` but have no `val_dataloader`.*",  # a search without it
        "Checkpoint directory .* exists and is not empty.*",  # a promoted run resumes in its folder
        "The dirpath has changed.*",  # or in a new folder
    ):
        warnings.filterwarnings("ignore", message)
