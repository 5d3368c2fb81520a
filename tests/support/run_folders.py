"""Folders of runs as the monitor and Lightning's loggers write them, made without training."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_sotl.record.writer import RunRecord


def write_record(
    folder: Path,
    losses: Sequence[float],
    *,
    run_id: str | None = None,
    status: str | None = "finished",
    checkpoint: str | None = None,
    name: str = "sotl.jsonl",
    **facts: Any,
) -> None:
    """Append one session to the record in `folder`. The last unit names the checkpoint."""
    record = RunRecord(folder / name)
    header = {"unit": "epoch", "batch_size": 8, "loss_key": "loss", "hparams": {}, **facts}
    record.header(run_id or folder.name, **header)
    for unit, loss in enumerate(losses):
        record.unit(unit, loss, 4, checkpoint if unit == len(losses) - 1 else None)
    if status is not None:
        reason = {"stopped": "stop_epoch_reached"}.get(status)
        record.status(status, **({"reason": reason} if reason else {}))


def write_csv_log(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a `metrics.csv` as CSVLogger does: all columns in each row, blank where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = sorted({name for row in rows for name in row})
    lines = [",".join(columns)]
    lines += [",".join(str(row.get(name, "")) for name in columns) for row in rows]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def csv_rows(losses: Sequence[float], **others: Sequence[float]) -> list[dict[str, object]]:
    """Return one row per epoch with `sotl_e1` and other columns."""
    return [
        {
            "epoch": epoch,
            "step": 4 * epoch + 3,
            "sotl_e1": repr(loss),
            **{name: repr(values[epoch]) for name, values in others.items()},
        }
        for epoch, loss in enumerate(losses)
    ]


def write_events(
    folder: Path, rows: Sequence[tuple[int, Mapping[str, float]]], *, begun: int = 1
) -> Path:
    """Write an event file of rows (step, tag -> value) with their checksums."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{begun}.host.1.0"
    with path.open("wb") as file:
        for step, values in rows:
            for tag, value in values.items():
                event = Event(step=step)
                event.summary.value.add(tag=tag, simple_value=value)
                data = event.SerializeToString()
                length = struct.pack("<Q", len(data))
                file.write(length + struct.pack("<I", masked_crc32c(length)))
                file.write(data + struct.pack("<I", masked_crc32c(data)))
    return path


def event_rows(
    losses: Sequence[float], *, first: int = 0, **others: Sequence[float]
) -> list[tuple[int, dict[str, float]]]:
    """Return one row per epoch, with `epoch` last, as Lightning writes it."""
    return [
        (
            4 * (first + place) + 3,
            {
                "sotl_e1": loss,
                **{name: values[place] for name, values in others.items()},
                "epoch": first + place,
            },
        )
        for place, loss in enumerate(losses)
    ]
