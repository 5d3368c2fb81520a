"""A module with known losses, its loader, and a quiet Trainer."""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

PACKAGES = ("pytorch_lightning", "lightning.pytorch")

# The losses of the four batches in each epoch. All of them are exact in float32.
LOSSES = [
    [4.0, 3.5, 3.0, 2.5],
    [2.0, 2.5, 1.5, 2.0],
    [1.5, 1.25, 1.0, 1.25],
    [1.0, 0.5, 0.75, 0.75],
    [0.5, 0.25, 0.5, 0.75],
]


def lightning(package: str) -> Any:
    """Return a Lightning package."""
    return importlib.import_module(package)


def door(package: str) -> Any:
    """Return our public module with the callbacks for a Lightning package."""
    name = "lightning" if package == "lightning.pytorch" else package
    return importlib.import_module(f"lightning_sotl.{name}")


def loader() -> DataLoader[torch.Tensor]:
    """Return four batches of one sample each, shuffled by the loader's own generator."""
    samples: Any = [torch.tensor([float(index), 1.0]) for index in range(4)]
    generator = torch.Generator().manual_seed(3)
    return DataLoader(samples, batch_size=1, shuffle=True, generator=generator)


def model(package: str = PACKAGES[0], **hparams: Any) -> Any:
    """Return a module with two weights that returns the losses LOSSES plus `offset`.

    The module appends each step to `steps`: epoch, batch index, sample, and one draw from each of
    the global random generators of torch, NumPy and Python.

    Args:
        package: The Lightning package.
        **hparams: `offset`, the only one that is saved as a hyper-parameter; `at_step`, a dict of
            global step -> function that is called with the Trainer before that step; `nan_epoch`,
            an epoch in which the losses are NaN.
    """
    pl = lightning(package)

    class KnownLosses(pl.LightningModule):
        def __init__(self, offset: float = 0.0, at_step: Any = None, nan_epoch: int = -1) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["at_step", "nan_epoch"])
            self.offset, self.at_step, self.nan_epoch = offset, at_step or {}, nan_epoch
            self.layer = torch.nn.Linear(2, 1, bias=False)
            torch.nn.init.zeros_(self.layer.weight)
            self.steps: list[tuple[int, int, int, float, float, float]] = []

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.at_step.get(self.global_step, lambda _: None)(self.trainer)
            epoch, sample = self.trainer.current_epoch, int(batch[0, 0])
            # The global generators are what a promotion restores.
            draws = (float(torch.rand(())), float(np.random.rand()), random.random())  # noqa: NPY002, S311
            self.steps.append((epoch, batch_idx, sample, *draws))
            out = self.layer(batch).sum()
            value = float("nan") if epoch == self.nan_epoch else LOSSES[epoch][batch_idx]
            self.log("val_acc", (epoch + 1) / 8, on_step=False, on_epoch=True, batch_size=1)
            return out - out.detach() + value + self.offset  # the first two terms add a gradient

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.125, momentum=0.5)

    return KnownLosses(**hparams)


def trainer(folder: Any, package: str = PACKAGES[0], **options: Any) -> Any:
    """Return a CPU Trainer of five epochs that prints and logs nothing."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 5,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": str(folder),
    }
    return lightning(package).Trainer(**{**quiet, **options})


def seed(value: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002  # the test needs the global state
    random.seed(value)
