"""Trains one language model by Lightning in a single pass over the text."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from corpus import Bytes, read_corpus
from networks import RecurrentNetwork, Transformer
from pytorch_lightning import Callback, LightningModule, Trainer
from run_plan import Recipe, Run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sotl import SoTLMonitor

BETAS = (0.9, 0.95)
CLIP = 1.0
HELD_OUT_BATCH = 32
DIGITS = 7  # after the decimal point; a float32 loss of 1 to 4 nats has no more


class Batches:
    """A loader of sequences in memory, as int64 tensors of shape `(batch, context)`."""

    def __init__(self, sequences: Bytes, batch_size: int) -> None:
        self.sequences, self.batch_size = torch.from_numpy(sequences.copy()), batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.sequences) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.sequences.split(self.batch_size):
            yield batch.long()


class LanguageModel(LightningModule):
    """Minimizes the mean cross-entropy of all bytes, and keeps the validation losses by batch."""

    def __init__(self, network: nn.Module, run: Run, steps: int) -> None:
        super().__init__()
        self.network, self.run_settings, self.steps = network, run, steps
        self.val_losses: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.network, batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.val_losses.append(float(loss_of(self.network, batch)))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = make_optimizer(self.network, self.run_settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, self.steps, self.run_settings.warmup)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class PartClock(Callback):
    """Adds up the processor time of this process for training and for validation, in seconds."""

    def __init__(self) -> None:
        self.seconds = {"train": 0.0, "validation": 0.0}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("train")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add("train")

    def _add(self, part: str) -> None:
        now = time.process_time()
        self.seconds[part] += now - self._since
        self._since = now


def loss_of(network: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean cross-entropy of the bytes of a batch, in nats."""
    return cross_entropy(network(batch).flatten(0, 1), batch.flatten())


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest learning rate at a step: linear warm-up, then a cosine to 0.

    Examples:
        >>> [round(rate_at(step, 10, 0.2), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def build_network(recipe: Recipe, run: Run) -> nn.Module:
    """Return the run's network; its weights are drawn from torch's generator."""
    if run.architecture == "gru":
        return RecurrentNetwork(depth=run.depth, width=run.width, dropout=run.dropout)
    return Transformer(
        context=recipe.context,
        depth=run.depth,
        width=run.width,
        heads=run.heads,
        dropout=run.dropout,
    )


def make_optimizer(network: nn.Module, run: Run) -> torch.optim.Optimizer:
    """Return AdamW; weight decay acts on matrices, and not on biases and the scales of norms."""
    parameters = list(network.parameters())
    groups = [
        {"params": [each for each in parameters if each.ndim > 1]},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=run.learning_rate, betas=BETAS, weight_decay=run.weight_decay, fused=True
    )


def training_text(recipe: Recipe, run: Run) -> Bytes:
    """Return the run's sequences in the order of training; each sequence of the text occurs once.

    Raises:
        ValueError: If the text has too few sequences for all blocks.
    """
    sequences = held_text(recipe).train
    wanted = recipe.blocks * recipe.block_sequences
    if len(sequences) < wanted:
        raise ValueError(f"Expected at least {wanted} sequences but got {len(sequences)}.")
    return sequences[np.random.default_rng(run.repeat).permutation(len(sequences))[:wanted]]


def held_text(recipe: Recipe) -> Any:
    """Return the corpus at the recipe's context."""
    return read_corpus(recipe.context, validation=recipe.validation, test=recipe.test)


def train_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Train a run to the end and test it.

    Returns:
        The run; its losses in nats a byte, rounded to 7 decimals, with None for one that is not
        finite: `train_loss`, the means L(e) of the blocks, from the monitor; `val_loss` after each
        block, and `val_loss_quarter` on the first quarter of the validation sequences; `test_loss`
        at the end; and the seconds of processor time of each part.
    """
    texts = held_text(recipe)
    steps_per_block = recipe.block_sequences // run.batch_size
    steps = recipe.blocks * steps_per_block
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = build_network(recipe, run)
        model = LanguageModel(network, run, steps)
        clock = PartClock()
        monitor = SoTLMonitor(every_n_train_batches=steps_per_block, record=False)
        trainer = make_trainer(steps_per_block, [monitor, clock])
        trainer.fit(
            model,
            Batches(training_text(recipe, run), run.batch_size),
            Batches(texts.validation, min(HELD_OUT_BATCH, recipe.validation // 4)),
        )
    since = time.process_time()
    test_loss = evaluate(network, texts.test)
    test_seconds = time.process_time() - since
    passes = np.array(model.val_losses).reshape(recipe.blocks, -1)
    return {
        **asdict(run),
        "parameters": sum(each.numel() for each in network.parameters()),
        "train_loss": [_rounded(monitor.epoch_losses[block]) for block in range(recipe.blocks)],
        "val_loss": [_rounded(each) for each in passes.mean(axis=1)],
        "val_loss_quarter": [
            _rounded(each) for each in passes[:, : passes.shape[1] // 4].mean(axis=1)
        ],
        "test_loss": _rounded(test_loss),
        "seconds": {
            name: round(value, 3) for name, value in {**clock.seconds, "test": test_seconds}.items()
        },
    }


def evaluate(network: nn.Module, sequences: Bytes) -> float:
    """Return the mean cross-entropy in nats a byte, without dropout."""
    network.eval()
    with torch.inference_mode():
        batches = Batches(sequences, HELD_OUT_BATCH)
        losses = [float(loss_of(network, batch)) * len(batch) for batch in batches]
    return sum(losses) / len(sequences)


def make_trainer(steps_per_block: int, callbacks: list[Callback]) -> Trainer:
    """Return a Trainer for one epoch with a validation after each block; it writes nothing."""
    return Trainer(
        max_epochs=1,
        val_check_interval=steps_per_block,
        gradient_clip_val=CLIP,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def quieten() -> None:
    """Silence Lightning's notes on each of many Trainers, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data are tensors in memory
        ".*LeafSpec.*",  # Lightning's own use of torch's pytree
    ):
        warnings.filterwarnings("ignore", message)


def _rounded(loss: float) -> float | None:
    return round(float(loss), DIGITS) if math.isfinite(loss) else None
