"""W&B sweep: trains one trial to epoch T; wandb_sweep.yaml defines the sweep.

    wandb sweep examples/recipes/wandb_sweep.yaml
    wandb agent ENTITY/PROJECT/SWEEP

or without a sweep and without an account:

    WANDB_MODE=offline python examples/recipes/wandb_sweep.py --width 16

The run's history contains `sotl_e1` once per epoch. W&B's own `early_terminate` counts these rows,
so its `min_iter` is in epochs. It ignores `inf` and therefore never stops a diverged run; the
stopper does, at T.

Needs: pip install wandb. Time: 9 s of one CPU core a trial, most of it imports.
"""

from __future__ import annotations

import argparse

from digits_model import DigitsModel
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import WandbLogger

from lightning_sotl import EarlyRankingStopper, SoTLMonitor


def main() -> None:
    """Train the trial whose parameters the agent passes on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    options = parser.parse_args()
    seed_everything(0)
    logger = WandbLogger(project="lightning-sotl")
    Trainer(
        max_epochs=30,
        callbacks=[SoTLMonitor(), EarlyRankingStopper(stop_epoch=3)],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(DigitsModel(options.width, options.learning_rate))
    logger.experiment.finish()


if __name__ == "__main__":
    main()
