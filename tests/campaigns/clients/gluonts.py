"""GluonTS passes `trainer_kwargs` to its Trainer, and `train` takes `ckpt_path`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "gluonts"
REQUIREMENTS = ["gluonts[torch]==0.17.0", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "`trainer_kwargs`"
NOT_EXACT = "no checkpoint has the position in GluonTS's endless stream of data"


def train(run: Run) -> None:
    import numpy as np
    import pandas as pd
    from gluonts.dataset.common import ListDataset
    from gluonts.torch import DeepAREstimator

    noise = np.random.default_rng(0).normal(size=(4, 100))
    values = np.sin(np.arange(100) / 4 + np.arange(4)[:, None]) + 0.1 * noise
    start = pd.Period("2026-01-01", freq="D")
    data = ListDataset([{"start": start, "target": target} for target in values], freq="D")
    estimator = DeepAREstimator(
        freq="D",
        prediction_length=4,
        context_length=12,
        hidden_size=8,
        lr=run.learning_rate,
        batch_size=8,
        num_batches_per_epoch=10,
        trainer_kwargs={
            "max_epochs": run.epochs,
            "accelerator": "cpu",
            "callbacks": run.callbacks,
            "default_root_dir": run.folder,
        },
    )
    estimator.train(data, ckpt_path=run.checkpoint)
