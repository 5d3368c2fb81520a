"""Runs with every usual source of randomness, which tests stop and promote."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
)

from lightning_sotl import SoTLMonitor
from tests.support.helpers import StatefulLoader, lightning, trainer

pl = lightning()
callbacks = pl.callbacks


class Augmented(Dataset):
    """Samples that draw from the global generators of Python, NumPy and torch."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        noise = np.random.rand() + random.random()  # noqa: NPY002, S311
        return torch.randn(4) * 0.1 + index / 20 + noise


class Stream(StatefulLoader):
    """Random batches from a loader that can be resumed in the middle of an epoch."""

    def __iter__(self):
        for batch in super().__iter__():
            yield torch.randn(4, 4) * 0.1 + float(batch) / 20


class OwnOrder(StatefulLoader):
    """Draws the order of each epoch, and saves the number of orders drawn."""

    def __init__(self, n):
        super().__init__(n)
        self.drawn = 0

    def __iter__(self):
        self.drawn += not self.resumed or self.position == self.n
        order = np.random.default_rng(self.drawn).permutation(self.n)
        for batch in super().__iter__():
            yield torch.ones(4, 4) * order[int(batch)]

    def state_dict(self):
        return {**super().state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.drawn = state["drawn"]


class WithoutLength(StatefulLoader):
    """A loader from which Lightning fetches one batch ahead."""

    __len__ = None

    def __iter__(self):
        for batch in super().__iter__():
            yield torch.full((4, 4), float(batch) / 20)


class Numbers(IterableDataset):
    """20 samples that torchdata can resume."""

    def __init__(self):
        self.position, self.resumed = 0, False

    def __iter__(self):
        if not self.resumed:
            self.position = 0
        self.resumed = False
        while self.position < 20:
            self.position += 1
            yield torch.ones(4) * self.position / 20

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position, self.resumed = state["position"], True


def of_torchdata(dataset=None, **options):
    from torchdata.stateful_dataloader import StatefulDataLoader

    if dataset is None:
        dataset, options = Augmented(), {"shuffle": True, **options}
    return StatefulDataLoader(dataset, batch_size=4, **options)


class OwnGenerator(Sampler):
    """Draws the order of each epoch from its own generator."""

    def __init__(self, rng, draw):
        self.rng = rng
        self.draw = draw

    def __iter__(self):
        order = list(range(20))
        return iter(sorted(order, key=lambda _: self.draw(self.rng)))

    def __len__(self):
        return 20


class ShuffledInPlace(Sampler):
    """Shuffles its indices in place. Each epoch's order depends on the order before it."""

    def __init__(self, rng, indices):
        self.rng, self.indices = rng, indices

    def __iter__(self):
        self.rng.shuffle(self.indices)
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


class Noisy(Augmented):
    """Adds noise from its own generator; `collate` adds more."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def __getitem__(self, index):
        return torch.ones(4) * float(self.rng.random()) + index / 20

    def collate(self, samples):
        return torch.stack(samples) + float(self.rng.random())


class Mixing:
    """A collate function with its own generator."""

    def __init__(self):
        self.python = random.Random(7)  # noqa: S311

    def __call__(self, samples):
        return torch.stack(samples) * self.python.random()


def sampled(rng, draw=lambda rng: rng.random()):
    return DataLoader(Augmented(), batch_size=4, sampler=OwnGenerator(rng, draw))


class Net(pl.LightningModule):
    """A network with dropout, Adam and a schedule. It stores each loss and learning rate."""

    def __init__(self, schedule=None):
        super().__init__()
        self.schedule = schedule
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )
        self.steps = []

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append((self.trainer.current_epoch, batch_idx, float(loss.detach()), rate))
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch).mean() + torch.rand(()))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedulers = torch.optim.lr_scheduler
        if self.schedule is None:
            return optimizer
        if self.schedule == "plateau":  # with "max", a falling loss lowers the rate in each epoch
            schedule = schedulers.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0)
            config = {"scheduler": schedule, "monitor": "train_loss"}
        else:
            total, interval = 100, self.schedule
            if self.schedule == "all steps":
                # Lightning then sets up the loaders before it loads a checkpoint.
                total, interval = self.trainer.estimated_stepping_batches, "step"
            schedule = schedulers.OneCycleLR(optimizer, 0.1, total_steps=total)
            config = {"scheduler": schedule, "interval": interval}
        return {"optimizer": optimizer, "lr_scheduler": config}


def shuffled(generator=None, workers=0):
    return DataLoader(
        Augmented(), batch_size=4, shuffle=True, generator=generator, num_workers=workers
    )


def batch_sampled(generator):
    sampler = RandomSampler(Augmented(), generator=generator)
    return DataLoader(Augmented(), batch_sampler=BatchSampler(sampler, 4, False))


class Setting:
    def __init__(self, data=shuffled, *, schedule=None, val=True, stop=None, block=None, **options):
        self.data, self.schedule, self.val = data, schedule, val
        self.stop = stop or {"stop_epoch": 2}
        self.block = block
        self.callbacks = options.pop("callbacks", lambda: [])
        self.options = {"max_epochs": 4, "num_sanity_val_steps": 2, **options}

    def fit(self, folder, stopper=None, *, checkpoint=None, seed=0):
        pl.seed_everything(seed, verbose=False)
        model, monitor = Net(self.schedule), SoTLMonitor(every_n_train_batches=self.block)
        stoppers = [] if stopper is None else [stopper]
        run = trainer(
            folder,
            callbacks=[*stoppers, monitor, *self.callbacks()],
            enable_checkpointing=True,
            **self.options,
        )
        val = DataLoader(Augmented(), batch_size=10) if self.val else None
        run.fit(model, self.data(), val, ckpt_path=checkpoint)
        return model, monitor


IN_BLOCKS = {"block": 3, "stop": {"stop_batches": 6, "monitor": "sotl_b3_e1"}}


SETTINGS = {
    "validation": Setting(),
    "no validation": Setting(val=False),
    "two validations an epoch": Setting(val_check_interval=0.5),
    "validation every 2 epochs": Setting(check_val_every_n_epoch=2),
    "plateau": Setting(schedule="plateau"),
    "schedule by step": Setting(schedule="step"),
    "schedule by epoch": Setting(schedule="epoch"),
    "own generator": Setting(lambda: shuffled(torch.Generator().manual_seed(5))),
    "generator of a batch sampler": Setting(lambda: batch_sampled(torch.Generator())),
    "sampler with numpy's generator": Setting(lambda: sampled(np.random.default_rng(5))),
    "sampler with numpy's MT19937": Setting(
        lambda: sampled(np.random.Generator(np.random.MT19937(5)))
    ),
    "sampler with numpy's Philox": Setting(
        lambda: sampled(np.random.Generator(np.random.Philox(5)))
    ),
    "sampler with numpy's SFC64": Setting(lambda: sampled(np.random.Generator(np.random.SFC64(5)))),
    "sampler with numpy's RandomState": Setting(lambda: sampled(np.random.RandomState(5))),
    "sampler with Python's generator": Setting(lambda: sampled(random.Random(5))),  # noqa: S311
    "sampler with torch's generator": Setting(
        lambda: sampled(torch.Generator(), lambda rng: float(torch.rand((), generator=rng)))
    ),
    "sampler with generators in a dictionary of lists": Setting(
        lambda: sampled(
            {"order": [np.random.default_rng(5)]}, lambda rngs: float(rngs["order"][0].random())
        )
    ),
    "array that a sampler shuffles in place": Setting(
        lambda: DataLoader(
            Augmented(),
            batch_size=4,
            sampler=ShuffledInPlace(np.random.default_rng(5), np.arange(20)),
        )
    ),
    "list that a sampler shuffles in place": Setting(
        lambda: DataLoader(
            Augmented(),
            batch_size=4,
            sampler=ShuffledInPlace(random.Random(5), list(range(20))),  # noqa: S311
        )
    ),
    "dataset with a generator": Setting(
        lambda: DataLoader(Subset(Noisy(), range(20)), batch_size=4, shuffle=True)
    ),
    "collate function with a generator": Setting(
        lambda: DataLoader(Augmented(), batch_size=4, collate_fn=Mixing())
    ),
    "collate method with a generator": Setting(
        lambda: DataLoader(Augmented(), batch_size=4, collate_fn=Noisy().collate)
    ),
    "worker processes": Setting(lambda: shuffled(workers=1)),
    "accumulation": Setting(accumulate_grad_batches=2),
    "max_steps": Setting(max_steps=20, max_epochs=-1, schedule="plateau"),
    "cut by max_steps": Setting(max_steps=18, max_epochs=-1),
    "loader that draws its order": Setting(lambda: OwnOrder(5)),
    "new loader each epoch": Setting(reload_dataloaders_every_n_epochs=1),
    "new loader every 3 epochs": Setting(reload_dataloaders_every_n_epochs=3),
    "SWA": Setting(
        callbacks=lambda: [callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1)],
        stop={"stop_epoch": 1},
    ),
    "middle of the only epoch": Setting(lambda: Stream(20), **IN_BLOCKS, max_epochs=1),
    "middle of the second epoch": Setting(lambda: Stream(5), **IN_BLOCKS),
    "blocks, with a validation at the stop": Setting(
        lambda: Stream(20), **IN_BLOCKS, val_check_interval=6
    ),
    "blocks, with validations elsewhere": Setting(
        lambda: Stream(20), **IN_BLOCKS, val_check_interval=4
    ),
    "blocks, accumulation": Setting(lambda: Stream(20), **IN_BLOCKS, accumulate_grad_batches=2),
    "blocks, loader without a length": Setting(lambda: WithoutLength(20), **IN_BLOCKS),
    "blocks of one batch, loader without a length, validation at the stop": Setting(
        lambda: WithoutLength(20),
        block=1,
        stop={"stop_batches": 7, "monitor": "sotl_b1_e1"},
        val_check_interval=7,
    ),
    "blocks, schedule over all steps": Setting(
        lambda: Stream(20), **IN_BLOCKS, schedule="all steps"
    ),
    "torchdata": Setting(of_torchdata),
    "torchdata, part of each epoch": Setting(of_torchdata, limit_train_batches=3),
    "torchdata, without a length": Setting(lambda: of_torchdata(Numbers())),
    "torchdata, blocks": Setting(of_torchdata, **IN_BLOCKS),
    "torchdata, blocks, without a length": Setting(
        lambda: of_torchdata(Numbers()),
        block=3,
        stop={"stop_batches": 9, "monitor": "sotl_b3_e1"},
    ),
    "torchdata, blocks, schedule over all steps": Setting(
        of_torchdata, **IN_BLOCKS, schedule="all steps"
    ),
    "blocks, end of an epoch": Setting(lambda: Stream(6), **IN_BLOCKS),
    "blocks, end of an epoch, shuffled": Setting(
        block=5, stop={"stop_batches": 10, "monitor": "sotl_b5_e1"}
    ),
}
if hasattr(callbacks, "EMAWeightAveraging"):
    SETTINGS["averaged weights"] = Setting(callbacks=lambda: [callbacks.EMAWeightAveraging()])
