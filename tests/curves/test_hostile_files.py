"""Hostile files, made to hang, to fill memory or to leave the folder, are refused and named."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_sotl import LearningCurves
from lightning_sotl._utils import files
from lightning_sotl._utils.files import UnreadableFileError
from lightning_sotl.cli import main
from lightning_sotl.curves import _tensorboard, nas_bench_nlp, table_files
from lightning_sotl.curves._metrics_csv import read_csv_log
from lightning_sotl.curves._tensorboard import read_event_files
from lightning_sotl.curves.frames import TableColumns
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.curves.table_files import read_table_file
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.writer import RunRecord
from tests.fuzz import seeds
from tests.support.run_folders import csv_rows, write_csv_log, write_record

WANTED = ("sotl_e1",)
DOCUMENT = seeds.nlp_documents()[0]
READERS: dict[str, Callable[[Path], object]] = {
    "metrics.csv": lambda path: read_csv_log(path, WANTED),
    "runs.csv": lambda path: read_table_file(path, TableColumns()),
    "runs.parquet": lambda path: read_table_file(path, TableColumns()),
    "events.out.tfevents.1.a": lambda path: read_event_files([path], WANTED),
    "x.npz": LearningCurves.load,
    "sotl.jsonl": read_record,
    "x.zip": read_nas_bench_nlp,
}


def rank(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, list[str], str]:
    code = main(["rank", str(path), "--json"])
    out, err = capsys.readouterr()
    return code, [run["run_id"] for run in json.loads(out)["runs"]] if out else [], err


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    message = f"Expected '{tmp_path / name}' to be a regular file, but it is not."
    with pytest.raises(UnreadableFileError, match=f"^{re.escape(message)}$"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_link_to_an_endless_device_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UnreadableFileError, match=r"to be a regular file, but it is not\.$"):
        READERS[name](tmp_path / name)


def test_pipes_and_sockets_among_the_runs_do_not_hide_other_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "good", [2.0, 1.0])
    for name in ("sotl.jsonl", "metrics.csv", "events.out.tfevents.1.a"):
        (tmp_path / name[:4]).mkdir()
        os.mkfifo(tmp_path / name[:4] / name)
    (tmp_path / "sock").mkdir()
    monkeypatch.chdir(tmp_path / "sock")  # a socket's name has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sotl.jsonl")
        code, runs, err = rank(capsys, tmp_path)
    assert (code, runs) == (0, ["good"])
    assert err.count("to be a regular file, but it is not.") == 3
    assert "'sock'" in err


def test_the_writer_of_a_record_refuses_a_pipe_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sotl.jsonl")
    for write in (
        lambda record: record.unit(0, 1.0, 1),
        lambda record: record.units_of("a"),
    ):
        with pytest.raises(UnreadableFileError, match="to be a regular file"):
            write(RunRecord(tmp_path / "sotl.jsonl"))


def test_a_file_of_terabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    bounds = {
        "metrics.csv": files.MOST_LOG_BYTES,
        "runs.csv": table_files.MOST_TABLE_BYTES,
        "runs.parquet": table_files.MOST_TABLE_BYTES,
        "sotl.jsonl": files.MOST_RECORD_BYTES,
    }
    for name, most in bounds.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)  # a sparse file
        message = f"Expected '{tmp_path / name}' to have at most {most:,} bytes but got {2**40:,}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            READERS[name](tmp_path / name)


def test_a_line_that_is_too_long_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 400)
    write_csv_log(tmp_path, csv_rows([2.0, 1.0]))
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "9" * 1000 + "\n2,0.5,11\n")
    logged = read_csv_log(path, WANTED)
    assert (logged.by_epoch["sotl_e1"], logged.unreadable) == ({0: 2.0, 1: 1.0, 2: 0.5}, 1)
    write_record(tmp_path, [2.0, 1.0], run_id="a")
    with (tmp_path / "sotl.jsonl").open("a") as file:
        file.write("[" * 1000 + "\n")
    (session,), unreadable = read_record(tmp_path / "sotl.jsonl")
    assert (session.losses, unreadable) == ({0: 2.0, 1: 1.0}, 1)
    (tmp_path / "runs.csv").write_bytes(seeds.TABLE + b"a" * 1000)
    with pytest.raises(ValueError, match=r"to have lines of at most [0-9,]+ bytes but one has mo"):
        READERS["runs.csv"](tmp_path / "runs.csv")


def test_an_unreadable_csv_header_gives_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text('"' + "epoch," * 50_000 + "\n0,1\n1,2\n")
    logged = read_csv_log(path, ("0",))
    assert (logged.keys, logged.by_epoch) == (set(), {})
    assert logged.unreadable > 0


def test_an_event_with_an_impossible_length_ends_its_file(tmp_path: Path) -> None:
    whole = seeds.events()[0]
    for size in (2**63, 2**64 - 1, 2**40):
        length = struct.pack("<Q", size)
        path = tmp_path / "events.out.tfevents.1.a"
        checksum = struct.pack("<I", _tensorboard.masked_crc32c(length))
        path.write_bytes(whole + length + checksum + b"x")
        logged = read_event_files([path], WANTED)
        assert (logged.by_epoch["sotl_e1"], logged.unreadable) == ({0: 2.0, 1: 1.0}, 1)


def test_an_event_that_is_too_large_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tensorboard, "MOST_EVENT_BYTES", 1000)
    path = tmp_path / "events.out.tfevents.1.a"
    path.write_bytes(seeds.framed(b"x" * 1001) + seeds.events()[0])
    logged = read_event_files([path], WANTED)
    assert (logged.by_epoch["sotl_e1"], logged.unreadable) == ({0: 2.0, 1: 1.0}, 1)


@pytest.mark.parametrize("epoch", [float("inf"), float("nan"), -1.0, 0.5, 1e18])
def test_an_event_with_an_impossible_epoch_has_no_epoch(tmp_path: Path, epoch: float) -> None:
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event(step=1)
    event.summary.value.add(tag="sotl_e1", simple_value=2.0)
    event.summary.value.add(tag="epoch", simple_value=epoch)
    path = tmp_path / "events.out.tfevents.1.a"
    path.write_bytes(seeds.framed(event.SerializeToString()))
    logged = read_event_files([path], WANTED)
    assert (logged.by_epoch, logged.last) == ({}, {"sotl_e1": 2.0})


def test_a_superscript_digit_in_the_name_of_an_event_file_is_not_a_time(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.\u00b2.a"
    path.write_bytes(seeds.events()[0])
    assert read_event_files([path], WANTED).by_epoch["sotl_e1"] == {0: 2.0, 1: 1.0}


def test_json_that_is_nested_too_deeply_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(DOCUMENT)
    (tmp_path / "b.json").write_bytes(b"[" * 200_000)
    (tmp_path / "c.json").write_bytes(b'{"status":' * 500 + b"1" + b"}" * 500)
    curves, notes = read_nas_bench_nlp(tmp_path)
    assert curves.run_ids == ("a",)
    assert notes == ["Left out 2 JSON documents without curves of one length: 'b', 'c'."]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_losses": [10**400, 1.0]},
        {"wall_times": {"a": 1}},
        {"wall_times": "no list"},
        {"num_params": "many"},
        {"num_params": [1]},
        {"num_params": 10**400},
    ],
    ids=repr,
)
def test_a_document_with_wrong_types_is_left_out(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    (tmp_path / "a.json").write_bytes(DOCUMENT)
    (tmp_path / "b.json").write_text(json.dumps({**json.loads(DOCUMENT), **changes}))
    curves, notes = read_nas_bench_nlp(tmp_path)
    assert curves.run_ids == ("a",)
    assert len(notes) == 1


def test_a_document_that_is_too_large_or_a_pipe_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas_bench_nlp, "MOST_DOCUMENT_BYTES", len(DOCUMENT))
    (tmp_path / "a.json").write_bytes(DOCUMENT)
    (tmp_path / "b.json").write_bytes(DOCUMENT + b" ")
    os.mkfifo(tmp_path / "c.json")
    expected = "Left out 2 JSON documents without curves of one length: 'b', 'c'."
    assert read_nas_bench_nlp(tmp_path)[1] == [expected]


def test_a_damaged_epoch_does_not_make_a_table_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("run,epoch,train_loss\na,0,1\nb,1e15,1\n")
    message = (
        f"Expected '{path}' to hold at most 50,000,000 losses but got 2,000,000,000,000,002: 2 "
        "runs with up to 1,000,000,000,000,001 epochs ('b')."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        READERS[path.name](path)
    for run in range(6):
        write_record(tmp_path / f"run{run}", [1.0], status=None)
    with (tmp_path / "run3" / "sotl.jsonl").open("a") as file:
        file.write('{"e": 9999999, "loss": 1.0, "steps": 1, "checkpoint": null}\n')
    message = r"but got 60,000,000: 6 runs with up to 10,000,000 epochs \('run3'\)\.$"
    with pytest.raises(ValueError, match=message):
        LearningCurves.from_logs(tmp_path)


@pytest.mark.timeout(60)  # a search for each name among all would take about ten minutes
def test_a_csv_of_many_columns_takes_time_in_proportion(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(200_000)]
    path = tmp_path / "runs.csv"
    path.write_text(",".join(["run", "epoch", "train_loss", *names]) + "\na,0,1" + "," * 200_000)
    assert read_table_file(path, TableColumns()).curves.train_loss.tolist() == [[1.0]]
    path.write_text(",".join(names) + "\n")
    with pytest.raises(ValueError, match=r", 'c99' and 199,900 more\.$"):
        READERS[path.name](path)


def test_a_csv_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(seeds.TABLE + b"\xff,0,1")
    with pytest.raises(ValueError, match=r"^Expected '.*runs\.csv' to be in UTF-8: ") as caught:
        READERS["runs.csv"](tmp_path / "runs.csv")
    assert type(caught.value) is ValueError


DEEP = 1200  # levels; Python's own walk fails at about 1,000


def test_links_in_a_circle_and_very_deep_folders_are_walked_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "a", [2.0, 1.0])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "metrics.csv").symlink_to("metrics.csv")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for _ in range(DEEP):
        Path("d").mkdir()
        os.chdir("d")
    code, runs, err = rank(capsys, tmp_path)
    for _ in range(DEEP):  # pytest cannot remove them
        os.chdir("..")
        Path("d").rmdir()
    assert (code, runs) == (0, ["a"])
    assert "Left out files that cannot be read in 'a': " in err


def test_a_link_to_a_folder_is_not_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "a", [2.0])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sotl.jsonl").symlink_to(tmp_path / "a")
    assert rank(capsys, tmp_path)[:2] == (0, ["a"])
