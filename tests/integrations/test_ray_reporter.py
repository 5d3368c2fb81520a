"""RayReporter outside a trial, and the arguments and Trainers that it refuses."""

import copy
import logging
import re

import pytest

from lightning_sotl import SoTLMonitor
from lightning_sotl.integrations._ray import session
from lightning_sotl.integrations.ray import RayReporter, starting_point
from tests.support.helpers import loader, scripted_model, trainer


def test_a_run_outside_a_trial_trains_and_logs_that_nothing_is_reported(tmp_path, caplog):
    with starting_point() as start:
        assert (start.checkpoint_path, start.promoted) == (None, False)
    model = scripted_model()
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, callbacks=[SoTLMonitor(), RayReporter()]).fit(model, loader(4))
    message = "This run is not a Ray Tune trial, so nothing is reported."
    assert caplog.messages.count(message) == 1
    assert len(model.returned) == 12


def test_stopped_by_ray_is_also_set_on_the_reporter_that_was_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "in_trial", lambda: True)
    reporter = RayReporter(checkpoint_every=None)
    for answer in (True, False):  # whether Ray stops the trial at its first report
        monkeypatch.setattr(session, "report", lambda metrics, checkpoint, answer=answer: answer)
        callbacks = [SoTLMonitor(), copy.deepcopy(reporter)]
        trainer(tmp_path, callbacks=callbacks).fit(scripted_model(), loader(4))
        assert reporter.stopped_by_ray is callbacks[1].stopped_by_ray is answer


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"monitor": ""}, ValueError, "Expected `monitor` to be a non-empty string but got ''."),
        (
            {"metrics": "val_acc"},
            TypeError,
            "Expected `metrics` to be a sequence of names but got 'val_acc'.",
        ),
        ({"metrics": [1]}, TypeError, "Expected `metrics` to be a string but got 1."),
        (
            {"checkpoint_every": 0},
            ValueError,
            "Expected `checkpoint_every` to be a positive integer but got 0.",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        RayReporter(**options)


# Python warns about a fork in a process with threads.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_trainer_with_several_processes_is_refused(tmp_path):
    several = trainer(tmp_path, callbacks=RayReporter(), devices=2, strategy="ddp_fork")
    message = (
        "Expected a trial's Trainer to have 1 process but got 2: Ray receives reports only from "
        "the trial's own process. Give it one device, or train with Ray's TorchTrainer."
    )
    with pytest.raises(Exception, match=re.escape(message)):
        several.fit(scripted_model(), loader(4))
