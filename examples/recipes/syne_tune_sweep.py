"""Syne Tune: a callback that reports once per epoch, and ASHA on two workers.

    python examples/recipes/syne_tune_sweep.py --tune
    python examples/recipes/syne_tune_sweep.py --width 16

The first command starts the second one for each trial. Syne Tune reads the line that a trial prints
after each epoch. It kills the trials that ASHA stops. All others stop at T, and the stopper saves
their checkpoints.

Needs: pip install syne-tune (850 MB). Time: 8 s of one CPU core a trial, 2 minutes
with `--tune`, most of it imports.
"""

from __future__ import annotations

import argparse

from digits_model import DigitsModel
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from syne_tune import Reporter

from lightning_sotl import EarlyRankingStopper, SoTLMonitor

STOP_EPOCH = 8


class ReportToSyneTune(Callback):
    """Prints the estimate after each epoch, in the form that Syne Tune reads."""

    def __init__(self) -> None:
        self.report = Reporter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and "sotl_e1" in trainer.callback_metrics:
            value = float(trainer.callback_metrics["sotl_e1"])
            self.report(epoch=trainer.current_epoch + 1, sotl_e1=value)


def train(width: int, learning_rate: float, folder: str) -> None:
    """Train one trial to T."""
    seed_everything(0)
    stopper = EarlyRankingStopper(stop_epoch=STOP_EPOCH)
    Trainer(
        max_epochs=30,
        callbacks=[SoTLMonitor(), stopper, ReportToSyneTune()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(DigitsModel(width, learning_rate))


def tune() -> None:
    """Run 8 trials on two workers and print the best one."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import choice, loguniform
    from syne_tune.experiments import load_experiment
    from syne_tune.optimizer.baselines import ASHA

    space = {"width": choice([4, 16, 64]), "learning_rate": loguniform(1e-4, 1e-2)}
    # ASHA kills trials that reach `max_t`, so it is set to an epoch that no trial reaches.
    scheduler = ASHA(space, "sotl_e1", time_attr="epoch", max_t=STOP_EPOCH + 1, random_seed=0)
    tuner = Tuner(
        LocalBackend(__file__),
        scheduler,
        StoppingCriterion(max_num_trials_finished=8),
        n_workers=2,
    )
    tuner.run()
    print(load_experiment(tuner.name).best_config())


def main() -> None:
    """Train one trial, or tune."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tune", action="store_true", help="run the sweep instead of one trial")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--st_checkpoint_dir", default=".", help="set by Syne Tune")
    options = parser.parse_args()
    if options.tune:
        tune()
    else:
        train(options.width, options.learning_rate, options.st_checkpoint_dir)


if __name__ == "__main__":
    main()
