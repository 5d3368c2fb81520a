"""Read the files of a run without our readers: event files, CSV files and records."""

from __future__ import annotations

import csv
import json
from pathlib import Path


def inexact_loss(epoch, batch):
    """Return a loss that no binary fraction represents, so that rounding to float32 is visible."""
    return (epoch + 1 + batch) / 3


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def csv_points(logger, name):
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [(int(row["epoch"]), int(row["step"]), float(row[name])) for row in rows]


def record(folder, name="sotl.jsonl"):
    """Return the headers of a record, e -> its last line of epoch e, and the status lines."""
    lines = [json.loads(line) for line in Path(folder, name).read_text().splitlines()]
    headers = [line for line in lines if "schema" in line]
    units = {line["e"]: line for line in lines if "e" in line}
    return headers, units, [line for line in lines if "status" in line]
