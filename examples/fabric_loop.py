"""Computes SoTL-E in a Lightning Fabric loop, on one process or several, and checks it.

Claim: in a hand-written loop, `SumOfTrainingLosses` computes what the callback computes in a
Trainer: the sum of the last epochs' training losses over all ranks. This holds although each rank
sees only its own batches and the loop accumulates gradients. All ranks have the same value, and it
equals the one that NumPy computes in float64 from the gathered losses.

Figure: each training loss of each rank, with the mean of each epoch.
Time: about 6 s on 2 CPU cores, 12 s with `--devices 2`.

    python examples/fabric_loop.py [--devices 2] [--seed 0] [--smoke] [--output DIR]
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _digits import build_network, load_splits, seeded
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_sotl import SumOfTrainingLosses, plotting

WINDOW = 2  # E, the number of epochs to sum
BATCH_SIZE = 32  # on each rank
ACCUMULATE = 2  # batches per optimizer step


@dataclass(frozen=True)
class Epoch:
    """The losses and estimates after an epoch.

    Attributes:
        losses: This epoch's training losses, in nats, shape `(ranks, batches)`.
        estimates: SoTL-E on each rank, in nats, shape `(ranks,)`; NaN before `WINDOW` epochs.
    """

    losses: np.ndarray
    estimates: np.ndarray


def train(fabric: Fabric, epochs: int) -> list[Epoch]:
    """Train a network on the digits; return losses and estimates of all ranks, on each rank."""
    network = build_network("conv", (16, 32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network, optimizer = fabric.setup(network, optimizer)
    # Fabric gives each rank its own share of the batches.
    loader = fabric.setup_dataloaders(DataLoader(load_splits().train, BATCH_SIZE, shuffle=True))

    metric = SumOfTrainingLosses(window=WINDOW).to(fabric.device)
    history = []
    for _ in range(epochs):
        losses = []
        for index, (images, labels) in enumerate(loader, 1):
            is_accumulating = index % ACCUMULATE != 0 and index != len(loader)
            with fabric.no_backward_sync(network, enabled=is_accumulating):
                loss = cross_entropy(network(images), labels)
                fabric.backward(loss / ACCUMULATE)
            metric.update(loss)  # the loss of the batch, not divided by ACCUMULATE
            losses.append(loss.detach())
            if not is_accumulating:
                optimizer.step()
                optimizer.zero_grad()
        metric.close_epoch()
        estimate = metric.compute()  # call it on every rank, because it sums over all of them
        history.append(Epoch(gather(fabric, torch.stack(losses)), gather(fabric, estimate)))
    return history


def gather(fabric: Fabric, values: torch.Tensor) -> np.ndarray:
    """Return the values of all ranks in float64, shape `(ranks, ...)`."""
    gathered = fabric.all_gather(values.double())
    return gathered.reshape(fabric.world_size, *values.shape).cpu().numpy()


def check(history: list[Epoch]) -> np.ndarray:
    """Return SoTL-E from the raw losses, shape `(epochs,)`, NaN before `WINDOW` epochs."""
    means = np.array([epoch.losses.mean() for epoch in history])
    starts = range(1 - WINDOW, len(means) - WINDOW + 1)
    return np.array([means[s : s + WINDOW].sum() if s >= 0 else np.nan for s in starts])


def report(history: list[Epoch]) -> str:
    """Print the table, and return one sentence on the metric's error."""
    expected = check(history)
    ranks, batches = history[0].losses.shape
    columns = [*(f"rank {rank}" for rank in range(ranks)), "raw losses", "difference"]
    print(f"\n{'':14}SoTL-E over {WINDOW} epochs, in nats")
    print(f"{'epoch':>5} {'loss':>8}" + "".join(f" {column:>19}" for column in columns))
    for index, (epoch, target) in enumerate(zip(history, expected, strict=True)):
        values = [f"{value:.16f}" for value in (*epoch.estimates, target)]
        values.append(f"{np.abs(epoch.estimates - target).max():g}")
        cells = values if np.isfinite(target) else ["-"] * len(values)
        row = f"{index:5} {epoch.losses.mean():8.4f}"
        print(row + "".join(f" {cell:>19}" for cell in cells))
    estimates = np.array([epoch.estimates for epoch in history])[WINDOW - 1 :]
    between = np.abs(estimates - estimates[:, :1]).max()
    error = np.abs(estimates - expected[WINDOW - 1 :, None]).max()
    return (
        f"After {len(history)} epochs of {batches} batches in "
        f"{'one process' if ranks == 1 else f'each of {ranks} processes'}, SoTL-E over {WINDOW} "
        f"epochs is {estimates[-1, 0]:.4f} nats; in all epochs, the ranks differ by at most "
        f"{between:g} nats, and the metric differs from the float64 means of the gathered losses "
        f"by at most {error:g} nats."
    )


def save_picture(path: Path, history: list[Epoch]) -> None:
    """Draw the losses of each rank over the batches, and the mean over all ranks of each epoch."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    losses = np.concatenate([epoch.losses for epoch in history], axis=1)
    batches = np.arange(losses.shape[1]) / history[0].losses.shape[1]
    for rank, of_rank in enumerate(losses):
        axes.plot(batches, of_rank, ".", markersize=3, label=f"training losses of rank {rank}")
    means = [epoch.losses.mean() for epoch in history]
    axes.stairs(means, range(len(means) + 1), baseline=None, color="black", label="epoch loss")
    axes.set(yscale="log", xlabel="epochs", ylabel="training loss (nats)")
    axes.legend(frameon=False)
    plotting.save(figure, path)


def main() -> None:
    """Launch the processes and train; the first process prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1, help="processes on the CPU")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and dropout")
    parser.add_argument("--smoke", action="store_true", help="3 epochs instead of 8")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "output", metavar="DIR"
    )
    options = parser.parse_args()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*all_gather is deprecated.*")  # Fabric's own use
    torch.set_num_threads(1)  # the processes share the machine

    strategy = "ddp" if options.devices > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=options.devices, strategy=strategy)
    fabric.launch()
    generator = np.random.default_rng(options.seed)
    # Each rank drops different units; all start from the weights of rank 0.
    seed = int(generator.integers(2**31, size=fabric.world_size)[fabric.global_rank])
    with seeded(seed):
        history = train(fabric, 3 if options.smoke else 8)
    if fabric.is_global_zero:
        sentence = report(history)
        picture = options.output / "fabric_loop.png"
        save_picture(picture, history)
        print(f"\npicture in {os.path.relpath(picture)}\n")
        print(sentence)
    if fabric.world_size > 1:  # torch may abort at exit if Fabric's gloo group is still open
        fabric.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
