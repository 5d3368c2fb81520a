"""Warnings for a promoted run whose settings differ from those of the stopped run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch.utils.data import DataLoader

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.callbacks._promotion_checks import is_same
from tests.support.helpers import IS_LIGHTNING_2_5, PACKAGES, Batches, door, lightning, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Attribute '.*' is an instance of `nn.Module`"),
]


def make_net(package: str = PACKAGES[0]) -> Any:
    class Net(lightning(package).LightningModule):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1, **options: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.rates: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return (self.weight - batch.mean()).pow(2)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, T_max=max(self.trainer.max_epochs, 1)
            )
            return [optimizer], [schedule]

    return Net


def make_data(package: str = PACKAGES[0]) -> Any:
    class Data(lightning(package).LightningDataModule):  # type: ignore[misc]
        def __init__(self, noise: float = 0.0, batch_size: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return DataLoader(Batches(8), batch_size=self.hparams["batch_size"])

    return Data


def fit(
    folder: Path,
    module: Any,
    data: Any = None,
    checkpoint: str | None = None,
    package: str = PACKAGES[0],
    params: dict[str, Any] | None = None,
    **options: Any,
) -> str:
    stopper = door(package).EarlyRankingStopper(stop_epoch=2, promoted=checkpoint is not None)
    run = trainer(
        folder,
        package,
        callbacks=[door(package).SoTLMonitor(params=params), stopper],
        enable_checkpointing=True,
        **{"max_epochs": 4, **options},
    )
    loader = DataLoader(Batches(8), batch_size=2) if data is None else data
    how = {"weights_only": False} if checkpoint and not IS_LIGHTNING_2_5 else {}
    run.fit(module, loader, ckpt_path=checkpoint, **how)
    return str(stopper.checkpoint_path)


def message(differences: str) -> str:
    return (
        "^"
        + re.escape(
            "The settings of the promoted run differ from those of the stopped run: "
            f"{differences}. Its rank and the states of its optimizers and schedules come from the "
            "stopped run."
        )
        + "$"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_another_budget_and_learning_rate_are_named(tmp_path: Path, package: str) -> None:
    net = make_net(package)
    path = fit(tmp_path, net(), package=package)
    differences = "`max_epochs` was 4 and is now 8; `lr` was 0.1 and is now 0.5"
    promoted = net(lr=0.5)
    with pytest.warns(UserWarning, match=message(differences)) as caught:
        fit(tmp_path, promoted, checkpoint=path, package=package, max_epochs=8)
    (ours,) = [entry for entry in caught if "promoted run" in str(entry.message)]
    assert ours.filename == __file__
    # The reason for the warning: the schedule of 4 epochs falls to 0 and then rises again.
    rates = promoted.rates[::4]
    assert min(rates) < 1e-12
    assert rates[-1] > rates[2]


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        ({"max_steps": 15}, "`max_steps` was -1 and is now 15"),
        ({"accumulate_grad_batches": 2}, "`accumulate_grad_batches` was 1 and is now 2"),
        ({"limit_train_batches": 3}, "`num_training_batches` was 4 and is now 3"),
        (
            {"data": DataLoader(Batches(8), batch_size=4)},
            "`batch_size` was 2 and is now 4; `num_training_batches` was 4 and is now 2",
        ),
        (
            {"data": DataLoader(Batches(6), batch_size=2)},
            "`num_training_batches` was 4 and is now 3",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_schedule_or_other_data_are_named(
    tmp_path: Path, options: dict[str, Any], differences: str
) -> None:
    path = fit(tmp_path, make_net()())
    with pytest.warns(UserWarning, match=message(differences)):
        fit(tmp_path, make_net()(), checkpoint=path, **options)


def test_other_hyper_parameters_of_module_and_data_are_named(tmp_path: Path) -> None:
    net, data = make_net(), make_data()
    path = fit(tmp_path, net(sizes=(16, 8), old=1), data(noise=0.1))
    differences = (
        "`batch_size` was 2 and is now 4; `num_training_batches` was 4 and is now 2; `sizes` was "
        "(16, 8) and is now [16, 4]; `old` was 1 and is now absent; `new` was absent and is now 2; "
        "`noise` was 0.1 and is now 0.2"
    )
    with pytest.warns(UserWarning, match=message(differences)):
        fit(tmp_path, net(sizes=[16, 4], new=2), data(noise=0.2, batch_size=4), path)


def test_other_parameters_of_the_monitor_are_named(tmp_path: Path) -> None:
    path = fit(tmp_path, make_net()(), params={"width": 4, "depth": 2})
    with pytest.warns(UserWarning, match=message("`width` was 4 and is now 8")):
        fit(tmp_path, make_net()(), checkpoint=path, params={"width": 8, "depth": 2})


def test_a_warning_names_the_first_of_many_differences(tmp_path: Path) -> None:
    before, now = ({f"p{i:02}": i + shift for i in range(30)} for shift in (0, 1))
    path = fit(tmp_path, make_net()(**before))
    named = "; ".join(f"`p{i:02}` was {i} and is now {i + 1}" for i in range(10))
    with pytest.warns(UserWarning, match=message(f"{named}; and 20 more")):
        fit(tmp_path, make_net()(**now), checkpoint=path)


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"sizes": (16, 8), "weights": {0: 1.0}, "rate": float("nan"), "none": None},
        lambda: {"prior": torch.tensor([0.5]), "table": np.arange(3), "many": {1, 2}},
        lambda: {"metric": torchmetrics.MeanMetric(), "loss": torch.nn.MSELoss()},
        lambda: {"optimizer": torch.optim.Adam, "act": torch.relu, "path": Path("a")},
        lambda: {"unlike": Unlike()},
    ],
)
@pytest.mark.parametrize("with_data", [False, True])
def test_equal_settings_cause_no_warning(tmp_path: Path, options: Any, with_data: bool) -> None:
    def data() -> Any:
        return make_data()(noise=0.1) if with_data else None

    path = fit(tmp_path, make_net()(**options()), data(), params={"a": 1})
    fit(tmp_path, make_net()(**options()), data(), path)


class Unlike:
    """A class whose equality raises an exception."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    __hash__ = None  # type: ignore[assignment]


