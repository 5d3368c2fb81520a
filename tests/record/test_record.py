import json
import math
import time
from pathlib import Path

import pytest

from lightning_sotl._utils import files
from lightning_sotl.record import reader
from lightning_sotl.record.format import run_params
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.writer import RunRecord


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_each_line_is_a_json_document_with_all_digits(tmp_path):
    record = RunRecord(tmp_path / "deep" / "sotl.jsonl")
    record.header("abc", loss_key="loss")
    record.unit(0, 1 / 3, 5)
    record.unit(0, 1 / 3, 5, "a.ckpt")
    record.status("stopped", reason="stop_epoch_reached")
    header, first, second, status = lines(record.path)
    assert (header["schema"], header["run_id"], header["loss_key"]) == (1, "abc", "loss")
    assert first == {"e": 0, "loss": 1 / 3, "steps": 5, "checkpoint": None}
    assert second == {"e": 0, "loss": 1 / 3, "steps": 5, "checkpoint": "a.ckpt"}
    assert (status["status"], status["reason"]) == ("stopped", "stop_epoch_reached")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_is_null(tmp_path, loss):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.unit(3, loss, 2)
    assert lines(record.path) == [{"e": 3, "loss": None, "steps": 2, "checkpoint": None}]


def test_a_value_that_json_cannot_hold_is_written_as_its_repr(tmp_path):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a", hparams={"path": Path("x"), "sizes": (1, 2), "lr": math.inf, 3: None})
    assert lines(record.path)[0]["hparams"] == {
        "path": repr(Path("x")),
        "sizes": [1, 2],
        "lr": None,
        "3": None,
    }


def test_a_line_that_a_kill_cut_off_does_not_damage_the_next(tmp_path):
    path = tmp_path / "sotl.jsonl"
    whole = '{"e": 0, "loss": 1.0, "steps": 1, "checkpoint": null}\n'
    for cut in range(len(whole) + 1):
        path.write_text(whole + whole[:cut])
        RunRecord(path).unit(7, 0.5, 1)
        written = path.read_text()
        assert written.startswith(whole + whole[:cut])
        assert json.loads(written.splitlines()[-1])["e"] == 7


@pytest.mark.parametrize(
    ("facts", "params"),
    [
        ({}, {}),  # a run without a record
        ({"hparams": None}, {}),
        ({"hparams": {"lr": 0.1}}, {"lr": 0.1}),  # a record of a version without `params`
        ({"hparams": {"lr": 0.1}, "params": None}, {"lr": 0.1}),
        ({"hparams": {"lr": 0.1}, "params": {"width": 8}}, {"width": 8}),
        ({"hparams": {"lr": 0.1}, "params": {}}, {}),  # given, and empty
        ({"hparams": {"lr": 0.1}, "params": [1]}, {"lr": 0.1}),
    ],
)
def test_the_parameters_given_by_the_user_come_before_hyper_parameters(facts, params):
    assert run_params(facts) == params


def newest(*folders: Path) -> dict[str, dict]:
    """Return run id -> losses and status, as the reader returns them."""
    sessions = [entry for folder in folders for entry in read_record(folder / "sotl.jsonl")[0]]
    return {run.run_id: (run.losses, run.status) for run in merge_sessions(sessions)}


def test_two_processes_that_write_to_one_record_stay_two_runs(tmp_path):
    one, two = (RunRecord(tmp_path / "sotl.jsonl") for _ in range(2))
    one.header("a")
    one.unit(0, 4.0, 1)
    assert not one.is_shared
    two.header("b")
    for unit in (1, 2):
        one.unit(unit, 4.0 - unit, 1)
        two.unit(unit, 8.0 - unit, 1)
    one.status("stopped", reason="stop_epoch_reached")
    two.status("finished")
    one.unit(2, 2.0, 1, "a.ckpt")
    found = newest(tmp_path)
    assert found["a"][0] == {0: 4.0, 1: 3.0, 2: 2.0}
    assert found["b"][0] == {1: 7.0, 2: 6.0}
    assert [status["status"] for _, status in found.values()] == ["stopped", "finished"]
    assert read_record(one.path)[1] == 0
    assert one.is_shared
    assert two.is_shared


def test_a_deleted_record_starts_again_with_its_header(tmp_path):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a", loss_key="nll")
    record.path.unlink()
    record.unit(3, 1.0, 1)
    assert [line.get("loss_key") for line in lines(record.path)] == ["nll", None]
    assert newest(tmp_path)["a"][0] == {3: 1.0}
    assert not record.is_shared


