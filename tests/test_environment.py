"""The variable LIGHTNING_SOTL adds the callbacks to the Trainers of an unchanged program."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from lightning_sotl import environment
from lightning_sotl.cli import main
from tests.support.helpers import (
    PACKAGES,
    SAFELY,
    door,
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)

# A program that knows nothing of this package.
PROGRAM = """
import sys
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

pl.seed_everything(0)
trainer = pl.Trainer(
    max_epochs=5, limit_val_batches=0, logger=False, accelerator="cpu",
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
loader = torch.utils.data.DataLoader(torch.randn(12, 32), batch_size=4, shuffle=True)
trainer.fit(BoringModel(), loader, ckpt_path=sys.argv[1] if len(sys.argv) > 1 else None)
print(trainer.current_epoch, *sorted(type(callback).__name__ for callback in trainer.callbacks))
"""


def run_program(folder: Path, *arguments: str) -> str:
    """Return the last line that the program prints in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def ours(trainer: Any) -> list[str]:
    return [type(cb).__name__ for cb in trainer.callbacks if hasattr(type(cb), "_sotl_place")]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_entry_points_of_both_packages_are_registered(package: str) -> None:
    (point,) = (
        point
        for point in entry_points(group=f"{package}.callbacks_factory")
        if point.name == "lightning_sotl"
    )
    assert point.load()() == []


def test_without_the_variable_a_trainer_has_only_its_own_callbacks(
    tmp_path: Path, package: str
) -> None:
    assert trainer(tmp_path, package).callbacks == []


def test_a_program_is_stopped_ranked_and_promoted_without_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ranked(folder: str, at: str) -> list[str]:
        """Return the printed estimate at T, epochs and checkpoint of the only run."""
        main(["rank", str(tmp_path / folder), "--at", at])
        return capsys.readouterr().out.splitlines()[1].split()[2:]

    monkeypatch.setenv("LIGHTNING_SOTL", "stop_epoch=2 directory=stopped")
    assert run_program(tmp_path) == "2 EarlyRankingStopper SoTLMonitor"
    _, epochs, checkpoint = ranked("stopped", at="2")
    assert epochs == "2"
    monkeypatch.setenv("LIGHTNING_SOTL", "stop_epoch=2 promoted=1 directory=stopped")
    assert run_program(tmp_path, checkpoint) == "5 EarlyRankingStopper SoTLMonitor"
    monkeypatch.setenv("LIGHTNING_SOTL", "window=1 directory=whole")
    assert run_program(tmp_path) == "5 SoTLMonitor"
    assert ranked("stopped", at="5")[:2] == ranked("whole", at="5")[:2]


def test_the_losses_are_those_of_the_program(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", "window=1,2, every_n_train_batches=2;ema_decay=0.9")
    model, fitted = scripted_model(package), trainer(tmp_path, package, max_epochs=2)
    fitted.fit(model, loader(2))
    (monitor,) = (cb for cb in fitted.callbacks if type(cb).__name__ == "SoTLMonitor")
    assert isinstance(monitor, lightning(package).Callback)
    assert monitor.metric_names == (
        "sotl_b2", "sotl_b2_e1", "sotl_b2_e2", "sotl_b2_ema0.9"
    )  # fmt: skip
    assert monitor.epoch_losses == returned_epoch_losses(model)


def test_every_option_reaches_its_callback(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    text = (
        "window=3 ema_decay=0.5 every_n_train_batches=7 loss_key=total record_metrics=val_loss,acc "
        "name=a b, directory=~/runs/lr=0.1,width=4/x,stop_batches=21 promoted=false"
    )
    factory = entry_points(group=f"{package}.callbacks_factory")["lightning_sotl"].load()
    monkeypatch.setenv("LIGHTNING_SOTL", text)
    monitor, stopper = factory()
    assert (monitor.window, monitor.ema_decay, monitor.every_n_train_batches) == (3, 0.5, 7)
    assert (monitor.loss_key, monitor.record_metrics) == ("total", ("val_loss", "acc"))
    assert (monitor.name, monitor.directory) == ("a b", "/home/user/runs/lr=0.1,width=4/x")
    assert (stopper.stop_batches, stopper.promoted) == (21, False)
    assert (stopper.monitor, stopper.checkpoint_dir) == ("sotl_b7_e3", monitor.directory)


@pytest.mark.parametrize("options", ["window=1", "stop_epoch=1"])
def test_the_added_monitor_gives_way_to_the_users(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", options)
    own = door(package).SoTLMonitor()
    fitted = trainer(tmp_path, package, callbacks=[own])
    fitted.fit(scripted_model(package), loader())
    assert own.epoch_losses
    assert own in fitted.callbacks
    assert ours(fitted).count("SoTLMonitor") == 1
    assert fitted.current_epoch == (3 if options == "window=1" else 1)


def test_the_added_stopper_gives_way_to_the_users(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", "stop_epoch=1")
    own = door(package).EarlyRankingStopper(stop_epoch=2)
    fitted = trainer(tmp_path, package, callbacks=[own])
    fitted.fit(scripted_model(package), loader())
    assert own.epochs_completed == 2
    assert sorted(ours(fitted)) == ["EarlyRankingStopper", "SoTLMonitor"]


def test_the_added_monitor_gives_way_to_one_that_the_module_configures(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", "window=1")
    own, model = door(package).SoTLMonitor(), scripted_model(package)
    model.configure_callbacks = lambda: [own]
    fitted = trainer(tmp_path, package)
    fitted.fit(model, loader())
    assert [cb for cb in fitted.callbacks if hasattr(type(cb), "_sotl_place")] == [own]


def test_a_checkpoint_resumes_with_the_users_own_callbacks(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", f"stop_epoch=1 directory={tmp_path}")
    stopped = trainer(tmp_path, package)
    stopped.fit(scripted_model(package), loader())
    (checkpoint,) = tmp_path.glob("*.ckpt")
    monkeypatch.delenv("LIGHTNING_SOTL")
    monitor = door(package).SoTLMonitor()
    promoted = door(package).EarlyRankingStopper(stop_epoch=1, promoted=True)
    model = scripted_model(package)
    trainer(tmp_path, package, callbacks=[monitor, promoted]).fit(
        model, loader(), ckpt_path=checkpoint, **SAFELY
    )
    assert sorted(monitor.epoch_losses) == [0, 1, 2]
    assert model.returned[0][0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "on",
            "Expected the environment variable LIGHTNING_SOTL to be options such as "
            "'stop_epoch=10 directory=runs/a' but got 'on'.",
        ),
        (
            "1 window=2",
            "Expected the environment variable LIGHTNING_SOTL to be options such as "
            "'stop_epoch=10 directory=runs/a' but got '1 window=2'.",
        ),
        (
            "windw=2",
            "Expected the options of LIGHTNING_SOTL to be among 'window', 'ema_decay', "
            "'every_n_train_batches', 'loss_key', 'record_metrics', 'name', 'directory', "
            "'stop_epoch', 'stop_batches', 'monitor', 'promoted' but got 'windw'.",
        ),
        (
            "window=1 window=2",
            "Expected each option of LIGHTNING_SOTL once but got 'window=1 window=2'.",
        ),
        (
            "window=two",
            "Expected `window` in LIGHTNING_SOTL to be an integer or several such as 1,10 but got "
            "'two'.",
        ),
        (
            "window=",
            "Expected `window` in LIGHTNING_SOTL to be an integer or several such as 1,10 but got "
            "''.",
        ),
        ("directory=", "Expected `directory` in LIGHTNING_SOTL to be a folder but got ''."),
        (
            "stop_epoch=1.5",
            "Expected `stop_epoch` in LIGHTNING_SOTL to be an integer but got '1.5'.",
        ),
        (
            "stop_epoch=1 promoted=yes",
            "Expected `promoted` in LIGHTNING_SOTL to be 1 or 0 but got 'yes'.",
        ),
        (
            "stop_epoch=0",
            "Expected `stop_epoch` to be a positive integer but got 0. It is set by "
            "LIGHTNING_SOTL='stop_epoch=0'.",
        ),
        (
            "promoted=1",
            "Expected exactly one of `stop_epoch` and `stop_batches`, or a `policy`, but got "
            "stop_epoch=None and stop_batches=None. It is set by LIGHTNING_SOTL='promoted=1'.",
        ),
    ],
)
def test_a_wrong_value_is_refused_when_the_trainer_is_made(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("LIGHTNING_SOTL", text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared
        trainer(tmp_path, package)
    assert str(caught.value) == message


def test_an_unused_entry_point_loads_nothing_heavy() -> None:
    code = (
        "import sys; from lightning_sotl import environment as e; "
        "assert e.lightning_callbacks() == e.pytorch_lightning_callbacks() == []; "
        "print(sorted(set(sys.modules) & {'torch', 'numpy', 'lightning', 'pytorch_lightning'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert environment.VARIABLE == "LIGHTNING_SOTL"
