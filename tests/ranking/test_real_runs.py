"""`rank` on real runs, compared with the values that the callbacks had in training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule
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
    """Train a run to T = 2, or from there to the end; return its last estimate and checkpoint."""
    monitor = SoTLMonitor(record=record)
    stopper = EarlyRankingStopper(stop_epoch=2, promoted=resume is not None)
    level = (run * 7) % 5 + 1
    # The order is reversed after T, so that a ranking at the wrong T fails the test.
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


# ModelCheckpoint warns of a promoted run, because it logs into another folder.
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
@pytest.mark.parametrize("record", [True, False])
def test_the_order_is_that_of_the_values_in_training_before_and_after_promotion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Any, record: bool
) -> None:
    estimates, checkpoints = {}, {}
    for run in range(4):
        value, checkpoint = train(tmp_path, run, kind, record=record)
        estimates[f"version_{run}"], checkpoints[f"version_{run}"] = value, checkpoint
    expected = sorted(estimates, key=estimates.__getitem__)
    logs = tmp_path / "logs" / "sweep"
    before = ranked(capsys, logs)
    assert before["at"] == 2
    assert [row["run_id"] for row in before["runs"]] == expected
    for row in before["runs"]:
        exact = 0.0 if record or kind is CSVLogger else 1e-6
        assert row["estimate"] == pytest.approx(estimates[row["run_id"]], rel=exact, abs=0.0)
        if record:
            assert row["checkpoint"] == checkpoints[row["run_id"]]
    if not record:
        return  # logs do not show that a new folder continues an old run
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


class Batches:
    """A loader without a `batch_size`."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(self._size, 1)] * 3)


class Data(LightningDataModule):
    def __init__(self, noise: float, size: int) -> None:
        super().__init__()
        self.save_hyperparameters("noise")
        self._size = size

    def train_dataloader(self) -> Any:
        return Batches(self._size)


@pytest.mark.parametrize(
    ("models", "noises", "sizes", "field", "values"),
    [
        ([{"dropout": 0.0}, {"dropout": 0.1}], [0, 0], [4, 4], "hparams.model.dropout", "0.0 0.1"),
        ([{"loss": "mse"}, {"loss": "mae"}], [0, 0], [4, 4], "hparams.model.loss", '"mse" "mae"'),
        ([{"width": 8}, {"width": 9}], [0.1, 0.3], [4, 4], "hparams.noise", "0.1 0.3"),
        ([{"width": 8}, {"width": 9}], [0, 0.0], [4, 8], "batch_size", "4 8"),
    ],
    ids=["nested", "loss", "data", "batch"],
)
def test_differences_of_module_data_and_loaders_are_reported_and_group_the_runs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    models: list[dict[str, Any]],
    noises: list[float],
    sizes: list[int],
    field: str,
    values: str,
) -> None:
    for model, noise, size in zip(models, noises, sizes, strict=True):
        net = scripted_model()
        net.save_hyperparameters({"model": model})
        logger = CSVLogger(tmp_path)
        fit = trainer(tmp_path, max_epochs=1, logger=logger, callbacks=[SoTLMonitor()])
        fit.fit(net, datamodule=Data(noise, size))
    capsys.readouterr()
    assert main(["rank", str(tmp_path), "--json"]) == 0
    one, other = values.split()
    assert capsys.readouterr().err.splitlines()[0] == (
        "warning: The runs differ in settings that change the training loss, so their order may "
        f"not show which is better: {field} ({one} in 1 run, {other} in 1 run). "
        "`lightning-sotl rank --group-by FIELD` compares like with like."
    )
    assert main(["rank", str(tmp_path), "--json", "--group-by", field]) == 0
    groups = json.loads(capsys.readouterr().out)
    assert [group["group"] for group in groups] == [{field: one}, {field: other}]
