"""Small valid files of every format, from which the hostile ones are made."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lightning_sotl import LearningCurves
from lightning_sotl.curves._tensorboard import masked_crc32c
from tests.support.run_folders import (
    csv_rows,
    event_rows,
    write_csv_log,
    write_events,
    write_record,
)

TABLE = b"run,epoch,train_loss,val,acc,lr\na,0,2.0,2.5,,0.1\nb,0,3.0,,,0.2\na,1,1.0,1.5,0.75,0.1\n"


def csv_logs() -> list[bytes]:
    """Return variants of a `metrics.csv` with values by epoch and a final value."""
    with TemporaryDirectory() as folder:
        write_csv_log(Path(folder), [*csv_rows([2.0, 1.0], acc=[0.1, 0.2]), {"test_acc": 0.5}])
        text = (Path(folder) / "metrics.csv").read_bytes()
    return [text, b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"), b'"epoch","a,b"\n0,"1.0"\n']


def records() -> list[bytes]:
    """Return the records of a plain run and of a run that was stopped and resumed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_record(folder / "a", [2.0, 1.0], hparams={"dropout": 0.1, "layers": [1, 2]})
        write_record(folder / "b", [3.0, 2.0], run_id="b", status="stopped", checkpoint="x.ckpt")
        write_record(folder / "b", [3.0, 2.5, 1.0], run_id="b", max_epochs=3)
        return [(folder / run / "sotl.jsonl").read_bytes() for run in ("a", "b")]


def events() -> list[bytes]:
    """Return event files with scalars in both of TensorBoard's styles."""
    with TemporaryDirectory() as folder:
        simple = write_events(Path(folder), event_rows([2.0, 1.0], acc=[0.1, 0.2])).read_bytes()
    return [simple, simple + framed(_tensor_event())]


def framed(data: bytes) -> bytes:
    """Return a record of an event file, with correct checksums."""
    length = struct.pack("<Q", len(data))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(sums) + data + next(sums)


def _tensor_event() -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event(step=9)
    for tag, dtype, content in (
        ("sotl_e1", 1, struct.pack("<f", 0.5)),
        ("acc", 2, struct.pack("<d", 0.25)),
    ):
        value = event.summary.value.add(tag=tag)
        value.tensor.dtype = dtype
        value.tensor.tensor_content = content
    value = event.summary.value.add(tag="epoch")
    value.tensor.dtype = 1
    value.tensor.float_val.append(2.0)
    return bytes(event.SerializeToString())


def tables() -> list[bytes]:
    """Return `.npz` files with all fields, and with the required field only."""
    losses = np.array([[2.0, 1.0], [3.0, np.nan]])
    full = LearningCurves(
        losses,
        val_loss=losses,
        val_metric=losses,
        final_metric=[0.5, 0.25],
        final_loss=[1.0, 2.0],
        features=[[1.0], [2.0]],
        epoch_seconds=[1.0, 2.0],
        run_ids=["a", "b"],
        checkpoints=["x.ckpt", None],
    )
    with TemporaryDirectory() as name:
        paths = [Path(name) / f"{place}.npz" for place in range(2)]
        full.save(paths[0])
        LearningCurves(losses).save(paths[1])
        return [path.read_bytes() for path in paths]


def parquet_tables() -> list[bytes]:
    """Return Parquet files that `to_frame` and other programs wrote."""
    losses = np.array([[2.0, 1.0], [3.0, np.nan]])
    own = LearningCurves(losses, val_loss=losses, final_metric=[0.5, 0.25]).to_frame()
    own = own.rename(columns={"val_loss": "val", "final_metric": "acc"})
    other = own.astype({"run": "category", "train_loss": str, "epoch": "Int64"})
    other.attrs = {}
    frames = [own, own.set_index(["run", "epoch"]), other]
    return [frame.to_parquet(compression=None) for frame in frames]


def nlp_documents() -> list[bytes]:
    """Return NAS-Bench-NLP documents of two runs, the second shorter than the first."""
    return [
        json.dumps(
            {
                "train_losses": losses,
                "val_losses": losses,
                "test_losses": losses,
                "wall_times": [10.0, 20.0],
                "num_params": 100,
                "status": "OK",
            }
        ).encode()
        for losses in ([3.0, 2.0], [4.0])
    ]


def nlp_archives() -> list[bytes]:
    """Return a zip of these documents and another text file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, document in enumerate(nlp_documents()):
            archive.writestr(f"logs/log_{place}.json", document)
        archive.writestr("readme.txt", "no log")
    return [content.getvalue()]
