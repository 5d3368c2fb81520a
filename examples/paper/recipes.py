"""The plan of each table: the recipe that its runs share, and the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from cell_equivalence import distinct_connected_cells

REPEATS = 3
# 5e-4 is NAS-Bench-201's weight decay.
WEIGHT_DECAYS = (0.0, 5e-4, 5e-3)
DROPOUTS = (0.0, 0.1, 0.3)
LABEL_SMOOTHINGS = (0.0, 0.1, 0.2)


@dataclass(frozen=True)
class Recipe:
    """The settings that all runs of a table share: task, skeleton and optimization.

    The optimizer is SGD with Nesterov momentum; the learning rate follows a cosine over all epochs.

    Args:
        task: A task of `image_tasks`.
        train_images: Number of training images.
        val_images: Number of validation images.
        channels: Channels of the first stage.
        stages: Number of stages, each with half the image size of the one before.
        cells: Cells per stage.
        epochs: Epochs of full training.
        batch_size: Images per training step.
        shift: Largest shift of training images, in pixels.
        learning_rate: Learning rate of the first epoch.
        momentum: Nesterov momentum.
    """

    task: str
    train_images: int
    val_images: int
    channels: int
    stages: int = 3
    cells: int = 1
    epochs: int = 40
    batch_size: int = 64
    shift: int = 0
    learning_rate: float = 0.1
    momentum: float = 0.9


@dataclass(frozen=True)
class Run:
    """One training: a cell, a seed and its regularization.

    Args:
        cell: The cell's index.
        repeat: 0, 1, ... for trainings of the same cell with different seeds.
        seed: Seed of weights, dropout, shuffling and shifts.
        weight_decay: Weight decay, at least 0.
        dropout: Dropout before the last layer, in [0, 1).
        label_smoothing: Label smoothing of the training loss, in [0, 1).
    """

    cell: int
    repeat: int
    seed: int
    weight_decay: float = 5e-4
    dropout: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Size:
    """The size of the tables: networks, networks with 3 seeds, and regularized runs."""

    networks: int
    repeated: int
    regularized: int


FULL = Size(networks=600, repeated=60, regularized=150)
SMOKE = Size(networks=4, repeated=1, regularized=3)

# Chosen in pilot.py, before any correlation was computed.
RECIPE = Recipe(
    "mnist",
    train_images=1024,
    val_images=1000,
    channels=4,
    stages=2,
    cells=1,
    shift=1,
    batch_size=128,
)
SMOKE_RECIPE = replace(RECIPE, task="digits", train_images=128, val_images=100, epochs=2)


def plan_cells(size: Size, seed: int) -> list[Run]:
    """Return the runs of the table "cells": distinct networks, the first of them with 3 seeds."""
    cells = distinct_connected_cells(seed, size.networks)
    first = [Run(cell, 0, _run_seed(seed, cell, 0)) for cell in cells]
    again = [
        Run(cell, repeat, _run_seed(seed, cell, repeat))
        for cell in cells[: size.repeated]
        for repeat in range(1, REPEATS)
    ]
    return first + again


def plan_regularized(size: Size, seed: int) -> list[Run]:
    """Return the runs of the table "regularised".

    These are the first networks of "cells" with the same initial weights. Weight decay, dropout and
    label smoothing are drawn at random for each.
    """
    generator = np.random.default_rng(seed)
    return [
        replace(
            run,
            weight_decay=float(generator.choice(WEIGHT_DECAYS)),
            dropout=float(generator.choice(DROPOUTS)),
            label_smoothing=float(generator.choice(LABEL_SMOOTHINGS)),
        )
        for run in plan_cells(Size(size.regularized, 0, 0), seed)
    ]


TABLES: dict[str, Callable[[Size, int], list[Run]]] = {
    "cells": plan_cells,
    "regularised": plan_regularized,
}


def _run_seed(seed: int, cell: int, repeat: int) -> int:
    return int(np.random.SeedSequence([seed, cell, repeat]).generate_state(1)[0])
