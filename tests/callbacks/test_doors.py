"""The callbacks with both Lightning packages: in a Trainer, with LightningCLI, and in pickles."""

import functools
import importlib
import pickle
import subprocess
import sys

import pytest

import lightning_sotl
from tests.support.helpers import (
    IS_LIGHTNING_2_5,
    PACKAGES,
    door,
    loader,
    scripted_model,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_callbacks_of_both_packages_have_a_docstring(package):
    assert door(package).SoTLMonitor.__doc__
    assert door(package).EarlyRankingStopper.__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_a_single_callback_needs_no_list(tmp_path, package):
    monitor = door(package).SoTLMonitor()
    trainer(tmp_path, package, callbacks=monitor).fit(scripted_model(package), loader(4))
    assert monitor.estimates == {
        "sotl": 4.28125 + 2.375 + 1.6302083730697632,
        "sotl_e1": 1.6302083730697632,
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_callback_of_the_other_package_works_in_a_list(tmp_path, package):
    other = PACKAGES[1 - PACKAGES.index(package)]
    monitor = door(other).SoTLMonitor()
    stopper = door(other).EarlyRankingStopper(stop_epoch=2)
    if IS_LIGHTNING_2_5:  # Lightning 2.5 refuses it
        with pytest.raises(ValueError, match=r"^Expected a parent$"):
            trainer(tmp_path, package, callbacks=[stopper, monitor])
        return
    trainer(tmp_path, package, callbacks=[stopper, monitor]).fit(scripted_model(package), loader(4))
    assert (stopper.estimate, stopper.epochs_completed) == (2.375, 2)


def test_a_checkpoint_of_one_package_resumes_in_the_other(tmp_path):
    first, second = (door(package) for package in PACKAGES)
    stopper = first.EarlyRankingStopper(stop_epoch=1)
    trainer(tmp_path, callbacks=[stopper, first.SoTLMonitor()], enable_checkpointing=True).fit(
        scripted_model(), loader(4)
    )
    monitor = second.SoTLMonitor()
    promoted = second.EarlyRankingStopper(stop_epoch=1, promoted=True)
    trainer(tmp_path, PACKAGES[1], callbacks=[promoted, monitor], enable_checkpointing=True).fit(
        scripted_model(PACKAGES[1]), loader(4), ckpt_path=stopper.checkpoint_path
    )
    assert list(monitor.epoch_losses) == [0, 1, 2]


CONFIG = """
trainer:
  max_epochs: 4
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  callbacks:
    - class_path: {home}.SoTLMonitor
      init_args:
        window: [1, 2]
        ema_decay: 0.5
    - class_path: {home}.EarlyRankingStopper
      init_args:
        stop_epoch: 3
        monitor: sotl_e2
"""


# Lightning's own use of jsonargparse.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*(Jsonargparse|in v4):DeprecationWarning")
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("how", ["arguments", "config file"])
def test_the_command_line_builds_the_callbacks(tmp_path, monkeypatch, package, how):
    home = "lightning_sotl.lightning" if package == "lightning.pytorch" else "lightning_sotl"
    cli_class = importlib.import_module(f"{package}.cli").LightningCLI
    module = type(scripted_model(package))
    if how == "config file":
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG.format(home=home))
        args = ["--config", str(path)]
    else:
        args = [
            "--trainer.max_epochs=4",
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_checkpointing=false",
            f"--trainer.callbacks+={home}.SoTLMonitor",
            "--trainer.callbacks.window=[1,2]",
            "--trainer.callbacks.ema_decay=0.5",
            f"--trainer.callbacks+={home}.EarlyRankingStopper",
            "--trainer.callbacks.stop_epoch=3",
            "--trainer.callbacks.monitor=sotl_e2",
        ]
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    cli = cli_class(module, run=False, save_config_callback=None, seed_everything_default=1)
    monitor, stopper = cli.trainer.callbacks[:2]
    assert isinstance(monitor, door(package).SoTLMonitor)
    cli.trainer.fit(cli.model, loader(1))
    assert monitor.metric_names == ("sotl", "sotl_e1", "sotl_e2", "sotl_ema0.5")
    assert (stopper.epochs_completed, stopper.estimate) == (3, monitor.estimates["sotl_e2"])


ONE_PACKAGE = """
import sys
from {package}.cli import LightningCLI
from {package}.demos.boring_classes import BoringModel
callbacks = ["{monitor}", "{stopper}"]
arguments = [f"--trainer.callbacks+={{name}}" for name in callbacks]
arguments += ["--trainer.callbacks.stop_epoch=1", "--trainer.logger=false"]
sys.argv = ["train.py", *arguments]
cli = LightningCLI(BoringModel, run=False, save_config_callback=None)
print(sorted({{type(callback).__module__ for callback in cli.trainer.callbacks[:2]}}))
print("{other}" in sys.modules)
import lightning_sotl
try:
    print(lightning_sotl.EarlyRankingStopper.__module__)
except AttributeError as error:
    print(error)
"""


@functools.cache
def lines_of_one_package(package):
    """Run LightningCLI of one package in a new process, and return the lines that it printed."""
    if package == "lightning.pytorch":
        homes, other = ("lightning_sotl.lightning", "lightning_sotl.lightning"), "pytorch_lightning"
    else:
        homes, other = ("lightning_sotl", "lightning_sotl.pytorch_lightning"), "lightning"
    monitor, stopper = f"{homes[0]}.SoTLMonitor", f"{homes[1]}.EarlyRankingStopper"
    code = ONE_PACKAGE.format(package=package, monitor=monitor, stopper=stopper, other=other)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_command_line_of_one_package_does_not_load_the_other(package):
    assert lines_of_one_package(package)[:2] == [f"['{door(package).__name__}']", "False"]


def test_a_name_for_the_other_package_raises_and_names_the_right_module():
    assert lines_of_one_package("pytorch_lightning")[2:] == ["lightning_sotl.pytorch_lightning"]
    assert lines_of_one_package("lightning.pytorch")[2:] == [
        "`lightning_sotl.EarlyRankingStopper` is for `pytorch_lightning`, but this process uses "
        "`lightning.pytorch`. Import it from `lightning_sotl.lightning`."
    ]


def test_the_command_line_shows_help_for_each_argument():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(lightning_sotl.SoTLMonitor, "monitor")
    text = parser.format_help()
    assert "E, the number of last epochs to sum" in text
    assert "The key of the loss in the output" in text


IMPORTS = """
import sys
import lightning_sotl
heavy = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "scipy", "matplotlib", "optuna",
         "ray", "sklearn", "tensorboard"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
lightning_sotl.sotl([1.0]); lightning_sotl.StoppingReason
assert "torch" not in sys.modules
lightning_sotl.SumOfTrainingLosses
assert not {"pytorch_lightning", "lightning"} & set(sys.modules)
import pickle
with open(sys.argv[1], "rb") as file:
    monitor, stopper = pickle.load(file)
print(type(monitor).__module__, monitor.estimates["sotl_e1"], stopper.estimate)
other = {"pytorch_lightning": "lightning", "lightning": "pytorch_lightning"}[sys.argv[2]]
assert sys.argv[2] in sys.modules
assert other not in sys.modules, other
assert not {"optuna", "ray"} & set(sys.modules)  # torchmetrics itself loads matplotlib
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_pickles_load_in_a_new_process_without_the_other_package(tmp_path, package):
    monitor = door(package).SoTLMonitor()
    stopper = door(package).EarlyRankingStopper(stop_epoch=2)
    trainer(tmp_path, package, callbacks=[monitor, stopper]).fit(scripted_model(package), loader(4))
    path = tmp_path / "callbacks.pkl"
    path.write_bytes(pickle.dumps([monitor, stopper]))
    new = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(path), package.split(".")[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert new.returncode == 0, new.stderr
    assert new.stdout.split() == [type(monitor).__module__, "2.375", "2.375"]


def test_the_public_names_are_documented_and_listed_by_dir():
    for name in lightning_sotl.__all__:
        value = getattr(lightning_sotl, name)
        if callable(value):
            assert value.__doc__, name
        else:  # a constant is documented in its module
            module = importlib.import_module(lightning_sotl._HOMES[name])
            assert f"`{name}`" in module.__doc__, name
    assert set(lightning_sotl.__all__) <= set(dir(lightning_sotl))


def test_an_unknown_name_raises():
    with pytest.raises(AttributeError, match="module 'lightning_sotl' has no attribute 'SoTL'"):
        lightning_sotl.SoTL  # noqa: B018
