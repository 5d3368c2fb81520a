"""Candidates, a network, a `train` function and sweeps, which the tests of sweeps share."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_sotl import AdaptivePolicy
from tests.support.helpers import door, lightning

POLICY = AdaptivePolicy(max_epochs=6, first=2)
CANDIDATES = [{"width": width, "lr": lr} for width in (2, 8) for lr in (0.01, 0.1, 0.5)]
INPUTS = torch.linspace(-1, 1, 96).reshape(24, 4)
LABELS = (INPUTS.sum(dim=1) > 0).long()


def make_net(package="pytorch_lightning", *, width, lr, steps=None, plateau=False):
    pl = lightning(package)

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": width, "lr": lr})
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(4, width),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.2),
                torch.nn.Linear(width, 2),
            )

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
            if steps is not None:
                steps.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
            return loss

        def validation_step(self, batch, batch_idx):
            correct = self.layers(batch[0]).argmax(dim=1) == batch[1]
            self.log("val_acc", correct.float().mean())
            self.log("val_loss", torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)
            if plateau:
                schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
                return {
                    "optimizer": optimizer,
                    "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
                }
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
            return [optimizer], [schedule]

    return Net()


def loaders():
    data = TensorDataset(INPUTS, LABELS)
    return DataLoader(data, batch_size=6, shuffle=True), DataLoader(data, batch_size=24)


def trainer(folder, callbacks, package="pytorch_lightning", **options):
    return lightning(package).Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        **{
            "max_epochs": 6,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
            **options,
        },
    )


class Training:
    """A `train` function that stores the steps of each run and all turns."""

    def __init__(self, package="pytorch_lightning", *, plateau=False, loaders=loaders, **options):
        self.loaders = loaders
        self.package, self.plateau, self.options = package, plateau, options
        self.steps = {}
        self.turns = []

    def __call__(self, turn):
        self.turns.append((turn.run_id, turn.start_epoch, turn.stop_epoch))
        steps = self.steps.setdefault(turn.run_id, [])
        lightning(self.package).seed_everything(7, verbose=False)
        net = make_net(self.package, **turn.params, steps=steps, plateau=self.plateau)
        run = trainer(turn.directory, turn.callbacks, self.package, **self.options)
        turn.fit(run, net, *self.loaders())

    def alone(self, folder, params):
        """Return the weights and steps of an uninterrupted run without our callbacks."""
        steps = []
        lightning(self.package).seed_everything(7, verbose=False)
        net = make_net(self.package, **params, steps=steps, plateau=self.plateau)
        trainer(folder, [], self.package, **self.options).fit(net, *self.loaders())
        return net.state_dict(), steps


def make_sweep(folder, candidates=CANDIDATES, package="pytorch_lightning", **options):
    return door(package).Sweep(folder, candidates, policy=POLICY, **options)
