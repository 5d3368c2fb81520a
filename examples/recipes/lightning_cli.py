"""LightningCLI: callbacks by class path, on the command line or in a YAML file.

    python examples/recipes/lightning_cli.py fit --config examples/recipes/lightning_cli.yaml
    python examples/recipes/lightning_cli.py fit --trainer.max_epochs 30 --model.width 64 \
        --trainer.callbacks+ lightning_sotl.SoTLMonitor \
        --trainer.callbacks+ lightning_sotl.EarlyRankingStopper --trainer.callbacks.stop_epoch 3

Both commands stop the run after 3 of 30 epochs. To promote it, add
`--trainer.callbacks.promoted true` after `stop_epoch`, and `--ckpt_path` with the checkpoint that
`lightning-sotl rank` prints for it. Also add `--weights_only true`; otherwise Lightning runs any
code that the checkpoint contains.

With `lightning.pytorch`, the class paths are `lightning_sotl.lightning.SoTLMonitor` and
`lightning_sotl.lightning.EarlyRankingStopper`, and the imports here and in digits_model.py change.

Needs: pip install "jsonargparse[signatures]". Time: 7 s of one CPU core, most of it imports.
"""

from digits_model import DigitsModel
from pytorch_lightning.cli import LightningCLI


def main() -> None:
    """Train as configured on the command line."""
    LightningCLI(DigitsModel, seed_everything_default=0)


if __name__ == "__main__":
    main()
