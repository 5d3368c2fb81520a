"""Records with odd values or very many lines: no crash, and time in proportion to the size."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sotl.cli import main
from lightning_sotl.record import reader
from lightning_sotl.record.lineage import merge_sessions
from lightning_sotl.record.reader import read_record
from lightning_sotl.record.session import Session
from lightning_sotl.record.writer import RunRecord

HEADER = '{"schema": 1, "run_id": "a"}\n'
UNIT = '{"e": 0, "loss": 1.0, "steps": 1, "checkpoint": null}\n'


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 1, "run_id": "a", "time": 1' + "0" * 400 + "}\n" + UNIT,
        '{"schema": 1, "run_id": "a", "time": NaN}\n' + UNIT,
        '{"schema": 1, "run_id": "a", "hparams": 1}\n' + UNIT,
        '{"schema": 1, "run_id": "a", "hparams": ["dropout"]}\n' + UNIT,
        HEADER + '{"e": [], "loss": 1}\n' + UNIT,
        HEADER + '{"e": 0}\n' + UNIT,
        HEADER + "[1]\n" + UNIT,
        HEADER + '{"e": 1, "loss": 1, "checkpoint": {}}\n' + UNIT,
        HEADER + UNIT.replace("null", '"' + "/x" * 4000 + '"'),
        HEADER + UNIT.replace("null", r'"\u0000\ud800"'),
        HEADER + '{"status": ' + "[" * 90 + "]" * 90 + "}\n" + UNIT,
        HEADER + UNIT + '{"status": "stopped", "reason": []}\n',
    ],
)
def test_odd_values_in_a_record_do_not_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "sotl.jsonl").write_bytes(text.encode() + b"\xff\xfe")
    assert main(["rank", str(tmp_path), "--group-by", "schema"]) == 0
    assert capsys.readouterr().out.startswith("\nschema = 1\nrank  run")
    assert RunRecord(tmp_path / "sotl.jsonl").units_of("a")[0] == 1.0


def test_a_record_of_too_many_sessions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MOST_SESSIONS", 2)
    (tmp_path / "sotl.jsonl").write_text(HEADER * 3)
    with pytest.raises(ValueError, match=r"to have at most 2 different headers but it has more\.$"):
        read_record(tmp_path / "sotl.jsonl")


@pytest.mark.timeout(25)  # a search for each unit would take more than a minute
def test_sessions_with_different_losses_take_time_in_proportion_to_their_number(
    tmp_path: Path,
) -> None:
    lines = [
        f'{{"e": {unit}, "loss": %s, "steps": 1, "checkpoint": null}}\n' for unit in range(50_000)
    ]
    text = "".join(HEADER + "".join(line % loss for line in lines) for loss in (1.0, 2.0))
    (tmp_path / "sotl.jsonl").write_text(text)
    sessions, _ = read_record(tmp_path / "sotl.jsonl")
    (run,) = merge_sessions(sessions)
    assert set(run.losses.values()) == {2.0}
    # Each replaces the last of 50,000 units. A walk through all units would take half a minute.
    replacing = [
        Session("a", tmp_path, {}, float(place), {49_999: float(place)}) for place in range(9000)
    ]
    (run,) = merge_sessions([*sessions, *replacing])
    assert (run.losses[49_999], run.losses[49_998], len(run.losses)) == (8999.0, 2.0, 50_000)
