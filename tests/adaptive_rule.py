"""What tools that ask the adaptive rule are compared with: the rule itself, run after run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_sotl import AdaptivePolicy


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
