"""What the callbacks need from a Trainer and Lightning has no public name for.

Every private name of Lightning that this package uses is in this file, and tests on a real Trainer
pin each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

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

    If a loader without a length ends before `limit_train_batches`, `is_last_batch` stays false and
    only the data fetcher knows that the loader ran out. Neither is true of an epoch that was cut
    short. If the module ends an epoch at its first batch, both are, but nothing was trained.
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
    parts: dict[int, Any] = {}  # by id
    layer = trainer.fit_loop._combined_loader.flattened
    for _ in range(3):  # a loader holds a batch sampler, which holds a sampler
        parts |= {id(part): part for part in layer if part is not None}
        names = ("sampler", "batch_sampler")
        layer = [getattr(part, name, None) for part in layer for name in names]
    return list(parts.values())


def is_at_epoch_start(trainer: Trainer) -> bool:
    """Return, in `on_train_start`, whether the next batch is the first of its epoch.

    This includes an epoch that an exception ended, if the same Trainer fits again without a
    checkpoint: Lightning then repeats the whole epoch.
    """
    return not trainer.fit_loop.restarting


def trained_batches(trainer: Trainer) -> int:
    """Return how many batches the run has trained in all epochs, except one that raised."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def completed_epochs(trainer: Trainer) -> int:
    """Return, in `on_train_start`, how many epochs the run has completed."""
    return int(trainer.fit_loop.epoch_progress.current.processed)


def batches_into_epoch(trainer: Trainer) -> int:
    """Return, in `on_train_start`, how many batches of its epoch a resumed run has behind it.

    0 between two epochs; all of them where Lightning is about to repeat an epoch's end.
    """
    progress = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.completed or is_at_epoch_start(trainer):
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)


def batches_not_seen(trainer: Trainer, seen: int) -> int:
    """Return, at an epoch's last batch, how many batches Lightning counts beyond the `seen` ones.

    After some resumes Lightning counts batches of another epoch in this one, and trains only the
    rest. If a loader has no length, the count never restarts at an epoch, so the answer is 0.
    """
    if not math.isfinite(trainer.num_training_batches):
        return 0
    return max(0, int(trainer.fit_loop.epoch_loop.batch_progress.current.ready) - seen)


def train_whole_epochs_after_resume(trainer: Trainer) -> None:
    """Correct, in `on_train_start`, three positions that Lightning restores wrongly.

    Resumed from an epoch's last batch, a run has finished that epoch, but Lightning treats it as
    mid-epoch: it would not call `on_train_epoch_start` for the next epoch, nor count it. Resuming
    from a later checkpoint would repeat an epoch (saved inside it) or skip one (saved at its end).

    Resumed from `on_train_epoch_start`, Lightning counts the previous epoch's batches in this one
    and would train only one more, or none if there is validation.

    Resumed from inside the step of the last batch, for example because that step failed, the batch
    is still to be trained, but Lightning treats the epoch as complete.
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


def is_spawned(trainer: Trainer) -> bool:
    """Return whether `fit` runs on copies in child processes."""
    return hasattr(trainer.strategy.launcher, "_start_method")


def loader_states(trainer: Trainer) -> list[Any]:
    """Return the states of the training loaders that have one."""
    states: list[Any] = trainer.fit_loop._combined_loader._state_dicts()
    return states


def set_loader_states(trainer: Trainer, states: list[Any]) -> None:
    """Restore what `loader_states` returned."""
    trainer.fit_loop._combined_loader._load_state_dicts(states)


def start_next_epoch_fresh(trainer: Trainer) -> None:
    """Make Lightning begin the next epoch as in a run that was not resumed.

    Between epochs, an uninterrupted run creates its iterator, and so draws its shuffle, when the
    next epoch begins; a resumed run has created it before the random state was restored. With
    `max_steps`, a resumed run also treats the finished epoch as unfinished: it runs no batch of it
    and counts it again. Finally, a loader that is due to be reloaded would not be.
    """
    loop = trainer.fit_loop
    loop.epoch_loop.restarting = False
    loop._restarting = False
    loop._resuming_from_checkpoint = False
    every = trainer.reload_dataloaders_every_n_epochs
    if every:
        loop._last_train_dl_reload_epoch = (trainer.current_epoch - 1) // every * every


@contextmanager
def before_epoch(trainer: Trainer) -> Iterator[None]:
    """Save, in `on_train_epoch_start`, as if that epoch had not begun yet.

    Lightning has counted the epoch as ready, and a run that is resumed from there would skip it.
    """
    _count_ready(trainer, -1)
    try:
        yield
    finally:
        _count_ready(trainer, +1)


def end_epoch_loop(trainer: Trainer) -> NoReturn:
    """End, in `on_train_epoch_start`, Lightning's loop over the epochs, whatever its minima."""
    _count_ready(trainer, -1)
    raise StopIteration


def _count_ready(trainer: Trainer, change: int) -> None:
    progress = trainer.fit_loop.epoch_progress
    progress.total.ready += change
    progress.current.ready += change


@dataclass(frozen=True)
class Look:
    """When a callback of Lightning looks at the metric that it monitors.

    Attributes:
        stops: Whether it is an EarlyStopping, and otherwise a ModelCheckpoint.
        at_epoch_end: Whether it looks at the end of an epoch; otherwise after validations.
        every: Every how many epochs it looks.
        raises: Whether it raises if there is no value.
    """

    stops: bool
    at_epoch_end: bool
    every: int
    raises: bool


def look_of(trainer: Trainer, callback: Any) -> Look | None:
    """Return when a callback looks at its metric; None for callbacks that do not monitor one."""
    if hasattr(callback, "_check_on_train_epoch_end"):
        return Look(True, callback._check_on_train_epoch_end, every=1, raises=callback.strict)
    if hasattr(callback, "_should_save_on_train_epoch_end"):
        every = callback._every_n_epochs
        # One that saves by steps waits for the value, and one without validation only warns.
        raises = every >= 1 and trainer.enable_validation
        return Look(False, callback._should_save_on_train_epoch_end(trainer), every, raises)
    return None
