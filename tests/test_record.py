import json
import math
from pathlib import Path

import pytest

from lightning_sotl.record import RunRecord


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_each_line_is_one_document_with_all_digits(tmp_path):
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


def test_what_json_cannot_hold_is_written_as_its_repr(tmp_path):
    record = RunRecord(tmp_path / "sotl.jsonl")
    record.header("a", hparams={"path": Path("x"), "sizes": (1, 2), "lr": math.inf, 3: None})
    assert lines(record.path)[0]["hparams"] == {
        "path": repr(Path("x")),
        "sizes": [1, 2],
        "lr": None,
        "3": None,
    }


def test_a_line_that_a_kill_left_half_written_spoils_no_other(tmp_path):
    path = tmp_path / "sotl.jsonl"
    whole = '{"e": 0, "loss": 1.0, "steps": 1, "checkpoint": null}\n'
    for cut in range(len(whole) + 1):
        path.write_text(whole + whole[:cut])
        RunRecord(path).unit(7, 0.5, 1)
        written = path.read_text()
        assert written.startswith(whole + whole[:cut])
        assert json.loads(written.splitlines()[-1])["e"] == 7
