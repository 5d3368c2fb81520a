"""Short versions of the campaigns in `campaigns/faults.py`."""

import gc
import re
import subprocess
import sys

import pytest
import torch

from lightning_sotl import SoTLMonitor
from tests.support.helpers import lightning, loader, scripted_model, trainer
from tests.support.paths import ROOT

pl = lightning()
SCRIPT = ["-m", "tests.campaigns.faults"]


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_killed_runs_resume_exactly_and_runs_are_ranked_correctly_while_they_are_written():
    names = ["killed-runs", "killed-ranks", "killed-studies", "killed-sweeps", "read-while-written"]
    done = subprocess.run(
        [sys.executable, *SCRIPT, *names, "--lean"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"faults +(\d+)", done.stdout) == ["0"] * 5
    restarts = [int(number) for number in re.findall(r"restarts +(\d+)", done.stdout)]
    assert restarts[0] >= 4
    assert restarts[1] == 1
    assert restarts[2] >= 2  # two sweeps, each killed at a write
    assert re.findall(r"  kills +(\d+)", done.stdout) == ["3"]


def test_a_long_epoch_keeps_no_tensor_of_its_steps(tmp_path):
    counts = []

    class Count(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            # Losses wait in buffers of 256.
            if trainer.global_step in (257, 769):
                gc.collect()
                counts.append(sum(type(entry) is torch.Tensor for entry in gc.get_objects()))

    model = scripted_model(loss=lambda e, b: 1.0)
    trainer(tmp_path, callbacks=[SoTLMonitor(), Count()], max_epochs=1).fit(model, loader(800))
    assert counts[0] == counts[1]
