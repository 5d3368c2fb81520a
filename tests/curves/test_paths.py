"""Several directories of runs, and files of runs, instead of one directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.run_folders import (
    csv_rows,
    event_rows,
    write_csv_log,
    write_events,
    write_record,
)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three runs. The last one was resumed in another folder."""
    write_record(tmp_path / "logs" / "v0", [3.0, 2.0])
    write_csv_log(tmp_path / "logs" / "v9", csv_rows([3.5, 2.5]))
    write_record(tmp_path / "logs" / "v10", [4.0, 3.0], run_id="x", status="stopped")
    write_record(tmp_path / "more" / "w", [4.0, 3.0, 1.0], run_id="x")
    return tmp_path


def test_several_directories_are_read_like_their_common_parent(logs: Path) -> None:
    whole = read_logs(logs)
    parts = read_logs([logs / "more", logs / "logs", logs / "logs" / "v0"])
    assert parts.curves.names == whole.curves.names == ("logs/v0", "logs/v9", "logs/v10")
    assert parts.curves.train_loss.tolist()[2] == [4.0, 3.0, 1.0]  # one run, in two of them
    assert parts.notes.warnings == []


def test_names_are_relative_to_the_common_folder(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(logs)
    assert read_logs(["logs/v0", logs / "logs" / "v9"]).curves.names == ("v0", "v9")
    assert read_logs(["logs/v0"]).curves.names == ("v0",)


@pytest.mark.parametrize("name", ["metrics.csv", "sotl.jsonl", "events"])
def test_a_file_of_a_run_means_its_folder_only(logs: Path, name: str) -> None:
    folder = logs / "logs"
    write_record(folder, [9.0, 8.0], run_id="top")
    write_csv_log(folder, csv_rows([9.0, 8.0], val=[0.5, 0.25]))
    path = write_events(folder, event_rows([9.0, 8.0])) if name == "events" else folder / name
    found = read_logs(path, LogKeys(val_metric="val"))
    assert found.curves.names == ("logs",)
    assert found.curves.train_loss.tolist() == [[9.0, 8.0]]
    assert found.curves.val_metric.tolist() == [[0.5, 0.25]]  # all its files count
    assert read_logs([folder / "v9/metrics.csv", path]).curves.names == ("logs", "v9")


def test_a_directory_without_runs_beside_others_is_named(logs: Path) -> None:
    (logs / "a").mkdir()
    found = read_logs([logs / "logs", logs / "a"])
    assert len(found.curves.names) == 3
    assert found.notes.left_out == [f"Found no run in '{logs / 'a'}'."]


def test_paths_without_runs_are_named(logs: Path) -> None:
    (logs / "a").mkdir()
    (logs / "b").mkdir()
    message = (
        f"Expected '{logs / 'a'}', '{logs / 'b'}' to hold runs, in files 'sotl.jsonl', "
        "'metrics.csv' or 'events.out.tfevents.*', but found none in its 2 folders."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_logs([logs / "a", logs / "b"])
    (logs / "notes.txt").touch()
    message = (
        f"Expected '{logs / 'notes.txt'}' to be a directory, or a record or log of a run "
        "('*.jsonl', 'metrics.csv' or 'events.out.tfevents.*'), but it is another file."
    )
    with pytest.raises(NotADirectoryError, match=f"^{re.escape(message)}$"):
        read_logs([logs / "logs", logs / "notes.txt"])


@pytest.mark.parametrize("has_logs", [True, False])
def test_an_unknown_prefix_lists_the_estimates_of_other_monitors(
    tmp_path: Path, has_logs: bool
) -> None:
    write_record(tmp_path / "v0", [3.0], prefix="sotl")
    write_record(tmp_path / "v1", [3.0], prefix="train/sotl", unit=4, name="train%2Fsotl.jsonl")
    (tmp_path / "v1" / "predictions.jsonl").write_text('{"id": 3}\n')
    if has_logs:
        write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    message = (
        "No monitor of these runs has the prefix 'solt'; they log 'sotl_e1', 'train/sotl_b4_e1' "
        "and so on."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_logs(tmp_path, LogKeys(prefix="solt"))


def test_a_key_that_looks_like_an_estimate_is_read_beside_records(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0])
    write_csv_log(tmp_path / "v0", [{"epoch": 0, "mine_e1": 7.0}])
    found = read_logs(tmp_path, LogKeys(prefix="mine"))
    assert found.curves.train_loss.tolist() == [[7.0]]
