"""`LogKeys`: the logged keys to read from a directory of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LogKeys:
    """The logged keys to read. None means that a value is not wanted.

    Attributes:
        val_loss: The validation loss.
        val_metric: The validation metric.
        final_metric: The target. Its last value in a run counts.
        final_loss: The test loss. Its last value in a run counts.
        train_loss: Used as L(e) for runs with neither a record nor `<prefix>_e1`.
        others: Further keys whose values per epoch are wanted.
        prefix: The prefix of the monitor.
        block: N of a monitor with `every_n_train_batches=N`, whose units are blocks. None for
            epochs.
    """

    val_loss: str | None = None
    val_metric: str | None = None
    final_metric: str | None = None
    final_loss: str | None = None
    train_loss: str | None = None
    others: Sequence[str] = ()
    prefix: str = "sotl"
    block: int | None = None

    @property
    def unit(self) -> str | int:
        """The unit of L(e) as in a record's header: "epoch", or the block size."""
        return self.block or "epoch"

    @property
    def monitor(self) -> str:
        """The key under which a monitor logs L(e)."""
        return self.prefix + ("_e1" if self.block is None else f"_b{self.block}_e1")

    @property
    def losses(self) -> tuple[str, ...]:
        """The keys to read L(e) from without a record. The first one that a run logs counts.

        Empty for blocks, because logs do not show to which block a value belongs.
        """
        if self.block is not None:
            return ()
        return (self.monitor, *([self.train_loss] if self.train_loss else []))

    @property
    def curves(self) -> list[str]:
        """The keys whose values per epoch are wanted."""
        return [key for key in (self.val_loss, self.val_metric, *self.others) if key]

    @property
    def finals(self) -> list[str]:
        """The keys whose last values are wanted."""
        return [key for key in (self.final_metric, self.final_loss) if key]
