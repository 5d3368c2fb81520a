"""Networks wired by random graphs, trained by Lightning on scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch
from _random_graphs import Setting, draw_graph, wire
from pytorch_lightning import LightningModule, Trainer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from lightning_sotl import SoTLMonitor


@dataclass(frozen=True)
class Recipe:
    """The settings that all networks of a table share.

    The defaults were chosen in a pilot of six settings with one network each, before any
    correlation was computed. The criteria were the spread of the final test accuracy and the number
    of networks with a final training loss above 0.1:

        images  channels   test accuracy   final training loss   above 0.1
           600         8    96.8 to 98.4        0.005 to 0.056      0 of 6
           400         4    84.7 to 94.5        0.030 to 0.512      3 of 6
           300         6    67.1 to 93.7        0.043 to 0.956      3 of 6
           300         4    65.2 to 89.3        0.066 to 0.903      5 of 6   <- taken
           200         4    43.7 to 78.8        0.348 to 1.348      6 of 6, hardly trained

    Attributes:
        nodes: Nodes of each random graph.
        channels: Channels of the first cell. Each further cell has twice as many, and half the
            image size.
        cells: Number of random graphs in a row, each drawn separately (the paper has 3 of 32
            nodes).
        images: Training images; a quarter of the remaining images is for validation.
        epochs: Epochs of full training; the learning rate follows a cosine over all of them.
        batch_size: Images per step.
        learning_rate: Learning rate at the first epoch, of SGD with Nesterov momentum 0.9.
        weight_decay: Weight decay of SGD.
    """

    nodes: int = 12
    channels: int = 4
    cells: int = 2
    images: int = 300
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.05
    weight_decay: float = 5e-4


class Node(nn.Module):
    """Weighted sum of the inputs, then ReLU, separable 3 x 3 convolution and batch normalization.

    The weights of the sum are learned; a sigmoid keeps them in (0, 1).
    """

    def __init__(self, inputs: int, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(inputs))
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False),
            nn.Conv2d(before, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return the node's output, the input of all its successors."""
        total = torch.tensordot(self.weights.sigmoid(), torch.stack(inputs), dims=1)
        return self.layers(total)


class Cell(nn.Module):
    """One wiring: nodes fed by the input change size and channels; the output is a mean."""

    def __init__(self, wiring: nx.DiGraph, before: int, channels: int, stride: int) -> None:
        super().__init__()
        last = wiring.number_of_nodes() - 1
        self.sources = [sorted(wiring.predecessors(node)) for node in range(last + 1)]
        self.nodes = nn.ModuleList()
        for node in range(1, last):
            # A node that the input feeds has no other source.
            is_first = self.sources[node] == [0]
            sizes = (before, channels, stride) if is_first else (channels, channels, 1)
            self.nodes.append(Node(len(self.sources[node]), *sizes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output of the last node."""
        values = [images]
        for node, sources in zip(self.nodes, self.sources[1:-1], strict=True):
            values.append(node([values[source] for source in sources]))
        return torch.stack([values[source] for source in self.sources[-1]]).mean(dim=0)


class WiredNetwork(nn.Module):
    """A stem, cells in a row, and a linear layer on the mean over the image."""

    def __init__(self, wirings: list[nx.DiGraph], channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, bias=False)]
        layers.append(nn.BatchNorm2d(channels))
        before = channels
        for place, wiring in enumerate(wirings):
            layers.append(Cell(wiring, before, channels << place, stride=2 if place else 1))
            before = channels << place
        self.features = nn.Sequential(*layers, nn.ReLU())
        self.classifier = nn.Linear(before, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of the ten digits."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


class Classifier(LightningModule):
    """A wired network with its recipe; it keeps loss and accuracy of each validation."""

    def __init__(self, network: WiredNetwork, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self.val_losses: list[float] = []
        self.val_accuracies: list[float] = []
        self.test_result = (float("nan"), float("nan"))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Return the loss; the monitor needs nothing more."""
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        """Keep the loss and the accuracy; the only batch is the whole split."""
        loss, accuracy = self._judge(batch)
        self.val_losses.append(loss)
        self.val_accuracies.append(accuracy)

    def test_step(self, batch: list[torch.Tensor]) -> None:
        """Keep the loss and the accuracy; the only batch is the whole split."""
        self.test_result = self._judge(batch)

    def configure_optimizers(self) -> dict[str, object]:
        """Return SGD on a cosine schedule over the whole training."""
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=self.recipe.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=self.recipe.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _judge(self, batch: list[torch.Tensor]) -> tuple[float, float]:
        logits = self.network(batch[0])
        accuracy = (logits.argmax(dim=1) == batch[1]).float().mean()
        return float(cross_entropy(logits, batch[1])), float(accuracy)


def load_splits(images: int) -> list[TensorDataset]:
    """Return training, validation and test split of scikit-learn's 1,797 digits.

    The splits are stratified by label and always the same. A quarter of the images that are not for
    training is for validation.
    """
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 1, 8, 8).astype("float32") / 16
    options = {"random_state": 0}
    train_x, rest_x, train_y, rest_y = train_test_split(
        pixels, labels, train_size=images, stratify=labels, **options
    )
    val_x, test_x, val_y, test_y = train_test_split(
        rest_x, rest_y, train_size=0.25, stratify=rest_y, **options
    )
    parts = ((train_x, train_y), (val_x, val_y), (test_x, test_y))
    return [TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in parts]


def make_loader(dataset: TensorDataset, batch_size: int, *, shuffle: bool = False) -> DataLoader:
    """Return a loader that slices whole batches from the tensors, not single images."""
    order: Sampler[int] = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def make_trainer(recipe: Recipe, monitor: SoTLMonitor) -> Trainer:
    """Return a Trainer that writes no files; the monitor and the model keep the curves."""
    return Trainer(
        max_epochs=recipe.epochs,
        callbacks=[monitor],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def train_network(setting: Setting, recipe: Recipe, seed: int) -> dict[str, object]:
    """Draw the graphs, train the network to the end, and return its curves and results.

    Args:
        setting: Setting of the random graphs.
        recipe: Recipe of the network and its training.
        seed: Seed of the graphs, the weights and the order of the batches.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    seeds = generator.integers(2**31, size=recipe.cells)
    wirings = [wire(draw_graph(setting, recipe.nodes, int(each))) for each in seeds]
    model = Classifier(WiredNetwork(wirings, recipe.channels), recipe)
    train, val, test = load_splits(recipe.images)
    monitor = SoTLMonitor(record=False)
    trainer = make_trainer(recipe, monitor)
    trainer.fit(
        model, make_loader(train, recipe.batch_size, shuffle=True), make_loader(val, len(val))
    )
    trainer.test(model, make_loader(test, len(test)), verbose=False)
    return {
        "train_loss": list(monitor.epoch_losses.values()),
        "val_loss": model.val_losses,
        "val_metric": model.val_accuracies,
        "final_loss": model.test_result[0],
        "final_metric": model.test_result[1],
        "features": [
            sum(parameter.numel() for parameter in model.parameters()),
            sum(wiring.number_of_edges() for wiring in wirings),
            sum(nx.dag_longest_path_length(wiring) for wiring in wirings),
        ],
    }
