"""The adaptive rule on tables: whom it lets go on, and what tools that ask it are held to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_sotl import AdaptivePolicy

STEADY = [[9.0 - epoch + run for epoch in range(8)] for run in range(8)]  # run 0 always leads


def after(epochs: int, table: list[list[float]]) -> list[list[float]]:
    """Return what of a table is there after so many epochs."""
    return [row[:epochs] for row in table]


def continuing_runs(policy: AdaptivePolicy, train: Any, validation: Any = None) -> list[int]:
    """Return the runs that continue by the rule."""
    runs = range(len(train if train is not None else validation))
    return [run for run in runs if policy.decide(run, train, validation).goes_on]


def epochs_by_the_rule(policy: AdaptivePolicy, *curves: Any) -> list[int]:
    """Return how many epochs each run gets, on tables that are filled one run after another."""
    tables = [np.full(np.shape(values), math.nan) for values in curves]
    epochs = []
    for run in range(len(curves[0])):
        for epoch in range(len(curves[0][0])):
            for table, values in zip(tables, curves, strict=True):
                table[run, epoch] = values[run][epoch]
            if not policy.decide(run, *tables).goes_on:
                break
        epochs.append(epoch + 1)
    return epochs
