"""A directory of many runs that is ranked while another process writes some of them."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_sotl.cli import main
from tests.campaigns import forked
from tests.campaigns.tally import Tally
from tests.support.run_folders import (
    csv_rows,
    event_rows,
    write_csv_log,
    write_events,
    write_record,
)

EPOCHS = 20
KINDS = ("record", "csv", "events")


def loss(run: int, epoch: int) -> float:
    """Return L(e). It is exact in float32, as in event files, and unique to each run and epoch."""
    return float(np.float32(3.0 / (epoch + 1) + run / 1024))


def losses(run: int, epochs: int) -> list[float]:
    return [loss(run, epoch) for epoch in range(epochs)]


def write_whole(folder: Path, run: int, epochs: int) -> None:
    """Write the files of a run as they are after some epochs."""
    values = losses(run, epochs)
    kind = KINDS[run % len(KINDS)]
    if kind == "record":
        write_record(folder, values, status="finished" if epochs == EPOCHS else None)
    elif kind == "csv":
        write_csv_log(folder, csv_rows(values))
    else:
        write_events(folder, event_rows(values))


def keep_writing(folder: Path, live: list[int], seed: int) -> None:
    """Append epochs to the live runs, most in several parts; start a complete run again."""
    rng = np.random.default_rng(seed)
    done, rest = dict.fromkeys(live, 1), dict.fromkeys(live, b"")
    while True:
        run = int(rng.choice(live))
        target = next((folder / f"run{run}").iterdir())
        if not rest[run]:
            # A CSVLogger that resumes in the same version also starts its file again.
            done[run] = done[run] % EPOCHS + 1
            if done[run] == 1:
                target.write_bytes(b"")
            rest[run] = new_bytes(folder.parent / "scratch", run, done[run])
        cut = int(rng.integers(1, len(rest[run]) + 1))
        with target.open("ab") as file:
            file.write(rest[run][:cut])
        rest[run] = rest[run][cut:]


def new_bytes(scratch: Path, run: int, epochs: int) -> bytes:
    """Return the bytes that the last of `epochs` epochs appends to the file of a run."""
    folder = scratch / f"run{run}"  # the folder's name is the run's id in the record
    write_whole(folder, run, epochs)
    path = next(folder.iterdir())
    new = path.read_bytes()
    path.unlink()
    if epochs == 1:
        return new
    if KINDS[run % len(KINDS)] == "record":  # the time in the header has no fixed length
        return new.splitlines(keepends=True)[-1]
    write_whole(folder, run, epochs - 1)
    old = path.stat().st_size
    path.unlink()
    return new[old:]


def ranked(folder: Path, at: int) -> tuple[int, dict[str, Any] | None, str]:
    """Run `rank` in this process; return the exit code, the document and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["rank", str(folder), "--at", str(at), "--json"])
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


def wrong_rows(document: dict[str, Any], at: int, live: set[int]) -> Iterator[str]:
    """Yield the wrong rows. A live run may have fewer epochs and no estimate."""
    for row in document["runs"]:
        run = int(row["run_id"].removeprefix("run"))
        absent = row["estimate"] is None and row["epochs"] < at and run in live
        # The 16 digits in a CSV file are enough for a float32.
        if not absent and (row["estimate"] != loss(run, at - 1) or row["epochs"] < at):
            yield f"{row} at T = {at}"


def campaign(folder: Path, runs: int, reads: int, live: int, seed: int) -> Tally:
    """Rank `runs` runs `reads` times while another process writes `live` of them."""
    tally, rng = Tally(), np.random.default_rng(seed)
    directory = folder / "runs"
    live_runs = sorted(map(int, rng.choice(runs, size=live, replace=False)))
    for run in range(runs):
        write_whole(directory / f"run{run}", run, 1 if run in live_runs else EPOCHS)
    job = partial(keep_writing, directory, live_runs, seed)
    writer = forked.fork(job, folder / "log.txt")
    seconds = []
    try:
        for _ in range(reads):
            at = int(rng.integers(1, EPOCHS + 1))
            begun = time.monotonic()
            code, document, err = ranked(directory, at)
            seconds.append(time.monotonic() - begun)
            tally.count("reads")
            tally.expect("exit code", code, 0)
            tally.expect("tracebacks", "Traceback" in err, False)
            rows = document["runs"] if document else []
            tally.count("rows", len(rows))
            # A live run that has just been started again may have no epoch yet.
            names = {row["run_id"] for row in rows}
            whole = {f"run{run}" for run in range(runs) if run not in live_runs}
            tally.expect("complete runs that are missing", whole - names, set())
            tally.count("rows of live runs", len(names - whole))
            tally.count("half-written lines read", err.count("could not be read"))
            for text in wrong_rows(document or {"runs": []}, at, set(live_runs)):
                tally.fault(f"wrong row: {text}")
            tally.expect("exit code of the writer", forked.ended(writer, 0), None)
    finally:
        forked.kill(writer)
    tally.measures["median seconds per read"] = f"{np.median(seconds):.2f}"
    return tally
