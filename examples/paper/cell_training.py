"""Trains one network of the cell space with Lightning, and returns its results for a table."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import asdict
from typing import Any

import torch
from cell_network import CellNetwork, count_parameters
from cell_space import cell_at
from image_tasks import ImageTask, ShuffledBatches, Split, WholeSplit, load_task
from pytorch_lightning import Callback, LightningModule, Trainer
from recipes import Recipe, Run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sotl import SoTLMonitor


class CellClassifier(LightningModule):
    """Trains with (smoothed) cross-entropy, and keeps the validation results without smoothing."""

    def __init__(self, network: nn.Module, recipe: Recipe, run: Run) -> None:
        super().__init__()
        self.network, self.recipe, self.run_settings = network, recipe, run
        self.val_losses: list[float] = []
        self.val_accuracies: list[float] = []

    def training_step(self, batch: Split, batch_idx: int) -> Tensor:
        return training_loss(self.network, batch, self.run_settings)

    def validation_step(self, batch: Split, batch_idx: int) -> None:
        loss, accuracy = evaluate(self.network, batch)
        self.val_losses.append(loss)
        self.val_accuracies.append(accuracy)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = make_optimizer(self.network, self.recipe, self.run_settings)
        epochs = self.recipe.epochs
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class EpochClock(Callback):
    """Adds up processor time and wall time of training and of validation, in seconds."""

    def __init__(self) -> None:
        self.cpu = {"train": 0.0, "val": 0.0}
        self.wall = {"train": 0.0, "val": 0.0}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = (time.process_time(), time.perf_counter())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("train")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("train")

    def _add(self, part: str) -> None:
        now = (time.process_time(), time.perf_counter())
        self.cpu[part] += now[0] - self._since[0]
        self.wall[part] += now[1] - self._since[1]
        self._since = now


def load_images(recipe: Recipe) -> ImageTask:
    """Return the images of a recipe's task."""
    return load_task(recipe.task, train_images=recipe.train_images, val_images=recipe.val_images)


def build_network(recipe: Recipe, run: Run) -> CellNetwork:
    """Return the run's network, with weights from torch's generator."""
    return CellNetwork(
        cell_at(run.cell),
        channels=recipe.channels,
        stages=recipe.stages,
        cells=recipe.cells,
        dropout=run.dropout,
    )


def training_loss(network: nn.Module, batch: Split, run: Run) -> Tensor:
    """Return the loss to minimize: cross-entropy with the run's label smoothing."""
    images, labels = batch
    return cross_entropy(network(images), labels, label_smoothing=run.label_smoothing)


def make_optimizer(network: nn.Module, recipe: Recipe, run: Run) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum and the run's weight decay."""
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=run.weight_decay,
        fused=True,
    )


def evaluate(network: nn.Module, split: Split) -> tuple[float, float]:
    """Return cross-entropy in nats and accuracy in [0, 1] of a network in eval mode."""
    images, labels = split
    logits = network(images)
    correct = (logits.argmax(dim=1) == labels).double().mean()
    return float(cross_entropy(logits, labels)), float(correct)


def make_trainer(epochs: int, callbacks: list[Callback]) -> Trainer:
    """Return a Trainer that writes, logs and prints nothing."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def train_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Train a run to the end and test it.

    Returns:
        The run, its results and its times. Training losses are the L(e) of the monitor in nats,
        with label smoothing if the run has it; validation losses have none; accuracies are in
        [0, 1]. Times are in seconds over all epochs, and "total" times include setup and test.
    """
    began = (time.process_time(), time.perf_counter())
    task = load_images(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = build_network(recipe, run)
        model = CellClassifier(network, recipe, run)
        monitor, clock = SoTLMonitor(record=False), EpochClock()
        trainer = make_trainer(recipe.epochs, [monitor, clock])
        batches = ShuffledBatches(task.train, recipe.batch_size, shift=recipe.shift)
        trainer.fit(model, batches, WholeSplit(task.val))
    network.eval()
    with torch.inference_mode():
        test_loss, test_accuracy = evaluate(network, task.test)
    return {
        **asdict(run),
        "parameters": count_parameters(network),
        "train_loss": [monitor.epoch_losses[epoch] for epoch in range(recipe.epochs)],
        "val_loss": model.val_losses,
        "val_accuracy": model.val_accuracies,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "cpu_seconds": clock.cpu,
        "wall_seconds": clock.wall,
        "total_cpu_seconds": time.process_time() - began[0],
        "total_wall_seconds": time.perf_counter() - began[1],
    }


def quieten() -> None:
    """Silence Lightning's log lines for each Trainer, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data are tensors in memory
        ".*LeafSpec.*",  # Lightning's own use of torch's pytree
        ".*have no `val_dataloader`.*",  # step_overhead.py trains without validation
    ):
        warnings.filterwarnings("ignore", message)
