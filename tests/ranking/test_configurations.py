"""Runs with the same parameters: repeats, and runs of a script that was started twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, find_winners
from lightning_sotl.callbacks._record_facts import network_of
from lightning_sotl.cli import main
from lightning_sotl.ranking.configurations import configuration
from tests.support.helpers import lightning, loader, scripted_model, trainer
from tests.support.run_folders import csv_rows, write_csv_log, write_record

pl = lightning()

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def train(folder: Path, rate: float, level: float, **arguments: Any) -> None:
    model = scripted_model(loss=lambda epoch, batch: level / (epoch + 1))
    if not arguments:
        model.save_hyperparameters({"lr": rate})
    trainer(
        folder,
        callbacks=[SoTLMonitor(**arguments), EarlyRankingStopper(stop_epoch=2)],
        logger=pl.loggers.CSVLogger(folder, name=""),
        max_epochs=4,
        enable_checkpointing=True,
    ).fit(model, loader(2))


def test_a_sweep_that_ran_twice_has_one_candidate_per_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shift in (0.0, 0.5):  # the second time as with another seed
        for rate, level in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0)):
            train(tmp_path, rate, level + shift)
    with pytest.warns(UserWarning, match=r"^Of runs with the same") as caught:
        winners = find_winners(tmp_path, 2)
    assert [(w.run_id, w.estimate, w.params) for w in winners] == [
        ("version_4", pytest.approx(0.75), {"lr": 0.2}),
        ("version_5", pytest.approx(1.25), {"lr": 0.3}),
    ]
    assert [str(entry.message) for entry in caught] == [
        "Of runs with the same parameters, only the newest counts: 'version_1', 'version_4'; "
        "'version_2', 'version_5'; 'version_0', 'version_3'. To rank repeats separately, put "
        "the seed into `params`."
    ]
    capsys.readouterr()
    assert main(["rank", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["runs"]) == 6
    assert err.splitlines() == [
        "warning: Some runs have the same parameters, because they are repeats or were started "
        "again. All of them count: 'version_0', 'version_3'; 'version_1', 'version_4'; "
        "'version_2', 'version_5'."
    ]


class Wrapper(pl.LightningModule):  # type: ignore[misc]  # the class is Any
    """Receives its layers as an argument and does not save them as a hyper-parameter."""

    def __init__(self, layers: torch.nn.Module, level: float, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["layers", "level"])
        self.layers, self.level = layers, level

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.level + 0 * self.layers(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def _sequence(*layers: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, 2), *layers)


def test_runs_with_different_networks_are_not_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = [
        (lambda: _sequence(torch.nn.ReLU(), torch.nn.Linear(2, 4)), 2.0),
        (lambda: _sequence(torch.nn.ReLU(), torch.nn.Linear(2, 1)), 1.0),
        (lambda: _sequence(torch.nn.Tanh(), torch.nn.Linear(2, 1)), 3.0),
    ]
    for network, level in networks:
        trainer(
            tmp_path,
            callbacks=[SoTLMonitor(), EarlyRankingStopper(stop_epoch=2)],
            logger=pl.loggers.CSVLogger(tmp_path, name=""),
            max_epochs=4,
            enable_checkpointing=True,
        ).fit(Wrapper(network(), level), loader(2))
    winners = find_winners(tmp_path, 2)
    assert [(winner.run_id, winner.estimate) for winner in winners] == [
        ("version_1", 1.0),
        ("version_0", 2.0),
    ]
    assert main(["rank", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("other", "is_repeat"),
    [
        (Path("a"), False),
        (object(), True),  # its `repr` contains its address
    ],
)
def test_the_hash_of_a_network_ignores_addresses(other: object, is_repeat: bool) -> None:
    class Layer(torch.nn.Module):
        def __init__(self, value: object) -> None:
            super().__init__()
            self.value = value

        def extra_repr(self) -> str:
            return repr(self.value)

    assert (network_of(Layer(object())) == network_of(Layer(other))) is is_repeat


def test_a_module_whose_repr_raises_has_no_hash() -> None:
    class Unprintable(torch.nn.Module):
        def __repr__(self) -> str:
            raise RuntimeError

    assert network_of(Unprintable()) is None


def test_repeats_with_their_seed_in_params_are_separate_candidates(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tmp_path, 0.1, 1.0 + seed, params={"lr": 0.1, "seed": seed})
    assert len(find_winners(tmp_path, 2)) == 2


def test_a_repeat_that_has_not_reached_t_does_not_replace_the_older_run(tmp_path: Path) -> None:
    write_record(tmp_path / "a", [3.0, 2.0], hparams={"lr": 1}, status="stopped", checkpoint="x")
    write_record(tmp_path / "b", [3.0, 1.0], hparams={"lr": 2}, status="stopped", checkpoint="y")
    write_record(tmp_path / "c", [3.0], hparams={"lr": 2}, status=None)
    assert [winner.run_id for winner in find_winners(tmp_path, 2)] == ["b", "a"]


def test_evaluate_names_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, name in enumerate("abc"):
        write_record(tmp_path / name, [3.0, 1.0 + place], hparams={"lr": place // 2})
        write_csv_log(tmp_path / name, csv_rows([3.0, 1.0 + place], acc=[0.0, 0.5 - place / 10]))
    assert main(["evaluate", str(tmp_path), "--target", "acc", "--json"]) == 0
    assert (
        "warning: Some runs have the same parameters, because they are repeats or were started "
        "again. All of them count: 'a', 'b'."
    ) in capsys.readouterr().err.splitlines()


SAME = [
    ({"hparams": {"a": 1, "b": [1, 2]}}, {"hparams": {"b": [1, 2], "a": 1}}),
    ({"params": {"a": 1}, "hparams": {"x": 1}}, {"params": {"a": 1}, "hparams": {"x": 2}}),
    ({"params": None, "hparams": {"a": 1}}, {"params": {}, "hparams": {"a": 1}}),
    ({"name": "n", "hparams": {}}, {"name": "n", "hparams": {}, "params": None}),
    ({"hparams": {"a": [1, 2]}, "inexact_hparams": ["a"]}, {"hparams": {"a": [1, 2]}}),
    ({"hparams": {"a": 1}, "max_epochs": 3}, {"hparams": {"a": 1}, "max_epochs": 6}),
]
DIFFERENT = [
    ({"hparams": {}}, {"hparams": {}}),
    ({"hparams": None}, {}),
    ({"hparams": {"a": 1}}, {"hparams": {"a": 2}}),
    ({"hparams": {"a": 1}}, {"hparams": {"a": True}}),
    ({"hparams": {"a": {"b": 1}}}, {"hparams": {"a": {"b": 2}}}),
    ({"name": "n", "hparams": {"a": 1}}, {"name": "m", "hparams": {"a": 1}}),
    ({"hparams": {"a": 1}, "batch_size": 8}, {"hparams": {"a": 1}, "batch_size": 16}),
    ({"hparams": {"a": 1}, "network": "x"}, {"hparams": {"a": 1}, "network": "y"}),
    # The record does not distinguish inf from NaN, objects, or values that it left out.
    ({"hparams": {"a": None}, "inexact_hparams": ["a"]},) * 2,
    ({"hparams": {"a": "<Act object at 0x7f01>"}},) * 2,
    ({"hparams": {"b": 1}, "inexact_hparams": ["a"]},) * 2,
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_equal_parameters_are_one_configuration(first: Any, second: Any) -> None:
    assert configuration(first) == configuration(second) is not None


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_or_unknown_parameters_are_not_one_configuration(first: Any, second: Any) -> None:
    assert configuration(first) is None or configuration(first) != configuration(second)
