"""RayReporter without a Ray, and the arguments and Trainers that it refuses."""

import copy
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations._ray import session
from lightning_sotl.integrations.ray import RayReporter, find_winners, starting_point
from tests.support.helpers import (
    SAFELY,
    StatefulLoader,
    Stream,
    loader,
    scripted_loss,
    scripted_model,
    trainer,
)


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


class StatefulStream(StatefulLoader):
    """A loader without a length, from which Lightning fetches one batch ahead."""

    __len__ = None


class Trial:
    """A trial in blocks of `size` batches, without a Ray. It ends its turns at `stops`."""

    def __init__(self, folder, monkeypatch, size, stops=()):
        self.folder, self.size, self.stops = folder, size, stops
        self.reports, self.with_checkpoint, self.checkpoint_path = [], [], None
        monkeypatch.setattr(session, "in_trial", lambda: True)
        monkeypatch.setattr(session, "report", self.report)

    def report(self, metrics, checkpoint):
        self.reports.append((metrics["training_iteration"], metrics[f"sotl_b{self.size}_e1"]))
        self.with_checkpoint.append(checkpoint is not None)
        if checkpoint is not None:
            folder = shutil.copytree(checkpoint.path, self.folder / str(len(self.reports)))
            self.checkpoint_path = Path(folder) / "checkpoint.ckpt"
        return metrics["training_iteration"] in self.stops

    def fit(self, model, data, *callbacks, every=1, **options):
        monitor = SoTLMonitor(every_n_train_batches=self.size, record=False)
        reporter = RayReporter(f"sotl_b{self.size}_e1", checkpoint_every=every)
        run = trainer(self.folder, callbacks=[reporter, *callbacks, monitor], **options)
        run.fit(model, data, ckpt_path=self.checkpoint_path, **SAFELY)
        return model.returned


@pytest.mark.parametrize("kind", [StatefulLoader, StatefulStream])
def test_turns_that_end_inside_an_epoch_train_the_same_batches_as_a_whole_run(
    tmp_path, monkeypatch, kind
):
    trial, returned = Trial(tmp_path, monkeypatch, 2, stops=(1, 3)), []
    for _ in range(3):
        model = scripted_model(by_batch=True, val=True)
        returned += trial.fit(model, kind(9), max_epochs=1, val_check_interval=4)
    losses = [scripted_loss(0, batch) for batch in range(9)]
    assert [loss for _, _, loss in returned] == losses
    expected = [(b + 1, (losses[2 * b] + losses[2 * b + 1]) / 2) for b in range(4)]
    assert trial.reports == expected


PENDING = (
    "gradients were accumulated but not applied at its checkpoint, which does not contain them. "
    "Use a block size that is a multiple of `accumulate_grad_batches`."
)
STATELESS = (
    "a training loader has no `state_dict`, so it starts from its beginning. Use a loader with a "
    "state, such as torchdata's StatefulDataLoader."
)


@pytest.mark.parametrize(
    ("data", "options", "problem"),
    [
        (StatefulLoader(9), {"accumulate_grad_batches": 2}, PENDING),
        (torch.utils.data.DataLoader(Stream(9), batch_size=1), {}, STATELESS),
    ],
)
def test_a_resume_inside_an_epoch_that_is_not_exact_causes_a_warning(
    tmp_path, monkeypatch, data, options, problem
):
    trial = Trial(tmp_path, monkeypatch, 3, stops=(1,))
    trial.fit(scripted_model(), data, max_epochs=1, **options)
    message = (
        "The trial resumes inside an epoch and will differ from one that was never stopped: "
        f"{problem}"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        trial.fit(scripted_model(), data, max_epochs=1, **options)


@pytest.mark.parametrize("limited", ["by the stopper", "by max_steps"])
def test_the_report_of_the_last_block_has_a_checkpoint(tmp_path, monkeypatch, limited):
    trial, options = Trial(tmp_path, monkeypatch, 2), {"max_steps": 6}
    callbacks = []
    if limited == "by the stopper":
        callbacks, options = [EarlyRankingStopper(stop_batches=6, monitor="sotl_b2_e1")], {}
    trial.fit(scripted_model(val=True), loader(9), *callbacks, every=5, max_epochs=1, **options)
    assert trial.with_checkpoint == [False, False, True]


def test_a_block_that_begins_in_an_earlier_epoch_is_saved_with_its_own_random_state(
    tmp_path, monkeypatch
):
    trial, states = Trial(tmp_path, monkeypatch, 3), []
    report = trial.report

    def compare(metrics, checkpoint):
        path = f"{checkpoint.path}/checkpoint.ckpt"
        (saved,) = torch.load(path, weights_only=True)["lightning_sotl_random_states"]
        states.append(torch.equal(saved["torch"], torch.get_rng_state()))
        return report(metrics, checkpoint)

    monkeypatch.setattr(session, "report", compare)
    model = scripted_model(loss=lambda epoch, batch: float(torch.rand(())))
    options = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}
    trial.fit(model, loader(4, shuffle=True), **options)
    assert states == [True, True]  # after 3 and 6 batches


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:None of the 2 steps of block 0 returned a loss")
def test_a_trial_without_losses_is_refused_after_its_first_block(tmp_path, monkeypatch):
    steps = []
    model = scripted_model(loss=lambda epoch, batch: steps.append(batch))
    message = "`monitor='sotl_b2_e1'` cannot have a value because no training step returned a loss."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        Trial(tmp_path, monkeypatch, 2).fit(model, loader(9), max_epochs=1)
    assert steps == [0, 1]


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


def test_a_promotion_by_a_metric_that_no_trial_reports_names_the_reported_estimates():
    metrics = {"sotl_b100_e1": 1.0, "training_iteration": 3, "trial_id": "a"}
    trial = SimpleNamespace(metrics=metrics, checkpoint=None, config={}, error=None, path="a")
    message = (
        "None of the 2 trials has a finite `sotl_e1`, so there is none to promote. They report "
        "'sotl_b100_e1'; pass one as `monitor`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_winners([trial, trial], 1)
