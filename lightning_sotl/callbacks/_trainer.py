"""Access to the parts of a Trainer for which Lightning has no public API.

Only this file uses private names of Lightning. Tests with a real Trainer pin each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from lightning_sotl.losses.window import accumulation_dtype

# The Trainer and LightningModule of either package; the callbacks import neither.
Trainer = Any
Module = Any


def trains_without_backward(trainer: Trainer) -> bool:
    """Return whether this is the extra epoch in which SWA updates BatchNorm statistics."""
    return bool(trainer.fit_loop._skip_backward)


def epoch_is_whole(trainer: Trainer) -> bool:
    """Return, at the end of an epoch, whether the epoch is complete.

    It is complete if its last batch was trained, its loader ran out, or its module ended it
    (`on_train_batch_start` returned -1). If a loader without a length ends before
    `limit_train_batches`, `is_last_batch` stays False, and only the data fetcher knows that the
    loader ran out. If the module ends an epoch, Lightning 2.5 leaves both False, but counts the
    batch that it skips as processed. If that is the first batch, nothing was trained.
    """
    loop = trainer.fit_loop
    batches, fetcher = loop.epoch_loop.batch_progress.current, loop._data_fetcher
    ran_out = fetcher is not None and fetcher.done
    was_ended = batches.processed > batches.completed
    return bool(batches.started > 0 and (trainer.is_last_batch or ran_out or was_ended))


def logging_step(trainer: Trainer) -> int:
    """Return the x coordinate at which Lightning logs the current batch."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def limits_allow_stop(trainer: Trainer, epochs: int) -> bool:
    """Return whether `min_epochs` and `min_steps` are met after `epochs` completed epochs.

    If `should_stop` were set earlier, Lightning would log every step and could end an epoch in its
    middle.
    """
    loop = trainer.fit_loop
    return epochs >= (loop.min_epochs or 0) and trainer.global_step >= (loop.min_steps or 0)


def training_loaders(trainer: Trainer) -> list[Any]:
    """Return the training loaders, then their samplers and batch samplers, without duplicates."""
    parts: dict[int, Any] = {}  # by id
    layer = trainer.fit_loop._combined_loader.flattened
    for _ in range(3):  # a loader holds a batch sampler, which holds a sampler
        parts |= {id(part): part for part in layer if part is not None}
        names = ("sampler", "batch_sampler")
        layer = [getattr(part, name, None) for part in layer for name in names]
    return list(parts.values())


def is_at_epoch_start(trainer: Trainer) -> bool:
    """Return, in `on_train_start`, whether the next batch is the first of its epoch.

    It is also True if an exception ended the epoch and the same Trainer fits again without a
    checkpoint, because Lightning then repeats the whole epoch.
    """
    return not trainer.fit_loop.restarting


