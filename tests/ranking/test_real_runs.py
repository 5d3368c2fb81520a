"""The order that `rank` prints against the values that were seen live, on real trainings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.cli import main
from tests.support.helpers import loader, scripted_model, trainer
from tests.support.paths import EXAMPLES

pytest.importorskip("tensorboard")

EXAMPLE = EXAMPLES / "rank_runs.py"


def train(
    folder: Path, run: int, kind: Any, *, record: bool, resume: str | None = None
) -> tuple[float, str | None]:
    """Train a run to T = 2, or from there to the end; return its live value and checkpoint."""
    monitor = SoTLMonitor(record=record)
    stopper = EarlyRankingStopper(stop_epoch=2, promoted=resume is not None)
    level = (run * 7) % 5 + 1
    # After T the order turns round, so that a ranking at the wrong T would show.
    model = scripted_model(
        loss=lambda epoch, batch: (level if epoch < 2 else 9 - level) / (epoch + 1) + batch / 8
    )
    fit = trainer(
        folder,
        max_epochs=4,
        logger=kind(folder / "logs", name="sweep"),
        callbacks=[monitor, stopper],
        enable_checkpointing=True,
    )
    fit.fit(model, loader(3), ckpt_path=resume)
    return monitor.estimates["sotl_e1"], stopper.checkpoint_path


def ranked(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["rank", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ModelCheckpoint's word on a promoted run that logs into a folder of its own.
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
@pytest.mark.parametrize("record", [True, False])
def test_order_is_the_live_one_before_and_after_promotion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Any, record: bool
) -> None:
    live, checkpoints = {}, {}
    for run in range(4):
        value, checkpoint = train(tmp_path, run, kind, record=record)
        live[f"version_{run}"], checkpoints[f"version_{run}"] = value, checkpoint
    expected = sorted(live, key=live.__getitem__)
    logs = tmp_path / "logs" / "sweep"
    before = ranked(capsys, logs)
    assert before["at"] == 2
    assert [row["run_id"] for row in before["runs"]] == expected
    for row in before["runs"]:
        exact = 0.0 if record or kind is CSVLogger else 1e-6
        assert row["estimate"] == pytest.approx(live[row["run_id"]], rel=exact, abs=0.0)
        if record:
            assert row["checkpoint"] == checkpoints[row["run_id"]]
    if not record:
        return  # logs cannot say that a new folder goes on with an old run
    best = expected[0]
    train(tmp_path, int(best[-1]), kind, record=True, resume=checkpoints[best])
    after = ranked(capsys, logs)
    assert after["at"] == 2
    assert [row["run_id"] for row in after["runs"]] == expected
    assert [row["estimate"] for row in after["runs"]] == [row["estimate"] for row in before["runs"]]
    assert after["runs"][0]["epochs"] == 4


@pytest.mark.slow
def test_example_ends_in_a_sentence_with_numbers(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--smoke", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "After 1 of 4 epochs SoTL-E ranks 4 runs with Spearman" in done.stdout.splitlines()[-1]
