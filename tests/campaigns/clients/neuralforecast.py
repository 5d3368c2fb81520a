"""NeuralForecast's models pass unknown arguments to the Trainer, and take no checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "neuralforecast"
REQUIREMENTS = ["neuralforecast==3.3.0", "pytorch-lightning==2.6.6"]
PACKAGE = "pytorch_lightning"
INTERFACE = "`NHITS(callbacks=...)`"
NO_RESUME = "`fit` takes no checkpoint"


def train(run: Run) -> None:
    import numpy as np
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    series, length = 8, 60
    time = np.arange(length)
    noise = np.random.default_rng(0).normal(size=(series, length))
    values = np.sin(time / 4 + np.arange(series)[:, None]) + 0.1 * noise
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), length),
            "ds": np.tile(time, series),
            "y": values.ravel(),
        }
    )
    model = NHITS(
        h=4,
        input_size=12,
        mlp_units=[[16, 16]] * 3,
        dropout_prob_theta=0.1,
        learning_rate=run.learning_rate,
        batch_size=2,
        max_steps=run.epochs * series // 2,
        accelerator="cpu",
        callbacks=run.callbacks,
        default_root_dir=str(run.folder),
    )
    NeuralForecast(models=[model], freq=1).fit(table)
