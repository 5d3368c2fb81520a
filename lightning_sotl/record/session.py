"""`Session`: what one process wrote about one run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Session:
    """What one process wrote about one run: a header and the lines below it.

    Attributes:
        run_id: The run; the sessions of a resumed run share it.
        folder: The folder of the record.
        facts: The header: what makes runs comparable.
        begun: The time of the header; not earlier than those above it in the same file.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after it.
        metrics: e -> the recorded metrics of that epoch, by name.
        status: The last status line; empty without one.
        alive: The newest time at which it is known to have been trained: that of its header, of its
            status, or of the headers above its last line in the same file.
    """

    run_id: str
    folder: Path
    facts: dict[str, Any]
    begun: float = -math.inf
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    alive: float = -math.inf

    def __post_init__(self) -> None:
        self.alive = max(self.alive, self.begun)
