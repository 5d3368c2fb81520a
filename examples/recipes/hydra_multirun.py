"""Hydra multirun: each job ends at epoch T, and its task returns the estimate.

    python examples/recipes/hydra_multirun.py --multirun width=4,16,64
    lightning-sotl rank multirun/DATE/TIME

Hydra's log has what each job returned. The basic sweeper does no more with it than that; the second
command ranks the jobs and names their checkpoints. A sweeper that optimises takes the value as it
is, and lower is better. That of a diverged run is `inf`.

hydra-optuna-sweeper 1.3 asks for Optuna 2.10 and takes a newer one away, so it needs an environment
of its own; there, add `hydra/sweeper=optuna` and a `hydra.sweeper.params`. It gives jobs no access
to their trial, so that returning the estimate of a run that was stopped at T is all the early
stopping that it can do.

Needs: pip install hydra-core. Time: 7 s on 2 CPU cores, most of it imports.
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
    """Train one network to T and return its estimate, which the sweeper minimises."""
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
