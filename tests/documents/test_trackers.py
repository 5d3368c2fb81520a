"""The code of the page on trackers gives the curves that real runs have logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_sotl import LearningCurves
from tests.support.helpers import loader, scripted_loss, scripted_model, trainer
from tests.support.pages import DOCS, blocks

MLFLOW, WANDB = (
    block.text for block in blocks(DOCS / "analysis" / "trackers.md") if block.language == "python"
)
nan = np.nan


def run_block(text: str) -> LearningCurves:
    space: dict[str, Any] = {}
    exec(text, space)  # noqa: S102  # our own page
    found: LearningCurves = space["curves"]
    return found


def epoch_means(epochs: int, offset: float) -> list[float]:
    return [np.mean([scripted_loss(e, b) + offset for b in range(4)]) for e in range(epochs)]


def assert_logged_curves(curves: LearningCurves) -> None:
    """Check the curves of run a, of 3 epochs, and of run b, of 2."""
    expected = [epoch_means(3, 0.0), [*epoch_means(2, 0.25), nan]]
    # Lightning averages in float32.
    np.testing.assert_allclose(curves.train_loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(curves.val_metric, [[0.5, 0.625, 0.75], [0.5, 0.625, nan]])
    np.testing.assert_array_equal(curves.final_metric, [0.875, 0.625])


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Train two runs with MLflow's logger on a SQLite store, and return their ids by name."""
    from pytorch_lightning.loggers import MLFlowLogger

    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ids = {}
    for name, epochs, offset in (("a", 3, 0.0), ("b", 2, 0.25)):
        logger = MLFlowLogger("digits", name, tracking_uri="sqlite:///mlflow.db")
        run = trainer(tmp_path, max_epochs=epochs, logger=logger, log_every_n_steps=2)
        model = logging_model(offset)
        run.fit(model, loader(4), loader(1))
        run.test(model, loader(1), verbose=False)
        ids[name] = str(logger.run_id)
    yield ids
    root.handlers[:] = handlers
    root.setLevel(level)


def logging_model(offset: float) -> Any:
    model = scripted_model(loss=lambda epoch, batch: scripted_loss(epoch, batch) + offset)

    class Logging(type(model)):  # type: ignore[misc]  # a class that a function made
        def training_step(self, batch: torch.Tensor, index: int) -> Any:
            loss = super().training_step(batch, index)
            self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=1)
            return loss

        def validation_step(self, batch: torch.Tensor, index: int) -> None:
            self.log("val_acc", 0.5 + self.current_epoch / 8, batch_size=1)

        def test_step(self, batch: torch.Tensor, index: int) -> None:
            self.log("test_acc", 0.875 - offset, batch_size=1)

    model.__class__ = Logging
    return model


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.slow
def test_the_curves_of_an_mlflow_store_are_those_of_the_runs(mlflow_store: dict[str, str]) -> None:
    curves = run_block(MLFLOW)
    rows = [curves.names.index(mlflow_store[name]) for name in ("a", "b")]
    assert_logged_curves(curves.select(rows))


def test_the_curves_of_a_recorded_wandb_history_are_those_of_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows are those that W&B recorded of the runs of the MLflow test."""
    wandb = pytest.importorskip("wandb")
    lines = (Path(__file__).parent / "wandb_history.jsonl").read_text().splitlines()
    histories: dict[str, list[dict[str, Any]]] = {}
    for row in map(json.loads, lines):
        histories.setdefault(row.pop("run"), []).append(row)

    class RecordedRun:
        def __init__(self, name: str) -> None:
            self.id = name

        def scan_history(self) -> Iterator[dict[str, Any]]:
            return iter(histories[self.id])

    class RecordedApi:
        def runs(self, path: str) -> list[RecordedRun]:
            assert path == "team/project"
            return [RecordedRun(name) for name in histories]

    monkeypatch.setattr(wandb, "Api", RecordedApi)
    curves = run_block(WANDB)
    assert curves.names == ("a", "b")
    assert_logged_curves(curves)


def test_the_names_of_wandb_on_the_page_exist() -> None:
    import wandb
    from wandb.apis.public import Run

    assert callable(wandb.Api.runs)
    assert callable(Run.scan_history)
