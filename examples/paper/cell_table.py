"""Turns the results of runs into the three files of a table.

`NAME.npz` has the `LearningCurves`, `NAME_runs.npz` further columns with one entry per run, and
`NAME.json` the origin of both.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from cell_space import EDGES, NODES, OPERATIONS, Cell, cell_at, format_cell, live_edges
from numpy.typing import NDArray
from run_pool import write_whole

from lightning_sotl import LearningCurves

CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")
SETTINGS = ("weight_decay", "dropout", "label_smoothing")
FEATURES = ("parameters", "depth", *OPERATIONS[1:])


def learning_curves(results: list[dict[str, Any]]) -> LearningCurves:
    """Return the results as a table with one row per result.

    `epoch_seconds` is the processor time of training for an epoch, without validation. `features`
    are the FEATURES, and the SETTINGS of the regularization if they vary. The name of a run is its
    cell and its repeat.
    """
    epochs = len(results[0]["train_loss"])
    return LearningCurves(
        np.array([result["train_loss"] for result in results]),
        val_loss=np.array([result["val_loss"] for result in results]),
        val_metric=np.array([result["val_accuracy"] for result in results]),
        final_metric=_column(results, "test_accuracy"),
        final_loss=_column(results, "test_loss"),
        features=np.array([_features(result) for result in results])[:, : _width(results)],
        epoch_seconds=np.array([result["cpu_seconds"]["train"] / epochs for result in results]),
        metric_mode="max",
        run_ids=[_name(result) for result in results],
    )


def feature_names(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the columns of `features`."""
    return (*FEATURES, *SETTINGS)[: _width(results)]


def run_columns(results: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns of `NAME_runs.npz`, one entry per run."""
    epochs = len(results[0]["train_loss"])
    seconds = {
        f"{part}_{clock}_seconds": np.array(
            [result[f"{clock}_seconds"][part] / epochs for result in results]
        )
        for part in ("train", "val")
        for clock in ("cpu", "wall")
    }
    return {
        "cells": np.array([format_cell(cell_at(result["cell"])) for result in results]),
        "cell_index": np.array([result["cell"] for result in results]),
        "repeat": np.array([result["repeat"] for result in results]),
        "seed": np.array([result["seed"] for result in results]),
        "parameters": np.array([result["parameters"] for result in results]),
        **{name: _column(results, name) for name in SETTINGS},
        **seconds,
    }


def save_table(
    folder: Path, name: str, results: list[dict[str, Any]], origin: dict[str, Any]
) -> Path:
    """Write the three files of a table, each atomically, and return the path of the first.

    Args:
        folder: Folder of the files; it is created if missing.
        name: Name of the table.
        results: Results of all runs from `cell_training.train_run`.
        origin: Origin of the results, for the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    learning_curves(results).save(path)
    content = io.BytesIO()
    np.savez_compressed(content, **run_columns(results))
    write_whole(folder / f"{name}_runs.npz", content.getvalue())
    document = {**origin, "runs": len(results), "features": feature_names(results)}
    write_whole(folder / f"{name}.json", f"{json.dumps(document, indent=1)}\n".encode())
    return path


def depth(cell: Cell) -> int:
    """Return the largest number of convolutions on a path from input to output."""
    deepest = [0] * NODES
    for position in live_edges(cell):
        source, target = EDGES[position]
        length = deepest[source] + (cell[position] in CONVOLUTIONS)
        deepest[target] = max(deepest[target], length)
    return deepest[-1]


def _features(result: dict[str, Any]) -> list[float]:
    cell = cell_at(result["cell"])
    live = [cell[position] for position in live_edges(cell)]
    counts = [live.count(operation) for operation in OPERATIONS[1:]]
    settings = [result[name] for name in SETTINGS]
    return [result["parameters"], depth(cell), *counts, *settings]


def _width(results: list[dict[str, Any]]) -> int:
    varies = any(len({result[name] for result in results}) > 1 for name in SETTINGS)
    return len(FEATURES) + len(SETTINGS) * varies


def _column(results: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([result[name] for result in results], dtype=np.float64)


def _name(result: dict[str, Any]) -> str:
    return f"{format_cell(cell_at(result['cell']))} repeat {result['repeat']}"
