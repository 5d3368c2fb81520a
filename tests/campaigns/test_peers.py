"""The campaign `peers.py` on a made-up project."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PROJECT = """
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted():
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(4, 1)))
    return trainer


def test_trains_all_epochs():
    assert fitted().current_epoch == 2


def test_lists_the_callbacks():
    names = [type(callback).__name__ for callback in fitted().callbacks]
    assert names == [], f"{len(names)} callbacks: {', '.join(names)}"


@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    assert fitted().current_epoch == 1


def test_fails_the_first_time():
    before = Path(__file__).with_name("ran.txt")
    ran = before.exists()
    before.touch()
    assert ran
"""

REPORT = """\
tests                                    4
same outcome: passed                     1
same outcome: xfailed                    1
different                                1
unstable                                 1
Trainers with our callbacks              3
their fits of at least one epoch         3

passed -> failed: AssertionError: N callbacks: SoTLMonitor, EarlyRankingStopper
  test_project.py::test_lists_the_callbacks

unstable
  test_project.py::test_fails_the_first_time
"""

NO_TRAINER = """\
tests                                    1
same outcome: passed                     1
different                                0
unstable                                 0
Trainers with our callbacks              0
their fits of at least one epoch         0

Our parts were in none of these tests.
"""


@pytest.mark.slow
def test_a_test_that_lists_the_callbacks_differs_and_an_unstable_one_is_told_apart(tmp_path):
    (tmp_path / "test_project.py").write_text(PROJECT)
    campaign = [sys.executable, "-m", "tests.campaigns.peers", "lightning", tmp_path]
    done = subprocess.run(campaign, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (REPORT, "", 1)

    (tmp_path / "test_project.py").write_text("def test_adds():\n    assert 1 + 1 == 2\n")
    done = subprocess.run(campaign, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (NO_TRAINER, "", 1)
