"""The packages that an import loads, and callbacks that are sent to another process."""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from lightning_sotl import AdaptivePolicy
from tests.pins.child import describe, send_descriptions
from tests.pins.known_losses import PACKAGES, door, loader, model, trainer

HEAVY = [
    "numpy",
    "torch",
    "pytorch_lightning",
    "lightning",
    "optuna",
    "ray",
    "sklearn",
    "pandas",
    "matplotlib",
]
# Modules that one process imports one after the other, and the packages of HEAVY that each of them
# loads in addition. torchmetrics itself loads matplotlib, and Ray Tune loads pandas.
CHAINS: dict[str, list[tuple[str, list[str]]]] = {
    "pytorch_lightning": [
        ("lightning_sotl", []),
        ("lightning_sotl.cli", []),
        ("lightning_sotl.pytorch_lightning", ["numpy", "torch", "pytorch_lightning", "matplotlib"]),
        ("lightning_sotl.integrations.optuna", ["optuna"]),  # before Ray, so it loads no Ray
        ("lightning_sotl.integrations.ray", ["ray", "pandas"]),
    ],
    "lightning": [
        ("lightning_sotl.lightning", ["numpy", "torch", "lightning", "matplotlib"]),
        ("lightning_sotl.integrations.ray_lightning", ["ray", "pandas"]),  # it loads no Optuna
        ("lightning_sotl.integrations.optuna_lightning", ["optuna"]),
    ],
}
PROGRAM = """
import importlib, json, sys
loaded = set()
found = []
for name in sys.argv[2:]:
    importlib.import_module(name)
    new = [heavy for heavy in json.loads(sys.argv[1]) if heavy in sys.modules]
    found.append([name, [heavy for heavy in new if heavy not in loaded]])
    loaded.update(new)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def started() -> Any:
    """Start one process per chain; they run in parallel with the other tests."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), *(module for module, _ in chain)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, chain in CHAINS.items()
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("chain", CHAINS)
def test_an_import_loads_only_what_it_needs(started: Any, chain: str) -> None:
    out, err = started[chain].communicate(timeout=120)
    assert started[chain].returncode == 0, err
    assert json.loads(out) == [[name, loaded] for name, loaded in CHAINS[chain]]


CLASSES = [
    ("lightning_sotl.pytorch_lightning", "SoTLMonitor"),
    ("lightning_sotl.pytorch_lightning", "EarlyRankingStopper"),
    ("lightning_sotl.lightning", "SoTLMonitor"),
    ("lightning_sotl.lightning", "EarlyRankingStopper"),
    ("lightning_sotl.integrations.optuna", "OptunaReporter"),
    ("lightning_sotl.integrations.optuna_lightning", "OptunaReporter"),
    ("lightning_sotl.integrations.ray", "RayReporter"),
    ("lightning_sotl.integrations.ray_lightning", "RayReporter"),
]


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_a_class_is_pickled_by_its_public_path(module: str, name: str) -> None:
    cls = getattr(importlib.import_module(module), name)
    # The pickle opcode of a global, followed by its module and its name.
    assert pickle.dumps(cls, protocol=0).startswith(f"c{module}\n{name}\n".encode())


def every_callback(folder: Path) -> list[Any]:
    """Return callbacks of every class; some of them have the results of a run."""
    found: list[Any] = []
    for package in PACKAGES:
        ending = "_lightning" if package == "lightning.pytorch" else ""
        homes = [
            importlib.import_module(f"lightning_sotl.integrations.{name}{ending}")
            for name in ("optuna", "ray")
        ]
        monitor = door(package).SoTLMonitor(window=(1, 2), ema_decay=0.5)
        stopper = door(package).EarlyRankingStopper(stop_epoch=2)
        trial = optuna.trial.FixedTrial({"lr": 0.1})
        reporter = homes[0].OptunaReporter(trial, "sotl_e2", "val_acc", "max")
        callbacks = [monitor, stopper, reporter]
        run = trainer(folder / package, package, callbacks=callbacks)
        run.fit(model(package), loader())
        policy = AdaptivePolicy(9, keep=2.0)
        found += [
            *callbacks,
            door(package).SoTLMonitor(every_n_train_batches=3, prefix="a", loss_key="b"),
            door(package).EarlyRankingStopper(policy=policy, directory="runs", monitor="sotl"),
            homes[1].RayReporter("sotl", ["val_acc"], None),
        ]
    return found


@pytest.fixture(scope="module")
def callbacks(started: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return every_callback(tmp_path_factory.mktemp("runs"))


def check(found: list[dict[str, Any]], callbacks: list[Any]) -> None:
    assert found == [describe(callback) for callback in callbacks]
    # Make sure that the comparison includes results.
    for first in (0, 6):
        assert found[first]["epoch_losses"] == {0: 3.25, 1: 2.0}
        assert found[first + 1]["estimate"] == 2.0
        assert found[first + 2]["state"]["reported"] == {1: 5.25}


def test_a_deep_copy_has_the_same_results(callbacks: list[Any]) -> None:
    copies = [copy.deepcopy(callback) for callback in callbacks]
    check([describe(twin) for twin in copies], callbacks)
    assert [type(twin) for twin in copies] == [type(callback) for callback in callbacks]


def test_a_pickle_has_the_same_results(callbacks: list[Any]) -> None:
    twins = pickle.loads(pickle.dumps(callbacks))  # noqa: S301
    check([describe(twin) for twin in twins], callbacks)


def test_a_copy_has_no_trainer_and_can_be_used_again(callbacks: list[Any], tmp_path: Path) -> None:
    monitor, stopper = copy.deepcopy(callbacks[0]), copy.deepcopy(callbacks[1])
    run = trainer(tmp_path, callbacks=[monitor, stopper])
    run.fit(model(offset=1.0), loader())
    assert (monitor.epoch_losses, stopper.estimate) == ({0: 4.25, 1: 3.0}, 3.0)
    assert callbacks[0].epoch_losses == {0: 3.25, 1: 2.0}


def test_a_spawned_process_gets_the_same_results(callbacks: list[Any]) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_descriptions, args=(sender, callbacks))
    process.start()
    sender.close()
    assert receiver.poll(120)
    check(receiver.recv(), callbacks)
    process.join(120)
    assert process.exitcode == 0
    receiver.close()
