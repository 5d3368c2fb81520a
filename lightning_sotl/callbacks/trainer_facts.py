"""What the callbacks need to know of a running Trainer and Lightning has no public word for."""

from __future__ import annotations

from typing import Any

import torch

from lightning_sotl.window import accumulation_dtype

# Either package's Trainer and LightningModule: this floor imports neither.
Trainer = Any
Module = Any


def trains_without_backward(trainer: Trainer) -> bool:
    """Return whether this is the extra epoch in which SWA refreshes BatchNorm statistics."""
    return bool(trainer.fit_loop._skip_backward)


def epoch_is_whole(trainer: Trainer) -> bool:
    """Return, at the epoch's end, whether its last batch was trained or its loader ran out.

    A loader without length that ends below `limit_train_batches` never sets `is_last_batch`; that
    it ran out is known to the data fetcher only. An epoch that was cut has neither.
    """
    fetcher = trainer.fit_loop._data_fetcher
    return bool(trainer.is_last_batch or (fetcher is not None and fetcher.done))


def logging_step(trainer: Trainer) -> int:
    """Return Lightning's own x coordinate for what is logged at this batch."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def limits_allow_stop(trainer: Trainer, epochs: int) -> bool:
    """Return whether `min_epochs` and `min_steps` are met after `epochs` completed epochs.

    To set `should_stop` before they are would log every step and end an epoch in its middle.
    """
    loop = trainer.fit_loop
    return epochs >= (loop.min_epochs or 0) and trainer.global_step >= (loop.min_steps or 0)


def training_loaders(trainer: Trainer) -> list[Any]:
    """Return the training loaders, and then their samplers and batch samplers, each once."""
    parts = list(trainer.fit_loop._combined_loader.flattened)
    for part in parts:  # grows: a batch sampler holds a sampler, which may hold another
        inner = (getattr(part, name, None) for name in ("sampler", "batch_sampler"))
        parts += [one for one in inner if one is not None and all(one is not p for p in parts)]
    return parts


def is_distributed(trainer: Trainer) -> bool:
    """Return whether several processes train together."""
    return int(trainer.world_size) > 1


def sum_over_ranks(trainer: Trainer, total: float, count: int) -> tuple[float, int]:
    """Return the sums of `total` and `count` over all ranks; all of them must call it."""
    device = trainer.strategy.root_device
    pair = torch.tensor([total, count], dtype=accumulation_dtype(device), device=device)
    total, summed_count = trainer.strategy.reduce(pair, reduce_op="sum").tolist()
    return total, int(summed_count)
