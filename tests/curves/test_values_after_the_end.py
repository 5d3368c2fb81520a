"""Values that are logged after the end of a training, or after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.helpers import loader, scripted_model, trainer
from tests.support.run_folders import csv_rows, write_csv_log, write_record

nan = np.nan


def validated_and_tested() -> Any:
    model = scripted_model()

    class Judged(type(model)):
        def validation_step(self, batch: torch.Tensor, index: int) -> None:
            self.log("val", 10.0 * self.current_epoch, batch_size=1)

        def test_step(self, batch: torch.Tensor, index: int) -> None:
            self.log("acc", float(self.trainer.global_step), batch_size=1)

    model.__class__ = Judged
    return model


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_test_at_the_stop_is_not_the_target_of_the_promoted_run(
    tmp_path: Path, kind: Any
) -> None:
    pytest.importorskip("tensorboard")
    checkpoint: str | None = None
    for tests in (True, False, True):
        stopper = EarlyRankingStopper(stop_epoch=2, promoted=checkpoint is not None)
        run = trainer(
            tmp_path,
            max_epochs=4,
            logger=kind(tmp_path / "logs", name=""),
            callbacks=[SoTLMonitor(), stopper],
            enable_checkpointing=True,
            num_sanity_val_steps=0,
        )
        model = validated_and_tested()
        run.fit(model, loader(2), loader(1), ckpt_path=checkpoint)
        checkpoint = checkpoint or stopper.checkpoint_path
        if tests:
            run.validate(model, loader(1), verbose=False)
            run.test(model, loader(1), verbose=False)
        found = read_logs(tmp_path / "logs", LogKeys(val_loss="val", final_metric="acc"))
        if not tests:
            message = (
                "The 'acc' of 1 run does not count because it was logged before the run resumed: "
                "'version_0'."
            )
            assert message in found.notes.warnings
            np.testing.assert_array_equal(found.curves.final_metric, [nan])
            np.testing.assert_array_equal(found.curves.val_loss, [[0.0, 10.0, 20.0, 30.0]])
    # The winner was promoted twice, once without a test: two runs that share their first epochs.
    assert found.curves.names == ("version_0", "version_2")
    np.testing.assert_array_equal(found.curves.final_metric, [nan, 8.0])
    np.testing.assert_array_equal(found.curves.val_loss, [[0.0, 10.0, 20.0, 30.0]] * 2)


def test_a_value_after_the_last_completed_epoch_does_not_count(tmp_path: Path) -> None:
    """For example from a validation after the training, or from an epoch that a kill ended."""
    write_record(tmp_path / "v0", [3.0, 2.0])
    write_csv_log(tmp_path / "v0", [{"epoch": e, "val": e + 0.5} for e in range(3)])
    write_csv_log(tmp_path / "v1", [*csv_rows([4.0, 2.0]), {"epoch": 2, "val": 9.0}])
    write_csv_log(tmp_path / "v2", [*csv_rows([5.0], val=[4.0]), {"epoch": 1, "val": 9.0}])
    found = read_logs(tmp_path, LogKeys(val_loss="val"))
    expected = [[0.5, 1.5, nan], [nan, nan, 9.0], [4.0, nan, nan]]
    np.testing.assert_array_equal(found.curves.val_loss, expected)
    assert found.notes.remarks == [
        "Values of 'val' that 2 runs logged after the last completed epoch are left out: 'v0', "
        "'v2'."
    ]


def test_a_stop_after_blocks_does_not_count_as_epochs(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0], unit=7, status="stopped")
    write_csv_log(tmp_path / "v0", [{"epoch": e, "val": 1.0} for e in range(5)])
    found = read_logs(tmp_path, LogKeys(others=["val"]), needs_losses=False)
    assert found.stopped_at == (None,)
    assert read_logs(tmp_path, LogKeys(block=7)).stopped_at == (2,)
