"""Scikit-learn's handwritten digits in three fixed splits, and small networks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset

CLASSES = 10
PIXELS = 8 * 8


@dataclass(frozen=True)
class Digits:
    """1797 gray images of 8 x 8 pixels in [0, 1], shape `(images, 1, 8, 8)`, with their labels."""

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset


def load_splits() -> Digits:
    """Return half of the digits for training, a quarter for validation and a quarter for the test.

    The splits are stratified by label and always the same. The seed of an example affects only
    weights, dropout and the order of the batches.
    """
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype("float32") / 16
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, test_size=0.5, stratify=labels, random_state=0
    )
    val_x, test_x, val_y, test_y = train_test_split(
        rest_x, rest_y, test_size=0.5, stratify=rest_y, random_state=0
    )
    parts = ((train_x, train_y), (val_x, val_y), (test_x, test_y))
    return Digits(*(TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in parts))


def build_network(kind: str, widths: tuple[int, ...], *, dropout: float = 0.2) -> nn.Sequential:
    """Return a network from images to the logits of the ten digits.

    Args:
        kind: "mlp" for fully connected layers, "conv" for 3 x 3 convolutions.
        widths: The units of each hidden layer. For "conv", the channels of at most three layers.
            Each layer halves the image size.
        dropout: The share of the last layer's inputs to drop in training, in [0, 1).
    """
    layers: list[nn.Module] = [nn.Flatten()] if kind == "mlp" else []
    before = PIXELS if kind == "mlp" else 1
    for width in widths:
        if kind == "mlp":
            layers += [nn.Linear(before, width), nn.ReLU()]
        else:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    if kind == "conv":
        layers.append(nn.Flatten())
        before *= (8 >> len(widths)) ** 2
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(before, CLASSES))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator inside the block, and restore its state afterwards.

    Initial weights, dropout and shuffling use only this generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
