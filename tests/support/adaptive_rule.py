"""The adaptive policy on tables of losses: which runs continue, and for how many epochs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_sotl import AdaptivePolicy

STEADY = [[9.0 - epoch + run for epoch in range(8)] for run in range(8)]  # run 0 always leads


def first_epochs(epochs: int, table: list[list[float]]) -> list[list[float]]:
    """Return the table as it is after `epochs` epochs."""
    return [row[:epochs] for row in table]


def continuing_runs(policy: AdaptivePolicy, train: Any, validation: Any = None) -> list[int]:
    """Return the runs that the policy continues."""
    runs = range(len(train if train is not None else validation))
    return [run for run in runs if policy.decide(run, train, validation).goes_on]


def expected_epochs(policy: AdaptivePolicy, *curves: Any) -> list[int]:
    """Return the number of epochs of each run, if the runs are trained one after another."""
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