def trained_batches(trainer: Trainer) -> int:
    """Return how many batches the run has trained in all epochs, without a batch that raised."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def completed_epochs(trainer: Trainer) -> int:
    """Return, in `on_train_start`, how many epochs the run has completed."""
    return int(trainer.fit_loop.epoch_progress.current.processed)


def batches_into_epoch(trainer: Trainer) -> int:
    """Return, in `on_train_start`, how many batches of its epoch a resumed run has already trained.

    The result is 0 between two epochs. It is the length of the epoch if Lightning is about to
    repeat the end of that epoch.
    """
    progress = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.completed or is_at_epoch_start(trainer):
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)


def batches_not_seen(trainer: Trainer, seen: int) -> int:
    """Return, at an epoch's last batch, how many more batches Lightning counts than were `seen`.

    After some resumes, Lightning counts batches of another epoch in this epoch and trains only the
    remaining ones. If the loader has no length, Lightning does not restart the count at each epoch,
    so the result is 0.
    """
    if not math.isfinite(trainer.num_training_batches):
        return 0
    return max(0, int(trainer.fit_loop.epoch_loop.batch_progress.current.ready) - seen)


def train_whole_epochs_after_resume(trainer: Trainer) -> None:
    """Correct, in `on_train_start`, positions that Lightning keeps or restores wrongly.

    1. The checkpoint was saved at an epoch's last batch. The epoch is complete, but Lightning
       treats it as unfinished: it would not call `on_train_epoch_start` for the next epoch, and
       would not count that epoch. Resuming from a later checkpoint would then repeat an epoch (if
       saved inside it) or skip one (if saved at its end).
    2. The checkpoint was saved in `on_train_epoch_start`. Lightning counts the batches of the
       previous epoch in this epoch. It would train only one batch, or none with validation.
    3. The checkpoint was saved at the end of an epoch, and the Trainer has `max_steps`. Lightning
       treats the epoch as unfinished. It would train one more batch of it or only one batch of the
       next epoch, or count an epoch without a batch.
    4. The checkpoint was saved during the step of the last batch, for example because that step
       failed. The batch has not been trained, but Lightning treats the epoch as complete.
    5. The module has read `estimated_stepping_batches`, for example for a schedule, which sets up
       the loaders before the checkpoint is loaded. Lightning does not restore their states.
    6. An exception ended an epoch, and the same Trainer fits again without a checkpoint. Lightning
       repeats the epoch, but counts it twice as begun. A run that resumes from a later checkpoint
       between two epochs would then be taken for one inside an epoch.
    """
    loop = trainer.fit_loop
    epochs = (loop.epoch_progress.current, loop.epoch_progress.total)
    batches = loop.epoch_loop.batch_progress
    if is_at_epoch_start(trainer):
        for tracker in epochs:
            tracker.ready = tracker.started = tracker.completed = tracker.processed
    if loop.restarting and (states := loop._combined_loader_states_to_load):
        loop._combined_loader_states_to_load = []
        restart_loaders(trainer, states)
    if loop.restarted_on_epoch_end:
        for tracker in epochs:
            tracker.completed = tracker.processed
    if loop.restarted_on_epoch_start:
        loop.epoch_loop.restarting = False
    elif loop.restarting and epochs[0].ready == epochs[0].completed:
        if not loop.restarted_mid_epoch:
            loop.epoch_loop.restarting = loop._restarting = False
        loop.reset_restart_stage()
    if loop.epoch_loop.restarting and batches.current.processed < batches.current.ready:
        batches.is_last_batch = False


def correct_batch_totals(checkpoint: dict[str, Any]) -> None:
    """Correct the counts of a run's batches in a checkpoint, before Lightning loads them.

    If an exception ended an earlier epoch, or the module did (`on_train_batch_start` returned -1),
    Lightning counts the last batch as begun but not as completed. From then on, it does not
    recognize whether a checkpoint was saved at the end of a batch, and would train a batch too many
    or too few. The counts within the current epoch are right, so the totals follow from them.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})  # Lightning allows both to be absent
    if progress := loop.get("epoch_loop.batch_progress"):
        total, current = progress["total"], progress["current"]
        for stage in ("started", "processed", "completed"):
            total[stage] = total["ready"] - (current["ready"] - current[stage])


def has_pending_gradients(trainer: Trainer) -> bool:
    """Return, at a batch's end, whether there are accumulated gradients not yet applied."""
    return bool(trainer.fit_loop._should_accumulate())


