"""PyTorch Forecasting has LightningModules, and its users create the Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "pytorch-forecasting"
REQUIREMENTS = ["pytorch-forecasting==1.8.0", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "its user's Trainer"


def train(run: Run) -> None:
    import lightning.pytorch as pl
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.metrics import QuantileLoss

    series, length = 4, 40
    time = np.arange(length)
    noise = np.random.default_rng(0).normal(size=(series, length))
    values = np.sin(time / 4 + np.arange(series)[:, None]) + 0.1 * noise
    table = pd.DataFrame(
        {
            "series": np.repeat([f"series {number}" for number in range(series)], length),
            "time": np.tile(time, series),
            "value": values.ravel(),
        }
    )
    data = TimeSeriesDataSet(
        table,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=12,
        max_prediction_length=4,
        time_varying_known_reals=["time"],
        time_varying_unknown_reals=["value"],
    )
    model = TemporalFusionTransformer.from_dataset(
        data,
        learning_rate=run.learning_rate,
        hidden_size=8,
        attention_head_size=1,
        dropout=0.1,
        hidden_continuous_size=4,
        loss=QuantileLoss(),
    )
    trainer = pl.Trainer(
        max_epochs=run.epochs,
        accelerator="cpu",
        callbacks=run.callbacks,
        gradient_clip_val=0.1,
        default_root_dir=run.folder,
    )
    loader = data.to_dataloader(train=True, batch_size=16, num_workers=0)
    trainer.fit(model, loader, ckpt_path=run.checkpoint, weights_only=False)
