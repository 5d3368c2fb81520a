"""What is trained for which table: the recipe that all its runs share, and the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from cell_equivalence import distinct_connected_cells

REPEATS = 3
# The default is NAS-Bench-201's weight decay.
WEIGHT_DECAYS = (0.0, 5e-4, 5e-3)
DROPOUTS = (0.0, 0.1, 0.3)
LABEL_SMOOTHINGS = (0.0, 0.1, 0.2)


@dataclass(frozen=True)
class Recipe:
    """What all runs of a table share: the task, the skeleton and the optimisation.

    SGD with Nesterov momentum; the learning rate falls by a cosine over all epochs.

    Args:
        task: A name that `image_tasks` knows.
        train_images: How many images to train on.
        val_images: How many images to validate on.
        channels: Of the first stage.
        stages: How many, each at half the size of the one before.
        cells: How many a stage.
        epochs: How many in all.
        batch_size: How many images a training step.
        shift: By how many pixels training images move at most.
        learning_rate: Of the first epoch.
        momentum: Nesterov's.
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
    """One training: a cell, a seed, and its regularisation.

    Args:
        cell: The cell's index.
        repeat: 0, 1, ... for trainings of the same cell with other random numbers.
        seed: Of weights, dropout, shuffling and shifts.
        weight_decay: At least 0.
        dropout: In [0, 1), before the last layer.
        label_smoothing: In [0, 1), in the training loss only.
    """

    cell: int
    repeat: int
    seed: int
    weight_decay: float = 5e-4
    dropout: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Size:
    """How large the tables are: networks, how many of them with 3 seeds, and regularised runs."""

    networks: int
    repeated: int
    regularised: int


FULL = Size(networks=600, repeated=60, regularised=150)
SMOKE = Size(networks=4, repeated=1, regularised=3)

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
    """Return the runs of the table "cells": distinct networks, the first ones with 3 seeds."""
    cells = distinct_connected_cells(seed, size.networks)
    first = [Run(cell, 0, _run_seed(seed, cell, 0)) for cell in cells]
    again = [
        Run(cell, repeat, _run_seed(seed, cell, repeat))
        for cell in cells[: size.repeated]
        for repeat in range(1, REPEATS)
    ]
    return first + again


def plan_regularised(size: Size, seed: int) -> list[Run]:
    """Return the runs of the table "regularised".

    The first networks of "cells", from the same initial weights, each with a weight decay, a
    dropout and a label smoothing drawn at random.
    """
    generator = np.random.default_rng(seed)
    return [
        replace(
            run,
            weight_decay=float(generator.choice(WEIGHT_DECAYS)),
            dropout=float(generator.choice(DROPOUTS)),
            label_smoothing=float(generator.choice(LABEL_SMOOTHINGS)),
        )
        for run in plan_cells(Size(size.regularised, 0, 0), seed)
    ]


TABLES: dict[str, Callable[[Size, int], list[Run]]] = {
    "cells": plan_cells,
    "regularised": plan_regularised,
}


def _run_seed(seed: int, cell: int, repeat: int) -> int:
    return int(np.random.SeedSequence([seed, cell, repeat]).generate_state(1)[0])