def validation_is_due(trainer: Trainer) -> bool:
    """Return, at a batch's end, whether Lightning will validate before the next batch."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def sum_over_ranks(trainer: Trainer, total: float, count: int) -> tuple[float, int]:
    """Return the sums of `total` and `count` over all ranks; every rank must call it."""
    device = trainer.strategy.root_device
    pair = torch.tensor([total, count], dtype=accumulation_dtype(device), device=device)
    total, summed_count = trainer.strategy.reduce(pair, reduce_op="sum").tolist()
    return total, int(summed_count)


def is_same_value(shown: Any, before: Any) -> bool:
    """Return whether a logged value is the same object as before, not an equal new value.

    Lightning keeps returning values of earlier epochs, as new tensors that share the old memory.
    """
    if isinstance(shown, torch.Tensor) and isinstance(before, torch.Tensor):
        # `before` is still alive, so no new value can have its address.
        return shown.data_ptr() == before.data_ptr()
    return shown is before


def is_spawned(trainer: Trainer) -> bool:
    """Return whether `fit` runs on copies in child processes."""
    return hasattr(trainer.strategy.launcher, "_start_method")


def loader_states(trainer: Trainer) -> list[Any]:
    """Return the states of those training loaders that have a state."""
    states: list[Any] = trainer.fit_loop._combined_loader._state_dicts()
    return states


def restart_loaders(trainer: Trainer, states: list[Any]) -> None:
    """Restore, in `on_train_start`, the states of the loaders, and fetch from there."""
    loop = trainer.fit_loop
    loop._combined_loader._load_state_dicts(states)
    iter(loop._data_fetcher)


def end_epoch_of_loaders(trainer: Trainer, states: list[Any]) -> None:
    """Undo, in `on_train_start`, Lightning's start of the next epoch of the loaders.

    A loader of torchdata is left as it is, because its next iterator begins a new epoch. If it
    loaded its state from the end of an epoch again, that iterator would yield nothing.

    Args:
        trainer: The Trainer.
        states: What `loader_states` returned at the end of the epoch.
    """
    loaders = _stateful_loaders(trainer) if states else []
    for loader, state in zip(loaders, states, strict=True):
        if not any(base.__module__.startswith("torchdata.") for base in type(loader).mro()):
            loader.load_state_dict(state)


def has_fetched_ahead(trainer: Trainer) -> bool:
    """Return whether Lightning has fetched the next batch, as it does for loaders without a length.

    The states of the loaders are then one batch ahead of the training.
    """
    return bool(getattr(trainer.fit_loop._data_fetcher, "batches", None))


def has_loader_without_state(trainer: Trainer) -> bool:
    """Return whether a training loader starts again if the run resumes inside an epoch."""
    return len(_stateful_loaders(trainer)) < len(trainer.fit_loop._combined_loader.flattened)


def _stateful_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders whose states Lightning saves."""
    return [
        loader
        for loader in trainer.fit_loop._combined_loader.flattened
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    ]


def start_next_epoch_fresh(trainer: Trainer) -> None:
    """Make Lightning begin the next epoch as in a run that was not resumed.

    This corrects three differences:

    - An uninterrupted run creates its data iterator, and thus draws its shuffle, when the next
      epoch begins. A resumed run has created the iterator before the random state was restored.
    - With `max_steps`, a resumed run treats the finished epoch as unfinished. It trains no batch of
      this epoch and counts it again.
    - A resumed run would not reload a loader that is due to be reloaded.
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
    """Let a checkpoint in `on_train_epoch_start` be saved as if the epoch had not begun.

    Lightning has already counted the epoch as ready, so a run that resumes from this checkpoint
    would skip the epoch.
    """
    _count_ready(trainer, -1)
    try:
        yield
    finally:
        _count_ready(trainer, +1)


def end_epoch_loop(trainer: Trainer) -> NoReturn:
    """End Lightning's loop over the epochs in `on_train_epoch_start`, even below its minima."""
    _count_ready(trainer, -1)
    raise StopIteration


def _count_ready(trainer: Trainer, change: int) -> None:
    progress = trainer.fit_loop.epoch_progress
    progress.total.ready += change
    progress.current.ready += change


@dataclass(frozen=True)
class MonitoringSchedule:
    """When an EarlyStopping or a ModelCheckpoint reads the metric that it monitors.

    Attributes:
        is_early_stopping: Whether the callback is an EarlyStopping and not a ModelCheckpoint.
        at_epoch_end: Whether it reads the metric at the end of epochs and not after validations.
        every_n_epochs: The number of epochs from one reading to the next.
        raises_if_missing: Whether it raises an error if the metric has no value.
    """

    is_early_stopping: bool
    at_epoch_end: bool
    every_n_epochs: int
    raises_if_missing: bool


def monitoring_schedule(trainer: Trainer, callback: Any) -> MonitoringSchedule | None:
    """Return when a callback reads its metric, or None if it does not monitor a metric."""
    if hasattr(callback, "_check_on_train_epoch_end"):
        return MonitoringSchedule(
            is_early_stopping=True,
            at_epoch_end=callback._check_on_train_epoch_end,
            every_n_epochs=1,
            raises_if_missing=callback.strict,
        )
    if hasattr(callback, "_should_save_on_train_epoch_end"):
        every = callback._every_n_epochs
        # With `every_n_train_steps` it waits for the value. Without validation it only warns.
        return MonitoringSchedule(
            is_early_stopping=False,
            at_epoch_end=callback._should_save_on_train_epoch_end(trainer),
            every_n_epochs=every,
            raises_if_missing=every >= 1 and trainer.enable_validation,
        )
    return None
