"""What the callbacks need to know of a running Trainer and Lightning has no public word for."""

from __future__ import annotations

import math
from typing import Any

import torch

from lightning_sotl.losses.window import accumulation_dtype

# Either package's Trainer and LightningModule: this floor imports neither.
Trainer = Any
Module = Any


def trains_without_backward(trainer: Trainer) -> bool:
    """Return whether this is the extra epoch in which SWA refreshes BatchNorm statistics."""
    return bool(trainer.fit_loop._skip_backward)


def epoch_is_whole(trainer: Trainer) -> bool:
    """Return, at the epoch's end, whether its last batch was trained or its loader ran out.

    A loader without length that ends below `limit_train_batches` never sets `is_last_batch`; that
    it ran out is known to the data fetcher only. An epoch that was cut has neither. One that the
    module ends at its first batch has both, and was not trained.
    """
    loop = trainer.fit_loop
    began = loop.epoch_loop.batch_progress.current.started > 0
    fetcher = loop._data_fetcher
    return bool(began and (trainer.is_last_batch or (fetcher is not None and fetcher.done)))


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
    parts: list[Any] = []
    layer = list(trainer.fit_loop._combined_loader.flattened)
    for _ in range(3):  # a loader holds a batch sampler, which holds a sampler
        parts += [part for part in layer if all(part is not known for known in parts)]
        names = ("sampler", "batch_sampler")
        inner = [getattr(part, name, None) for part in layer for name in names]
        layer = [part for part in inner if part is not None]
    return parts


def begins_epoch_anew(trainer: Trainer) -> bool:
    """Return, in `on_train_start`, whether the next batch is the first of its epoch.

    So it is also where an exception has broken an epoch off and the same Trainer fits once more
    without a checkpoint: Lightning trains all of that epoch again.
    """
    return not trainer.fit_loop.restarting


def batches_behind(trainer: Trainer) -> int:
    """Return how many batches the run has trained, in all epochs; one that raised is none."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def batches_into_epoch(trainer: Trainer) -> int:
    """Return, in `on_train_start`, how many batches of its epoch a resumed run has behind it.

    0 between two epochs; all of them where Lightning is about to repeat an epoch's end.
    """
    progress = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.completed or begins_epoch_anew(trainer):
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)


def batches_not_seen(trainer: Trainer, seen: int) -> int:
    """Return, at an epoch's last batch, how many of its batches Lightning counts beside those seen.

    After some resumes it counts batches of another epoch as this one's, and trains only the rest.
    Where a loader has no length, its count goes on from epoch to epoch, and tells nothing.
    """
    if not math.isfinite(trainer.num_training_batches):
        return 0
    return max(0, int(trainer.fit_loop.epoch_loop.batch_progress.current.ready) - seen)


def train_whole_epochs_after_resume(trainer: Trainer) -> None:
    """Have Lightning train, in `on_train_start`, what the epoch still needs: no more and no less.

    A run that is resumed from the last batch of an epoch has finished that epoch by now, yet is
    taken for one in its middle: no `on_train_epoch_start` would be called for the next epoch, and
    the epoch would not be counted. Of the checkpoints of such a run, those saved inside an epoch
    begin it again when they are resumed, and those saved at its end skip the next one.

    A run that is resumed from `on_train_epoch_start` counts the batches of the epoch before as
    those of this one, of which it would train one more, or none with a validation.

    One that is resumed from inside the step of the last batch, as where that step has failed, has
    that batch before it, yet is taken to be at its end.
    """
    loop = trainer.fit_loop
    progress, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    if loop.restarted_mid_epoch and progress.ready == progress.completed:
        loop.reset_restart_stage()
    if loop.restarted_on_epoch_start:
        loop.epoch_loop.restarting = False
    if loop.epoch_loop.restarting and batches.current.processed < batches.current.ready:
        batches.is_last_batch = False


def has_pending_gradients(trainer: Trainer) -> bool:
    """Return, at a batch's end, whether gradients are accumulated that no step has used yet."""
    return bool(trainer.fit_loop._should_accumulate())


def validation_is_due(trainer: Trainer) -> bool:
    """Return, at a batch's end, whether Lightning will validate before the next batch."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def is_distributed(trainer: Trainer) -> bool:
    """Return whether several processes train together."""
    return int(trainer.world_size) > 1


def sum_over_ranks(trainer: Trainer, total: float, count: int) -> tuple[float, int]:
    """Return the sums of `total` and `count` over all ranks; all of them must call it."""
    device = trainer.strategy.root_device
    pair = torch.tensor([total, count], dtype=accumulation_dtype(device), device=device)
    total, summed_count = trainer.strategy.reduce(pair, reduce_op="sum").tolist()
    return total, int(summed_count)


def is_same_value(shown: Any, before: Any) -> bool:
    """Return whether a logged value is the very one that was shown before, not an equal new one.

    Lightning keeps showing what was logged in an earlier epoch, in new wrappers of the old memory.
    """
    if isinstance(shown, torch.Tensor) and isinstance(before, torch.Tensor):
        # `before` is alive, so no new value can have its memory.
        return shown.data_ptr() == before.data_ptr()
    return shown is before
