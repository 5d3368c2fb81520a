"""The user's callbacks get the results of copies that a library trained or pickled."""

import copy
import importlib
import pickle

import pytest
import torch

from lightning_sotl import AdaptivePolicy
from tests.support.helpers import (
    PACKAGES,
    door,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_loss,
    scripted_model,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def callbacks(package="pytorch_lightning"):
    home = door(package)
    return [home.SoTLMonitor(window=(1, 2)), home.EarlyRankingStopper(stop_epoch=2)]


def fit(tmp_path, own, *, package="pytorch_lightning", factor=1.0, **options):
    model = scripted_model(package, loss=lambda e, b: factor * scripted_loss(e, b))
    trainer(tmp_path, package, callbacks=own, **options).fit(model, loader(4))
    return returned_epoch_losses(model)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_users_own_callbacks_have_the_results_of_the_copy_that_trained_last(tmp_path, package):
    monitor, stopper = callbacks(package)
    for factor in (1.0, 0.5):  # a new model for each trial, as in libraries
        copies = copy.deepcopy([monitor, stopper])
        logger = lightning(package).loggers.CSVLogger(tmp_path)
        losses = fit(tmp_path, copies, package=package, factor=factor, logger=logger)
        assert monitor.epoch_losses == copies[0].epoch_losses == losses
        assert monitor.estimates["sotl_e2"] == losses[0] + losses[1]
        assert monitor.run_id == copies[0].run_id
        assert monitor.record_path == copies[0].record_path
        assert (stopper.estimate, stopper.epochs_completed) == (losses[1], 2)
        assert stopper.stopping_reason == "stop_epoch_reached"


def test_a_copy_of_a_copy_reports_to_both(tmp_path):
    first = callbacks()
    second = copy.deepcopy(first)
    losses = fit(tmp_path, copy.deepcopy(second))
    for monitor, stopper in (first, second):
        assert (monitor.epoch_losses, stopper.estimate) == (losses, losses[1])


def test_a_callback_that_trained_and_its_copies_keep_their_own_results(tmp_path):
    own = callbacks()
    losses = fit(tmp_path, own)
    twins = [copy.deepcopy(own) for _ in range(2)]
    others = [fit(tmp_path, twins[0], factor=2.0), fit(tmp_path, twins[1], factor=3.0)]
    for (monitor, stopper), expected in zip([own, *twins], [losses, *others], strict=True):
        assert (monitor.epoch_losses, stopper.estimate) == (expected, expected[1])


def test_a_copy_whose_fit_raises_returns_its_results_so_far(tmp_path):
    (monitor, _), model = callbacks(), scripted_model()
    model.on_train_epoch_end = lambda: 1 / (2 - model.current_epoch)
    with pytest.raises(ZeroDivisionError, match="division"):
        trainer(tmp_path, callbacks=[copy.deepcopy(monitor)]).fit(model, loader(4))
    assert monitor.epoch_losses == returned_epoch_losses(model)
    assert sorted(monitor.epoch_losses) == [0, 1, 2]


def test_a_callback_whose_copy_was_trained_can_be_trained_itself(tmp_path):
    monitor, stopper = callbacks()
    fit(tmp_path, copy.deepcopy([monitor, stopper]))
    losses = fit(tmp_path, [monitor, stopper], factor=2.0)
    assert (monitor.epoch_losses, stopper.estimate) == (losses, losses[1])


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("package", PACKAGES)
def test_a_restricted_unpickler_needs_only_the_classes(tmp_path, package, used):
    own = callbacks(package)
    losses = fit(tmp_path, own, package=package) if used else {}
    path = tmp_path / "model.pt"
    torch.save({"callbacks": own}, path)
    with torch.serialization.safe_globals([type(callback) for callback in own]):
        monitor, stopper = torch.load(path, weights_only=True)["callbacks"]
    assert (monitor.window, monitor.metric_names) == ((1, 2), ("sotl", "sotl_e1", "sotl_e2"))
    assert (monitor.epoch_losses, stopper.estimate) == (losses, losses.get(1))
    again = fit(tmp_path, [monitor, stopper], package=package, factor=0.5)
    assert (monitor.epoch_losses, stopper.estimate) == (again, again[1])


def test_a_subclass_keeps_its_own_attributes_in_a_pickle():
    monitor = Subclass(window=3)
    for twin in (copy.deepcopy(monitor), copy.copy(monitor), pickle.loads(pickle.dumps(monitor))):  # noqa: S301
        assert (twin.mine, twin.window, twin.metric_names) == ([1], 3, ("sotl", "sotl_e3"))


class Subclass(door().SoTLMonitor):
    def __init__(self, **options):
        super().__init__(**options)
        self.mine = [1]


def test_a_pickled_stopper_keeps_its_policy_and_directory():
    policy = AdaptivePolicy(9, keep=2.0)
    stopper = door().EarlyRankingStopper(policy=policy, directory="runs", monitor="sotl")
    twin = pickle.loads(pickle.dumps(stopper))  # noqa: S301  # our own
    assert (twin.policy, twin.directory, twin.decision) == (policy, "runs", None)
    assert importlib.import_module(type(twin).__module__) is door()
