"""The readers under test: their valid files, how to damage these, and what a reader may do."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lightning_sotl import LearningCurves
from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl.cli import main
from lightning_sotl.curves._log_values import Logged
from lightning_sotl.curves._metrics_csv import read_csv_log
from lightning_sotl.curves._tensorboard import masked_crc32c, read_event_files
from lightning_sotl.curves.frames import TableColumns
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.curves.table_files import read_table_file
from lightning_sotl.record.format import MOST_UNITS
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.writer import RunRecord
from tests.fuzz import mutations, seeds

WANTED = ("sotl_e1", "acc", "test_acc", "a,b")


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        file: The name of its file, in a folder of its own.
        valid: Returns valid files.
        mutations: The ways to damage them.
        read: Reads the file at a path, and raises AssertionError if the result is impossible.
        raises: Whether a damaged file may be refused, by a ValueError that names it.
    """

    file: str
    valid: Callable[[], list[bytes]]
    mutations: Sequence[mutations.Mutation]
    read: Callable[[Path], None]
    raises: bool = True

    def damaged(self, rng: random.Random) -> bytes:
        """Return one of the valid files after one to four mutations."""
        data = rng.choice(_valid(self.valid))
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
            data = rng.choice(self.mutations)(rng, data)
        return data

    def check(self, path: Path, data: bytes) -> bool:
        """Read `data` and return whether it was accepted.

        Raises:
            AssertionError: If the reader breaks its promises.
            Exception: Anything that the reader raises and does not document.
        """
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(path)
        except ValueError as error:
            self._check_refusal(error, path)
            return False
        return True

    def _check_refusal(self, error: ValueError, path: Path) -> None:
        # Another subclass, such as UnicodeDecodeError, should not reach a user.
        assert type(error) in (ValueError, UnreadableFileError), repr(error)
        assert self.raises, f"refused: {error}"
        assert str(path.parent) in str(error), f"The message names no file: {error}"
        assert len(str(error)) < 100_000, "The message is too long."


@cache
def _valid(make: Callable[[], list[bytes]]) -> list[bytes]:
    return make()


def _check_logged(logged: Logged) -> None:
    for values in logged.by_epoch.values():
        assert all(isinstance(epoch, int) and 0 <= epoch < MOST_UNITS for epoch in values)


def _csv_log(path: Path) -> None:
    _check_logged(read_csv_log(path, WANTED))


def _events(path: Path) -> None:
    _check_logged(read_event_files([path], WANTED))


def _record(path: Path) -> None:
    sessions, _ = read_record(path)
    for run in merge_sessions(sessions):
        assert all(not math.isnan(loss) for loss in run.losses.values())
        assert all(0 <= unit < MOST_UNITS for unit in run.losses)
        RunRecord(path).units_of(run.run_id)


def _table(path: Path) -> None:
    read_table_file(path, TableColumns(val_loss="val", final_metric="acc"))


def _nlp(path: Path) -> None:
    read_nas_bench_nlp(path)


def _nlp_folder(path: Path) -> None:
    read_nas_bench_nlp(path.parent)


def _npz(path: Path) -> None:
    LearningCurves.load(path)


def _command_line(path: Path) -> None:
    """Check that the command line reads a folder and prints harmless text and valid JSON."""
    for options in (["--json"], []):
        out, err = io.StringIO(), io.StringIO()
        arguments = ["rank", str(path.parent), "--group-by", "hparams.dropout", *options]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments if path.stat().st_size % 2 else arguments[:2] + options)
        assert code in (0, 1), code
        for text in (out.getvalue(), err.getvalue()):
            assert all(line.isprintable() for line in text.split("\n")), repr(text)
        if options and code == 0:
            json.loads(out.getvalue(), parse_constant=_refuse_constant)
        assert code == 0 or err.getvalue()


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"JSON has no {name}.")


_TEXT = (mutations.bytewise, mutations.linewise)
_CSV = (*_TEXT, mutations.cellwise, mutations.cellwise)
_JSON = (*_TEXT, mutations.jsonwise, mutations.jsonwise, mutations.jsonwise)
_NPY = (mutations.headerwise, mutations.bytewise)

READERS = {
    "csv-log": Reader("metrics.csv", seeds.csv_logs, _CSV, _csv_log),
    "table-csv": Reader("runs.csv", lambda: [seeds.TABLE], _CSV, _table),
    "table-parquet": Reader(
        "runs.parquet",
        seeds.parquet_tables,
        (mutations.footerwise, mutations.footerwise, mutations.bytewise),
        _table,
    ),
    "events": Reader(
        "events.out.tfevents.1.host.1.0",
        seeds.events,
        (
            mutations.eventwise(masked_crc32c),
            mutations.eventwise(masked_crc32c),
            mutations.bytewise,
        ),
        _events,
    ),
    "npz": Reader(
        "x.npz",
        seeds.tables,
        (mutations.memberwise(_NPY), mutations.memberwise(_NPY), mutations.bytewise),
        _npz,
    ),
    "record": Reader("sotl.jsonl", seeds.records, _JSON, _record),
    "nlp-zip": Reader(
        "x.zip",
        seeds.nlp_archives,
        (mutations.memberwise(_JSON), mutations.memberwise(_JSON), mutations.bytewise),
        _nlp,
    ),
    "nlp-json": Reader("x.json", seeds.nlp_documents, _JSON, _nlp_folder),
    "command-line": Reader("sotl.jsonl", seeds.records, _JSON, _command_line, raises=False),
}
