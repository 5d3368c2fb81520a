"""The states of training loaders after a block, from before Lightning fetched the next batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_sotl.callbacks._monitored import MonitoredMetric
from lightning_sotl.callbacks._trainer import Trainer, has_fetched_ahead, loader_states


@dataclass
class LoaderStates:
    """The loader states with which a run can resume after its newest block.

    They are kept only for loaders from which Lightning fetches one batch ahead. The present states
    of such loaders would skip that batch.
    """

    after_block: list[Any] | None = None
    """None if no block was just completed, or if the present states are the right ones."""
    _after_next_batch: list[Any] | None = None

    def look_ahead(self, trainer: Trainer, metric: MonitoredMetric) -> None:
        """Note the states if the next batch ends a block; call it in `on_train_start`."""
        ahead = metric.completes_block_next and has_fetched_ahead(trainer)
        self._after_next_batch = loader_states(trainer) if ahead else None

    def update(self, trainer: Trainer, metric: MonitoredMetric) -> None:
        """Count a trained batch; call it in `on_train_batch_end`."""
        self.after_block = self._after_next_batch if metric.is_between_units else None
        self.look_ahead(trainer, metric)
