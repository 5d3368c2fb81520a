from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from tests.support.run_folders import write_record


def read(*folders: Path) -> tuple[list, int]:
    sessions, unreadable = [], 0
    for folder in folders:
        found, bad = read_record(folder / "sotl.jsonl")
        sessions += found
        unreadable += bad
    return merge_sessions(sessions), unreadable


def append(folder: Path, *lines: object) -> None:
    with (folder / "sotl.jsonl").open("a") as file:
        file.writelines(
            (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
        )


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=6))
def test_losses_are_read_bit_for_bit_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, losses: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_record(folder, losses, run_id="a")
    (run,), unreadable = read(folder)
    expected = [loss if math.isfinite(loss) else math.inf for loss in losses]
    assert list(run.losses.values()) == expected
    assert unreadable == 0


def test_the_last_line_of_an_epoch_counts(tmp_path: Path) -> None:
    write_record(tmp_path, [3.0, 2.0], run_id="a", status=None)
    append(tmp_path, {"e": 1, "loss": 1.5, "steps": 4, "checkpoint": None})
    (run,), _ = read(tmp_path)
    assert run.losses == {0: 3.0, 1: 1.5}


def test_a_checkpoint_is_kept_when_its_epoch_is_repeated(tmp_path: Path) -> None:
    write_record(tmp_path, [3.0, 2.0], run_id="a", status="stopped", checkpoint="x.ckpt")
    write_record(tmp_path, [3.0, 2.0, 1.0], run_id="a")
    (run,), _ = read(tmp_path)
    assert run.checkpoints == {1: "x.ckpt"}
    assert run.stopped_at == 2
    assert run.status["status"] == "finished"


def test_a_checkpoint_is_dropped_when_its_epoch_is_trained_again(tmp_path: Path) -> None:
    write_record(tmp_path, [3.0, 2.0], run_id="a", status=None, checkpoint="x.ckpt")
    write_record(tmp_path, [3.0, 2.5], run_id="a")
    (run,), _ = read(tmp_path)
    assert run.checkpoints == {}


def test_a_resumed_run_with_other_losses_drops_the_later_epochs(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0, 3.0, 2.0, 1.0], run_id="a", status=None)
    write_record(tmp_path, [4.0, 3.0, 2.5], run_id="a", status=None)
    (run,), _ = read(tmp_path)
    assert run.losses == {0: 4.0, 1: 3.0, 2: 2.5}


def test_a_session_killed_before_it_repeated_all_units_loses_nothing(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0, 3.0, 2.0], run_id="a", status=None)
    write_record(tmp_path, [4.0], run_id="a", status=None)
    (run,), _ = read(tmp_path)
    assert run.losses == {0: 4.0, 1: 3.0, 2: 2.0}


def test_a_run_that_resumes_in_another_folder_stays_one_run(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [4.0, 3.0], run_id="a", status="stopped", checkpoint="x.ckpt")
    write_record(tmp_path / "v1", [4.0, 3.0, 2.0], run_id="a")
    (run,), _ = read(tmp_path / "v1", tmp_path / "v0")
    assert run.losses == {0: 4.0, 1: 3.0, 2: 2.0}
    assert run.folders == [tmp_path / "v0", tmp_path / "v1"]
    assert run.outdated == []


def test_a_folder_whose_losses_a_later_session_replaced_is_named(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [4.0, 3.0, 1.0], run_id="a", status="interrupted")
    write_record(tmp_path / "v1", [4.0, 3.0, 2.0], run_id="a")
    (run,), _ = read(tmp_path / "v0", tmp_path / "v1")
    assert run.losses[2] == 2.0
    assert run.outdated == [tmp_path / "v0"]


def test_one_file_may_hold_several_runs(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0], run_id="a")
    write_record(tmp_path, [5.0, 4.5], run_id="b")
    runs, _ = read(tmp_path)
    assert [(run.run_id, len(run.losses)) for run in runs] == [("a", 1), ("b", 2)]


def test_a_partial_line_is_left_out_and_counted(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0, 3.0], run_id="a", status=None)
    with (tmp_path / "sotl.jsonl").open("a") as file:
        file.write('{"e": 2, "loss": 0.')
    (run,), unreadable = read(tmp_path)
    assert run.losses == {0: 4.0, 1: 3.0}
    assert unreadable == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"e": "1", "loss": 1.0}',
        '{"e": -1, "loss": 1.0}',
        '{"e": true, "loss": 1.0}',
        '{"e": 1, "loss": "low"}',
        '{"e": 1}',
        "[1, 2]",
        "no json",
        "{}",
    ],
)
def test_a_line_that_does_not_belong_in_a_record_is_counted(tmp_path: Path, line: str) -> None:
    write_record(tmp_path, [4.0], run_id="a", status=None)
    append(tmp_path, line)
    (run,), unreadable = read(tmp_path)
    assert run.losses == {0: 4.0}
    assert unreadable == 1


def test_a_unit_before_any_header_is_counted_as_unreadable(tmp_path: Path) -> None:
    append(tmp_path, {"e": 0, "loss": 1.0})
    assert read(tmp_path) == ([], 1)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    append(tmp_path, {"schema": 2, "run_id": "a"})
    with pytest.raises(
        ValueError,
        match=r"^Expected the record '.*sotl\.jsonl' to be of schema 1 but got 2; a newer version "
        r"of this package may have written it\.$",
    ):
        read(tmp_path)


def test_a_session_need_not_repeat_the_units_in_its_file(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0, 3.0], run_id="a", status="interrupted", checkpoint="x.ckpt")
    write_record(tmp_path, [], run_id="a", status=None)
    append(
        tmp_path,
        {"e": 2, "loss": 2.0, "steps": 4, "checkpoint": None},
        {"status": "stopped", "reason": "stop_epoch_reached"},
    )
    (run,), _ = read(tmp_path)
    assert run.losses == {0: 4.0, 1: 3.0, 2: 2.0}
    assert run.checkpoints == {1: "x.ckpt"}
    assert run.stopped_at == 3


def test_a_session_that_trains_an_epoch_again_drops_the_later_epochs(tmp_path: Path) -> None:
    write_record(tmp_path, [4.0, 3.0, 2.0, 1.0], run_id="a", status="interrupted")
    write_record(tmp_path, [], run_id="a", status=None)
    append(tmp_path, {"e": 2, "loss": 2.5, "steps": 4, "checkpoint": None})
    (run,), _ = read(tmp_path)
    assert run.losses == {0: 4.0, 1: 3.0, 2: 2.5}
