"""The code that a spawned process runs in `test_imports_and_processes`."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

ATTRIBUTES = {
    "SoTLMonitor": [
        "window",
        "ema_decay",
        "every_n_train_batches",
        "loss_key",
        "prefix",
        "prog_bar",
        "epoch_axis",
        "record",
        "metric_names",
        "epoch_losses",
        "estimates",
        "units_completed",
        "is_between_units",
        "run_id",
        "state_key",
    ],
    "EarlyRankingStopper": [
        "stop_epoch",
        "stop_batches",
        "monitor",
        "promoted",
        "hp_metric",
        "policy",
        "directory",
        "estimate",
        "epochs_completed",
        "stopping_reason",
        "checkpoint_path",
        "decision",
        "state_key",
    ],
    "OptunaReporter": ["monitor", "validation", "validation_mode", "state_key"],
    "RayReporter": ["monitor", "metrics", "checkpoint_every", "stopped_by_ray", "state_key"],
}


def describe(callback: Any) -> dict[str, Any]:
    """Return a callback's class, public attributes and saved state, in plain types."""
    kind = type(callback)
    values = {name: getattr(callback, name) for name in ATTRIBUTES[kind.__name__]}
    values = {
        name: str(v) if name in ("policy", "stopping_reason") else v for name, v in values.items()
    }
    return {"class": f"{kind.__module__}.{kind.__name__}", "state": callback.state_dict(), **values}


def send_descriptions(connection: Connection, callbacks: list[Any]) -> None:
    """Send the descriptions of callbacks that this process received by pickle."""
    connection.send([describe(callback) for callback in callbacks])
    connection.close()
