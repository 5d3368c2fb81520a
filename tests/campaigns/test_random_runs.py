"""A short version of the campaign of random runs, and errors that it must find."""

import pytest

from lightning_sotl.callbacks import monitor, stopper
from lightning_sotl.losses.history import LossHistory
from tests.campaigns import random_runs

pytestmark = pytest.mark.filterwarnings("ignore")  # of many kinds, from drawn arguments


def test_random_runs_have_the_losses_that_their_modules_returned():
    tally = random_runs.campaign(range(40))
    assert tally.faults == []
    assert tally.counts["runs"] == 40
    assert tally.counts["fits that raised"] > 5
    assert tally.counts["fits: resumed"] > 10
    assert tally.counts["stops"] > 10
    assert tally.counts["runs compared with an uninterrupted run"] > 0


def lose_a_loss(monkeypatch):
    monkeypatch.setattr(LossHistory, "_loss", lambda self, unit: self._units[unit][0] / 7)


def trust_lightning(monkeypatch):
    monkeypatch.setattr(monitor, "train_whole_epochs_after_resume", lambda trainer: None)
    monkeypatch.setattr(stopper, "train_whole_epochs_after_resume", lambda trainer: None)


@pytest.mark.parametrize("error", [lose_a_loss, trust_lightning])
def test_an_error_is_found(monkeypatch, error):
    error(monkeypatch)
    assert random_runs.campaign(range(15)).faults
