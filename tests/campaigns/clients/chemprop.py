"""Chemprop's command line takes no callbacks and no checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "chemprop"
REQUIREMENTS = ["chemprop==2.3.1", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "`LIGHTNING_SOTL` and the command `chemprop train`"
USES_ENVIRONMENT = True
NO_RESUME = "the command takes no checkpoint"


def train(run: Run) -> None:
    import sys

    from chemprop.cli.main import main

    rows = ["smiles,y"]
    for element, mass in {"O": 16, "N": 14, "S": 32}.items():
        rows += [f"{'C' * left}{element}{'C' * left},{mass / left}" for left in range(1, 50)]
    data = run.folder / "molecules.csv"
    data.write_text("\n".join(rows))
    rate = str(run.learning_rate)
    sys.argv = [
        "chemprop",
        "train",
        *("--data-path", str(data), "--task-type", "regression", "--epochs", str(run.epochs)),
        *("--init-lr", rate, "--max-lr", rate, "--final-lr", rate),
        *("--message-hidden-dim", "16", "--ffn-hidden-dim", "16", "--dropout", "0.1"),
        *("--batch-size", "32", "--num-workers", "0", "--pytorch-seed", "0"),
        *("--accelerator", "cpu", "--output-dir", str(run.folder / "output")),
    ]
    main()
