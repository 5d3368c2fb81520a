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
        run_id: The identity of the run. The sessions of a resumed run share it.
        folder: The folder of the record.
        facts: The header, with what makes runs comparable.
        begun: The time in the header, but not earlier than the headers above it in the same file.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after epoch e.
        metrics: e -> the recorded metrics of epoch e, by name.
        status: The last status line; empty without one.
        last_seen: The newest time at which the process is known to have been training: that of its
            header, of its status, or of a header above its last line in the same file.
    """

    run_id: str
    folder: Path
    facts: dict[str, Any]
    begun: float = -math.inf
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    last_seen: float = -math.inf

    def __post_init__(self) -> None:
        self.last_seen = max(self.last_seen, self.begun)