def test_data_without_its_data_module_causes_no_warning(tmp_path: Path) -> None:
    path = fit(tmp_path, make_net()(), make_data()(noise=0.1))
    fit(tmp_path, make_net()(), checkpoint=path)


def test_a_killed_promoted_run_is_resumed_with_its_own_settings(tmp_path: Path) -> None:
    """The checkpoints of a promoted run contain its own settings."""
    path = fit(tmp_path, make_net()())
    saves = lightning().callbacks.ModelCheckpoint(tmp_path, "newest")
    run = trainer(
        tmp_path,
        callbacks=[SoTLMonitor(), EarlyRankingStopper(stop_epoch=2, promoted=True), saves],
        enable_checkpointing=True,
        max_epochs=8,
    )
    loader = DataLoader(Batches(8), batch_size=2)
    with pytest.warns(UserWarning, match=message("`max_epochs` was 4 and is now 8")):
        run.fit(make_net()(), loader, ckpt_path=path)
    fit(tmp_path, make_net()(), checkpoint=str(tmp_path / "newest.ckpt"), max_epochs=8)


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (1, 1.0, True),
        ((1, 2), [1, 2], True),
        ("1", 1, False),
        ("ab", ["a", "b"], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": {"b": 0.0}}, {"a": {"b": 0.1}}, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (torch.ones(2), torch.ones(3), False),
        (torch.ones(2), torch.zeros(2), False),
        (np.ones(2), np.zeros(2), False),
        (torch.optim.Adam, torch.optim.SGD, False),
        (torch.relu, torch.tanh, False),
        (torch.nn.ReLU(), torch.nn.ReLU(), True),
        (torch.nn.ReLU(), torch.nn.GELU(), False),
        (None, 0, False),
    ],
)
def test_settings_of_any_type_are_compared(before: Any, now: Any, same: bool) -> None:
    assert is_same(before, now) is same
    assert is_same(now, before) is same
