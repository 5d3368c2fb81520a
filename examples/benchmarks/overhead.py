"""Measures the cost of a callback per training step, inside ONE running Trainer.

A step sends 8 samples through 5 linear layers of width 32, on one thread. The benchmark adds each
callback to `trainer.callbacks` and removes it again, in alternating blocks of steps and in random
order. So all variants share the process, the data and the machine's drift. Medians show a typical
step. Totals also contain work that is done only once in a while.

Claim: SoTLMonitor costs at most 3 % of this small step in total, and most of it is Lightning's cost
of calling the hooks of any callback.
Time: about 2 minutes on one core, 10 s with `--smoke`.

    python examples/benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_sotl import SoTLMonitor

WIDTH, LAYERS, BATCH = 32, 5, 8


class Net(pl.LightningModule):
    """A network so small that the step is mostly Lightning's own loop."""

    def __init__(self) -> None:
        super().__init__()
        layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
        self.net = torch.nn.Sequential(*layers)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        (x,) = batch
        return (self.net(x) - x).pow(2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class NoHook(pl.Callback):
    """A callback that does nothing, to measure what any callback costs."""


class ItemToList(pl.Callback):
    """Appends each loss to a list, as many people do; `item` waits for the device."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


class MeanMetricUpdate(pl.Callback):
    """Feeds torchmetrics' MeanMetric."""

    def __init__(self) -> None:
        self.metric = MeanMetric()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.metric.update(outputs["loss"])


class SelfLog(pl.Callback):
    """Logs each loss through Lightning."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        module.log("loss", outputs["loss"], on_step=True, on_epoch=True, batch_size=BATCH)


class Alternate(pl.Callback):
    """Installs one variant for a block of steps, then the next, and times every step."""

    def __init__(self, variants: dict[str, pl.Callback | None], block: int, rounds: int) -> None:
        rng = np.random.default_rng(0)
        names = list(variants)
        self.variants, self.block = variants, block
        self.plan = [name for _ in range(rounds) for name in rng.permutation(names)]
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.step = 0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        now = time.perf_counter()
        position, inside = divmod(self.step, self.block)
        if inside > 1:  # the first step after a change pays for the change
            self.seconds[self.plan[position]].append(now - self.started)
        if inside == 0 and position < len(self.plan):
            active = self.variants[self.plan[position]]
            others = [cb for cb in trainer.callbacks if cb not in self.variants.values()]
            trainer.callbacks = others if active is None else [*others, active]
        if position >= len(self.plan):
            trainer.should_stop = True
        self.step += 1
        self.started = time.perf_counter()


def measure(block: int, rounds: int) -> dict[str, np.ndarray]:
    """Return variant -> time of each of its steps, in seconds."""
    variants: dict[str, pl.Callback | None] = {
        "without": None,
        "no hook of its own": NoHook(),
        "loss.item() to a list": ItemToList(),
        "SoTLMonitor": SoTLMonitor(record=False),
        "MeanMetric.update": MeanMetricUpdate(),
        "self.log(on_step, on_epoch)": SelfLog(),
    }
    alternate = Alternate(variants, block, rounds)
    data = TensorDataset(torch.randn(BATCH * 1000, WIDTH))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[alternate, *(cb for cb in variants.values() if cb is not None)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(data, batch_size=BATCH))
    return {name: np.array(seconds) for name, seconds in alternate.seconds.items()}


def interval(sums: np.ndarray, base_sums: np.ndarray) -> np.ndarray:
    """Return the 95% interval of the ratio of two totals, from resampled rounds."""
    rows = np.random.default_rng(1).integers(len(sums), size=(1000, len(sums)))
    ratios = sums[rows].sum(axis=1) / base_sums[rows].sum(axis=1)
    return np.quantile(ratios, [0.025, 0.975])


def report(seconds: dict[str, np.ndarray], rounds: int) -> str:
    """Print one row per variant, and return the final sentence."""
    base = seconds["without"]
    base_sums = base.reshape(rounds, -1).sum(axis=1)
    print(f"{'callback':<28}{'median us':>10}{'ratio':>8}{'total ratio':>13}{'95% interval':>18}")
    totals: dict[str, float] = {}
    for name, values in seconds.items():
        sums = values.reshape(rounds, -1).sum(axis=1)
        totals[name] = sums.sum() / base_sums.sum()
        low, high = interval(sums, base_sums)
        median = np.median(values)
        print(
            f"{name:<28}{median * 1e6:>10.0f}{median / np.median(base):>8.3f}"
            f"{totals[name]:>13.3f}{f'{low:.3f} to {high:.3f}':>18}"
        )
    return (
        f"SoTLMonitor adds {100 * (totals['SoTLMonitor'] - 1):.1f} % to a training step of "
        f"{np.median(base) * 1e3:.2f} ms; a callback without any hook adds "
        f"{100 * (totals['no hook of its own'] - 1):.1f} %."
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--smoke", action="store_true", help="a few rounds, for a quick check")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    warnings.filterwarnings("ignore")
    rounds = 5 if arguments.smoke else arguments.rounds
    print(report(measure(block=102, rounds=rounds), rounds))


if __name__ == "__main__":
    main()
