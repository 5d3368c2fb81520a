"""Darts passes `pl_trainer_kwargs` to its Trainer, which resumes from `load_ckpt_path`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "darts"
REQUIREMENTS = ["darts==0.48.1", "pytorch-lightning==2.6.6"]
PACKAGE = "pytorch_lightning"
INTERFACE = "`pl_trainer_kwargs`"
LEARNING_RATES = (1e-3, 1e-2, 1e30)  # the last one diverges


def train(run: Run) -> None:
    import numpy as np
    from darts import TimeSeries
    from darts.models import NBEATSModel

    noise = np.random.default_rng(0).normal(size=200)
    series = TimeSeries.from_values(np.sin(np.arange(200) / 5) + 0.1 * noise)
    model = NBEATSModel(
        input_chunk_length=12,
        output_chunk_length=3,
        num_stacks=2,
        num_blocks=1,
        layer_widths=16,
        dropout=0.1,
        batch_size=16,
        n_epochs=run.epochs,
        optimizer_kwargs={"lr": run.learning_rate},
        work_dir=str(run.folder),
        pl_trainer_kwargs={"accelerator": "cpu", "callbacks": run.callbacks},
    )
    model.load_ckpt_path = run.checkpoint
    model.fit(series)
