"""A winner has the parameters and the module of its stopped run, and trains from its checkpoint."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from omegaconf import OmegaConf

from lightning_sotl import Winner, find_winners
from lightning_sotl.record.writer import RunRecord
from tests.support.cli_modules import cli_classes
from tests.support.helpers import (
    IS_LIGHTNING_2_5,
    IS_TORCH_2_5,
    PACKAGES,
    door,
    lightning,
    loader,
    trainer,
)
from tests.support.run_folders import write_record

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Skipping '.*' parameter because it is not possible"),
    pytest.mark.filterwarnings("ignore:Attribute '.*' is an instance of `nn.Module`"),
]

EXACT = {
    "class_weights": {0: 1.0, 1: 5.0, 2: 1.0},
    "max_loss": math.inf,
    "sizes": (16, 8),
    "tags": ("a", "b") if IS_TORCH_2_5 else {"a", "b"},
    "nested": {"deep": [(1, 2), None, True]},
    "prior": torch.tensor([0.25, 0.75], dtype=torch.float64),
    "name": "<class 'of its own'>",
}


def make_net(package: str = PACKAGES[0]) -> Any:
    pl = lightning(package)

    class Net(pl.LightningModule):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return (self.weight - batch.mean()).pow(2)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Net


def make_data(package: str = PACKAGES[0]) -> Any:
    pl = lightning(package)

    class Data(pl.LightningDataModule):
        def __init__(self, batches: int = 3, noise: tuple[float, ...] = (0.5,)) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return loader(self.hparams["batches"])

    return Data


def stop(folder: Path, module: Any, data: Any = None, package: str = PACKAGES[0]) -> str:
    stopper = door(package).EarlyRankingStopper(stop_epoch=2)
    logger = importlib.import_module(f"{package}.loggers").CSVLogger(folder, name="runs")
    run = trainer(
        folder,
        package,
        max_epochs=4,
        logger=logger,
        callbacks=[door(package).SoTLMonitor(), stopper],
        enable_checkpointing=True,
    )
    run.fit(module, loader(3) if data is None else data)
    return str(stopper.checkpoint_path)


def promoting(folder: Path, trainer_class: Any = None, package: str = PACKAGES[0]) -> Any:
    callbacks = [
        door(package).SoTLMonitor(),
        door(package).EarlyRankingStopper(stop_epoch=2, promoted=True),
    ]
    options = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    make = trainer_class or lightning(package).Trainer
    return make(max_epochs=4, callbacks=callbacks, **options)


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal and have the same types at every level."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_parameters_of_a_winner_are_those_of_its_module(tmp_path: Path, package: str) -> None:
    stop(tmp_path, make_net(package)(**EXACT), package=package)
    (winner,) = find_winners(tmp_path, 1)
    assert same(winner.params, EXACT)


def test_parameters_include_the_datamodules_and_the_module_has_priority(
    tmp_path: Path,
) -> None:
    class Net(make_net()):  # type: ignore[misc]
        pass

    # Lightning refuses to log two different values of the same name.
    stop(tmp_path, Net(width=4, batches=3), make_data()(batches=3, noise=(0.1, 0.2)))
    (winner,) = find_winners(tmp_path, 1)
    assert same(winner.params, {"batches": 3, "noise": (0.1, 0.2), "width": 4})
    assert winner.load(make_data()).hparams == {"batches": 3, "noise": (0.1, 0.2)}
    assert winner.load(Net).hparams == {"batches": 3, "width": 4}


def test_parameters_of_the_monitor_have_priority(tmp_path: Path) -> None:
    path = stop(tmp_path, make_net()(width=4))
    (record,) = tmp_path.rglob("sotl.jsonl")
    record.unlink()
    given = {"width": "four", "lr": None}
    write_record(record.parent, [2.0, 1.0], checkpoint=path, status="stopped", params=given)
    (winner,) = find_winners(tmp_path, 1)
    assert winner.params == given


@pytest.mark.parametrize(
    ("name", "option", "named"),
    [
        ("metric", lambda: torchmetrics.MeanMetric(), "torchmetrics.aggregation.MeanMetric"),
        ("loss", lambda: torch.nn.MSELoss(), "torch.nn.modules.loss.MSELoss"),
        ("optimizer", lambda: torch.optim.Adam, "torch.optim.adam.Adam"),
        ("conf", lambda: OmegaConf.create({"lr": 0.1}), "omegaconf.dictconfig.DictConfig"),
        ("args", lambda: argparse.Namespace(lr=0.1), "argparse.Namespace"),
    ],
)
def test_a_checkpoint_that_needs_pickle_names_the_argument_that_allows_it(
    tmp_path: Path, name: str, option: Callable[[], Any], named: str
) -> None:
    net = make_net()
    path = stop(tmp_path, net(**{name: option(), "width": 4}))
    message = (
        f"`params` of 1 winner ('version_0') lacks '{name}': the record does not store the exact "
        "value, and its checkpoint cannot be read without pickle. Build the model with "
        "`winner.load(...)`, or pass the missing values yourself."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        (winner,) = find_winners(tmp_path / "runs", 1)
    assert caught[0].filename == __file__
    assert winner.params == {"width": 4}  # no `repr` among them
    calls = {
        "fit": lambda **given: winner.fit(promoting(tmp_path), net(), loader(3), **given),
        "load": lambda **given: winner.load(net, **given),
    }
    for method, call in calls.items():
        message = (
            "Expected the checkpoint of run 'version_0' to hold only tensors and plain values but "
            f"got {named}, which needs pickle. If you trust the source of '{path}', call `winner."
            f"{method}(..., weights_only=False)`. Loading it then runs any code in the file."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    assert type(calls["load"](weights_only=False).hparams[name]) is type(option())
    run = promoting(tmp_path)
    winner.fit(run, winner.load(net, weights_only=False), loader(3), weights_only=False)
    assert run.current_epoch == 4


def test_without_a_checkpoint_only_the_exact_values_of_the_record_remain(tmp_path: Path) -> None:
    Path(stop(tmp_path, make_net()(**EXACT))).unlink()
    message = (
        "`params` of 1 winner ('version_0') lacks 'class_weights', 'max_loss', 'nested', 'prior', "
        "'sizes' and 1 more: the record does not store the exact value, and its checkpoint is not "
        "a local file. Build the model with `winner.load(...)`, or pass the missing values "
        "yourself."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        (winner,) = find_winners(tmp_path / "runs", 1)
    assert winner.params == {"name": EXACT["name"]}


def test_an_old_record_does_not_return_a_repr_as_a_parameter(tmp_path: Path) -> None:
    hparams = {
        "lr": 0.1,
        "metric": "<torchmetrics.MeanMetric object at 0x7f>",
        "a": ["<class 'b'>"],
    }
    write_record(tmp_path / "v0", [1.0], checkpoint="gone.ckpt", hparams=hparams)
    with pytest.warns(UserWarning, match=r"^`params` of 1 winner \('v0'\) lacks 'a', 'metric': "):
        (winner,) = find_winners(tmp_path, 1)
    assert winner.params == {"lr": 0.1}


def test_parameters_are_those_of_the_stop_not_of_a_later_promotion(tmp_path: Path) -> None:
    """A promotion with another learning rate writes its own header."""
    folder = tmp_path / "v0"
    for lr, losses in ((0.1, [2.0, 1.0]), (0.9, [2.0, 1.0, 0.5])):
        record = RunRecord(folder / "sotl.jsonl")
        record.header("a", unit="epoch", hparams={"lr": lr}, inexact_hparams=[])
        for unit, loss in enumerate(losses):
            record.unit(unit, loss, 4, "gone.ckpt" if (lr, unit) == (0.1, 1) else None)
        record.status("stopped" if lr == 0.1 else "finished", reason="stop_epoch_reached")
    (winner,) = find_winners(tmp_path, 1)
    assert winner.params == {"lr": 0.1}


def test_the_module_of_a_winner_has_the_weights_at_its_stop(tmp_path: Path) -> None:
    module = make_net()(width=4)
    stop(tmp_path, module)
    (winner,) = find_winners(tmp_path, 1)
    loaded = winner.load(type(module))
    assert type(loaded) is type(module)
    assert torch.equal(loaded.weight, module.weight)
    assert loaded.weight.item() != 1.0
    assert winner.load(type(module), width=5).hparams == {"width": 5}


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
# Lightning itself causes these warnings of jsonargparse.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*(Jsonargparse|in v4):DeprecationWarning")
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("by_class_path", [False, True])
def test_a_checkpoint_of_lightning_cli_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, by_class_path: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    module_class, data_class = cli_classes(package)
    path = f"{module_class.__module__}.{module_class.__qualname__}"
    width = ["--model", path, "--model.init_args.width=7"] if by_class_path else ["--model.width=7"]
    home = door(package).__name__
    importlib.import_module(f"{package}.cli").LightningCLI(
        lightning(package).LightningModule if by_class_path else module_class,
        data_class,
        subclass_mode_model=by_class_path,
        seed_everything_default=0,
        args=[
            "fit",
            *width,
            f"--trainer.callbacks+={home}.SoTLMonitor",
            f"--trainer.callbacks+={home}.EarlyRankingStopper",
            "--trainer.callbacks.stop_epoch=2",
            f"--trainer.logger={package}.loggers.CSVLogger",
            f"--trainer.logger.save_dir={tmp_path}",
        ],
        trainer_defaults={
            "max_epochs": 4,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path),
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        save_config_callback=None,
    )
    (winner,) = find_winners(tmp_path, 1)
    assert winner.params == {"width": 7, "batches": 3}
    loaded = winner.load(module_class)
    assert type(loaded) is module_class
    assert loaded.hparams["width"] == 7


def old_style(base: Any) -> Any:
    class Old(base):  # type: ignore[misc]
        def fit(
            self,
            model: Any,
            train_dataloaders: Any = None,
            val_dataloaders: Any = None,
            datamodule: Any = None,
            ckpt_path: Any = None,
        ) -> None:
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path)

    return Old


def forwarding(base: Any) -> Any:
    class Forwarding(base):  # type: ignore[misc]
        def fit(self, *args: Any, **kwargs: Any) -> None:
            super().fit(*args, **kwargs)

    return Forwarding


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY")  # torch's
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", [old_style, forwarding])
@pytest.mark.parametrize("given", [{}, {"weights_only": True}, {"weights_only": False}], ids=str)
def test_the_trainer_may_be_a_subclass_that_overrides_fit(
    tmp_path: Path, package: str, kind: Any, given: dict[str, Any]
) -> None:
    stop(tmp_path, make_net(package)(width=4), package=package)
    (winner,) = find_winners(tmp_path, 1)
    run = promoting(tmp_path, kind(lightning(package).Trainer), package)
    winner.fit(run, winner.load(make_net(package)), loader(3), **given)
    assert run.current_epoch == 4


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY")  # torch's
def test_a_trainer_without_weights_only_loads_pickle_only_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    net = make_net()
    stop(tmp_path, net(metric=torchmetrics.MeanMetric()))
    with pytest.warns(UserWarning, match="lacks 'metric'"):
        (winner,) = find_winners(tmp_path, 1)
    run = promoting(tmp_path, old_style(lightning().Trainer))
    with pytest.raises(ValueError, match="which needs pickle"):
        winner.fit(run, net(), loader(3))
    winner.fit(run, winner.load(net, weights_only=False), loader(3), weights_only=False)
    assert run.current_epoch == 4
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", [lambda base: base, forwarding], ids=["own", "forwarding"])
@pytest.mark.parametrize("given", [{}, {"weights_only": False}], ids=str)
def test_weights_only_is_not_passed_to_a_lightning_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, kind: Any, given: dict[str, Any]
) -> None:
    """`load_from_checkpoint` of Lightning 2.5 passes it to the module, which saves it."""
    pl = lightning(package)
    if not IS_LIGHTNING_2_5:
        load, fit = vars(pl.LightningModule)["load_from_checkpoint"], pl.Trainer.fit

        def load_2_5(cls: Any, checkpoint_path: Any, **kwargs: Any) -> Any:
            assert kwargs == {"map_location": "cpu"}
            return load.__get__(None, cls)(checkpoint_path, **kwargs)

        def fit_2_5(self: Any, model: Any, train_dataloaders: Any, ckpt_path: Any = None) -> None:
            fit(self, model, train_dataloaders, ckpt_path=ckpt_path)

        monkeypatch.setattr(pl.Trainer, "fit", fit_2_5)
        monkeypatch.setattr(pl.LightningModule, "load_from_checkpoint", classmethod(load_2_5))
    net = make_net(package)
    stop(tmp_path, net(width=4), package=package)
    (winner,) = find_winners(tmp_path, 1)
    module = winner.load(net, **given)
    assert dict(module.hparams) == {"width": 4}
    run = promoting(tmp_path, kind(pl.Trainer), package)
    winner.fit(run, module, loader(3), **given)
    assert run.current_epoch == 4
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_trainer_without_weights_only_does_not_load_remote_checkpoints(tmp_path: Path) -> None:
    winner = Winner("a", 1.0, {}, "https://example.invalid/x.ckpt")
    run = promoting(tmp_path, old_style(lightning().Trainer))
    message = (
        "Expected `fit` of Old to accept `weights_only`. Without it, the remote checkpoint "
        "'https://example.invalid/x.ckpt' is loaded with pickle. If you trust its source, pass "
        "`weights_only=False`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        winner.fit(run, make_net()(), loader(3))
