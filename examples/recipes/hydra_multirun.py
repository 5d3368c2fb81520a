"""Hydra multirun: each job stops at epoch T and returns the estimate.

    python examples/recipes/hydra_multirun.py --multirun width=4,16,64
    lightning-sotl rank multirun/DATE/TIME

Hydra logs the value that each job returns. The basic sweeper does not use it; the second command
ranks the jobs and lists their checkpoints. An optimizing sweeper minimizes the value. For a
diverged run it is `inf`.

With `pip install hydra-optuna-sweeper` (1.3), Optuna proposes the parameters:

    python examples/recipes/hydra_multirun.py --multirun hydra/sweeper=optuna \
        hydra.sweeper.n_trials=20 hydra.sweeper.n_jobs=1 'width=choice(4,16,64)'

This installs Optuna 2.10, which lightning-sotl[optuna] does not support, so use a separate
environment. Jobs have no access to their trial, so they cannot be pruned. They only stop early at T
and return the estimate.

Needs: pip install hydra-core. Time: 9 s of one CPU core, most of it imports.
"""

from __future__ import annotations

import hydra
from digits_model import DigitsModel
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything

from lightning_sotl import EarlyRankingStopper, SoTLMonitor


@hydra.main(version_base="1.3", config_path=".", config_name="hydra_multirun")
def main(config: DictConfig) -> float | None:
    """Train one network to T and return its estimate, which the sweeper minimizes."""
    seed_everything(0)
    stopper = EarlyRankingStopper(stop_epoch=config.stop_epoch)
    Trainer(
        max_epochs=config.max_epochs,
        callbacks=[SoTLMonitor(), stopper],
        default_root_dir=HydraConfig.get().runtime.output_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(DigitsModel(config.width, config.learning_rate))
    return stopper.estimate


if __name__ == "__main__":
    main()