def test_the_order_of_processes_survives_a_clock_that_was_set_back(tmp_path, monkeypatch):
    v0, v1 = tmp_path / "v0", tmp_path / "v1"
    clock = iter([1e9, 2e3, 1e3])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    first = RunRecord(v0 / "sotl.jsonl").header("a")
    again = RunRecord(v0 / "sotl.jsonl")
    second = again.header("a")
    third = RunRecord(v1 / "sotl.jsonl").header("a", after=second)  # from its checkpoint
    assert 1e9 == first < second < third < 1e9 + 1e-3


def test_if_the_clock_was_set_back_the_order_of_the_lines_counts(tmp_path):
    for when, loss in ((2e9, 2.0), (1e9, 1.0)):
        with (tmp_path / "sotl.jsonl").open("a") as file:
            for line in ({"schema": 1, "run_id": "a", "time": when}, {"e": 0, "loss": loss}):
                file.write(json.dumps(line) + "\n")
    assert newest(tmp_path)["a"][0] == {0: 1.0}


def test_units_below_an_unreadable_header_belong_to_no_run(tmp_path):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a")
    record.unit(0, 1.0, 1)
    with record.path.open("a") as file:
        file.write('{"schema": 1, "run_id": "b#\n{"e": 1, "loss": 9.0}\n{"e": 2, "lo\n')
    assert newest(tmp_path)["a"][0] == {0: 1.0}
    assert read_record(record.path)[1] == 3
    assert record.units_of("a") == {0: 1.0}


@pytest.mark.parametrize(
    "line", [b"[1, 2]", b"3", b'{"e": 1}', b'{"e": [1], "loss": 1}', b"\xff\0"]
)
def test_a_damaged_record_can_be_continued(tmp_path, line):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a")
    record.unit(0, 1.0, 1)
    record.path.write_bytes(record.path.read_bytes() + line + b"\n")
    again = RunRecord(record.path)
    assert again.units_of("a") == {0: 1.0}
    again.header("a")
    again.unit(1, 0.5, 1)
    assert newest(tmp_path)["a"][0] == {0: 1.0, 1: 0.5}


def test_units_below_a_line_that_is_too_long_belong_to_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 400)
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a")
    record.unit(0, 1.0, 1)
    RunRecord(record.path).header("b", hparams="x" * 1000)
    with record.path.open("a") as file:
        file.write('{"e": 1, "loss": 9.0}\n' + "x" * 1000)
    assert newest(tmp_path) == {"a": ({0: 1.0}, {})}
    assert read_record(record.path)[1] == 3
    assert record.units_of("a") == {0: 1.0}


def test_headers_that_two_processes_repeat_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MOST_SESSIONS", 2)
    one, two = (RunRecord(tmp_path / "sotl.jsonl") for _ in range(2))
    one.header("a")
    two.header("b")
    for unit in range(5):
        one.unit(unit, 1.0, 1)
        two.unit(unit, 2.0, 1)
    assert [len(losses) for losses, _ in newest(tmp_path).values()] == [5, 5]


def test_sessions_without_times_in_their_headers_are_not_mixed(tmp_path):
    text = ""
    for losses in ([3.0, 2.0, 1.0], [3.0, 2.5]):
        text += '{"schema": 1, "run_id": "a"}\n'
        text += "".join(f'{{"e": {e}, "loss": {loss}}}\n' for e, loss in enumerate(losses))
    (tmp_path / "sotl.jsonl").write_text(text)
    assert newest(tmp_path)["a"][0] == {0: 3.0, 1: 2.5}


def test_a_partial_line_of_its_own_does_not_count_as_another_process(tmp_path):
    resource = pytest.importorskip("resource")
    record = RunRecord(tmp_path / "sotl.jsonl")
    begun = record.header("a")
    record.unit(0, 1.0, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (record.path.stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            record.unit(1, 0.5, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    record.unit(1, 0.5, 1)
    assert not record.is_shared
    assert record.header("a") == begun
    (session,), unreadable = read_record(record.path)
    assert (session.losses, unreadable) == ({0: 1.0, 1: 0.5}, 1)


def test_keys_that_lightning_cli_adds_are_not_parameters():
    added = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "my.Net"}
    assert run_params({"hparams": {"lr": 0.1, **added}}) == {"lr": 0.1}
    assert run_params({"hparams": {"lr": 0.1}, "params": {"mine": 1, **added}}) == {
        "mine": 1,
        **added,
    }
