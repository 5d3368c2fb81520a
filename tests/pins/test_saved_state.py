"""The saved states of the callbacks, and resumes from checkpoints of version 0.1.0."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from lightning_sotl import SumOfTrainingLosses
from tests.pins.known_losses import PACKAGES, door, loader, model, seed, trainer
from tests.support.helpers import SAFELY

FIXTURES = Path(__file__).parent / "fixtures"
STOP_PATH = "memory://stop/stopped-epoch=3-20e56a4b.ckpt"
BLOCK_STOP_PATH = "memory://blocks/stopped-batches=6-36f571de.ckpt"

pytestmark = [
    # The resumed runs save nothing, so they have no ModelCheckpoint for a saved state of one.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    # Lightning warns that a loader has no state. These tests do not need one.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended"),
    # The oldest supported Lightning is older than the one that wrote the fixtures.
    pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]

# Computed by hand from `known_losses.LOSSES`.
MEANS = {0: 3.25, 1: 2.0, 2: 1.25, 3: 0.75, 4: 0.5}
EMA_AT_5 = 0.9**4 * 3.25 + 0.9**3 * 2.0 + 0.9**2 * 1.25 + 0.9 * 0.75 + 0.5
BLOCK_MEANS = {0: 10.5 / 3, 1: 7 / 3, 2: 5 / 3, 3: 3.5 / 3, 4: 2.25 / 3, 5: 1.5 / 3}

# The steps of a plain Trainer without our callbacks, with the seed of the fixtures, as printed by
# `fixtures/make.py`. A step is: epoch, batch index, sample, and draws of torch, NumPy and Python.
STEPS = [
    (1, 2, 3, 0.36531615257263184, 0.5011204636599379, 0.057998924774706806),
    (1, 3, 0, 0.8512683510780334, 0.07205113335976154, 0.5074357331894203),
    (2, 0, 1, 0.8549431562423706, 0.26843898010187117, 0.03749565844198488),
    (2, 1, 3, 0.5509352087974548, 0.49988250082555996, 0.4336456836623859),
    (2, 2, 2, 0.28683900833129883, 0.6792299961209405, 0.06985542357461894),
    (2, 3, 0, 0.2063193917274475, 0.8037390361043755, 0.09071301334386506),
    (3, 0, 2, 0.4450901746749878, 0.3809411331485384, 0.42451918914251396),
    (3, 1, 3, 0.35928595066070557, 0.06593634690590511, 0.8268521246720381),
    (3, 2, 0, 0.720380425453186, 0.28814559930799355, 0.12380196114964559),
    (3, 3, 1, 0.07305192947387695, 0.9095935277196137, 0.22323896460701453),
    (4, 0, 3, 0.9699196219444275, 0.2133853535799155, 0.6274332224055893),
    (4, 1, 2, 0.10778653621673584, 0.4521239618176831, 0.9477089424570057),
    (4, 2, 1, 0.8828775882720947, 0.9312060196890217, 0.5771029486174987),
    (4, 3, 0, 0.41317272186279297, 0.024899227550348013, 0.39668047465078016),
]
FROM_EPOCH_3 = STEPS[6:]
LAST_WEIGHTS = [[-7.311511993408203, -4.75]]


def resume(
    folder: Path, name: str, callbacks: list[Any], package: str = PACKAGES[0], **options: Any
) -> Any:
    """Resume from a fixture with other random states, and return the module."""
    seed(99)
    module = model(package)
    trainer(folder, package, callbacks=callbacks, **options).fit(
        module, loader(), ckpt_path=str(FIXTURES / name), **SAFELY
    )
    return module


def saved(name: str) -> dict[str, Any]:
    return torch.load(FIXTURES / name, weights_only=True)


# --- saved states

MONITOR_KEY = "SoTLMonitor{'prefix': 'sotl'}"
STOPPER_KEY = "EarlyRankingStopper{'monitor': 'sotl_e1'}"
AFTER_3 = {
    "every_n_train_batches": None,
    "loss_key": "loss",
    "begun": -math.inf,
    "logged": 2,
    "history": {"completed": 3, "units": {0: [13.0, 4], 1: [8.0, 4], 2: [5.0, 4]}},
    "open": None,
}
INSIDE_EPOCH = {
    **AFTER_3,
    "logged": 0,
    "history": {"completed": 1, "units": {0: [13.0, 4]}},
    "open": {"unit": 1, "total": 4.5, "count": 2, "steps": 2, "misses": 0},
}
IN_BLOCKS = {
    **AFTER_3,
    "every_n_train_batches": 3,
    "logged": -1,
    "history": {"completed": 2, "units": {0: [10.5, 3], 1: [7.0, 3]}},
}
STOP = {
    "stop_epoch": 3,
    "stop_batches": None,
    "estimate": 1.25,
    "epochs_completed": 3,
    "stopping_reason": "stop_epoch_reached",
    "checkpoint_path": STOP_PATH,
}
BLOCK_STOP = {
    "stop_epoch": None,
    "stop_batches": 6,
    "estimate": 7 / 3,
    "epochs_completed": 1,
    "stopping_reason": "stop_batches_reached",
    "checkpoint_path": BLOCK_STOP_PATH,
}


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a state without the named entries, which must exist."""
    assert set(names) <= set(state)
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("stop.ckpt", AFTER_3), ("inside_epoch.ckpt", INSIDE_EPOCH), ("block_stop.ckpt", IN_BLOCKS)],
)
def test_a_fixture_has_this_state_of_the_monitor(name: str, expected: dict[str, Any]) -> None:
    assert without(saved(name)["callbacks"][MONITOR_KEY], "run_id") == expected


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("stop.ckpt", STOPPER_KEY, STOP),
        ("block_stop.ckpt", "EarlyRankingStopper{'monitor': 'sotl_b3_e1'}", BLOCK_STOP),
    ],
)
def test_a_fixture_has_this_state_of_the_stopper(
    name: str, key: str, expected: dict[str, Any]
) -> None:
    state = saved(name)["callbacks"][key]
    assert without(state, "random_states") == expected
    check_random_states(state["random_states"])


def check_random_states(states: Any) -> None:
    (rank,) = states
    assert list(rank) == ["torch", "python", "numpy", "cuda", "loaders", "loader_states"]
    assert rank["torch"].dtype == torch.uint8
    version, internal, gauss = rank["python"]
    assert (version, len(internal), gauss) == (3, 625, None)
    assert list(rank["numpy"]) == ["keys", "position", "has_gauss", "gauss"]
    assert len(rank["numpy"]["keys"]) == 624
    assert (rank["cuda"], len(rank["loaders"]), rank["loader_states"]) == (None, 1, [])
    assert rank["loaders"][0].dtype == torch.uint8


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_stop_saves_the_same_state(tmp_path: Path, package: str) -> None:
    monitor = door(package).SoTLMonitor(window=(1, 2), ema_decay=0.9)
    stopper = door(package).EarlyRankingStopper(stop_epoch=3)
    run = trainer(tmp_path, package, callbacks=[monitor, stopper], enable_checkpointing=True)
    run.fit(model(package), loader())
    checkpoint = torch.load(stopper.checkpoint_path, weights_only=True)
    states = checkpoint["callbacks"]
    assert states[MONITOR_KEY] == {**AFTER_3, "run_id": monitor.run_id}
    assert states[MONITOR_KEY] == monitor.state_dict()
    here = {"checkpoint_path": stopper.checkpoint_path}
    assert without(states[STOPPER_KEY], "random_states") == {**STOP, **here}
    assert stopper.state_dict() == {**STOP, **here}
    check_random_states(states[STOPPER_KEY]["random_states"])
    assert Path(stopper.checkpoint_path).parent == tmp_path / "checkpoints"
    assert Path(stopper.checkpoint_path).name.startswith("stopped-epoch=3-")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_checkpoint_has_the_facts_that_a_promotion_checks(
    tmp_path: Path, package: str
) -> None:
    """They are our own entries of a checkpoint, in plain types."""
    lightning_callbacks = importlib.import_module(f"{package}.callbacks")
    saves = lightning_callbacks.ModelCheckpoint(tmp_path, "own", enable_version_counter=False)
    callbacks = [
        door(package).SoTLMonitor(params={"width": 4}),
        door(package).EarlyRankingStopper(stop_epoch=3),
        saves,
    ]
    run = trainer(tmp_path, package, callbacks=callbacks, enable_checkpointing=True, max_epochs=9)
    run.fit(model(package), loader())
    facts = {
        "max_epochs": 9,
        "max_steps": -1,
        "batch_size": 1,
        "num_training_batches": 4,
        "accumulate_grad_batches": 1,
        "params": {"width": 4},
    }
    for path in (callbacks[1].checkpoint_path, tmp_path / "own.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["lightning_sotl_facts"] == facts
        # A checkpoint that Lightning saves before the stop's own contains the path of the latter.
        assert checkpoint["lightning_sotl_planned_checkpoints"] == {
            STOPPER_KEY: callbacks[1].checkpoint_path
        }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_checkpoint_inside_an_epoch_has_the_same_state(tmp_path: Path, package: str) -> None:
    monitor = door(package).SoTLMonitor()
    path = tmp_path / "inside.ckpt"
    module = model(package, at_step={6: lambda run: run.save_checkpoint(path)})
    trainer(tmp_path, package, callbacks=monitor, max_epochs=2).fit(module, loader())
    state = torch.load(path, weights_only=True)["callbacks"]
    assert state == {MONITOR_KEY: {**INSIDE_EPOCH, "run_id": monitor.run_id}}


@pytest.mark.filterwarnings("ignore:The run stops inside an epoch")
@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_stop_in_blocks_saves_the_same_state(tmp_path: Path, package: str) -> None:
    monitor, stopper = in_blocks(package)
    run = trainer(tmp_path, package, callbacks=[monitor, stopper], enable_checkpointing=True)
    run.fit(model(package), loader())
    states = torch.load(stopper.checkpoint_path, weights_only=True)["callbacks"]
    assert states[MONITOR_KEY] == {**IN_BLOCKS, "run_id": monitor.run_id}
    assert without(states[stopper.state_key], "random_states") == {
        **BLOCK_STOP,
        "checkpoint_path": stopper.checkpoint_path,
    }
    assert Path(stopper.checkpoint_path).name.startswith("stopped-batches=6-")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_key_has_the_prefix_or_the_monitored_name(package: str) -> None:
    callbacks, short = door(package), package.partition(".")[0]
    assert callbacks.SoTLMonitor(prefix="a/b").state_key == "SoTLMonitor{'prefix': 'a/b'}"
    assert callbacks.SoTLMonitor(window=9, every_n_train_batches=3).state_key == MONITOR_KEY
    stopper = callbacks.EarlyRankingStopper(stop_batches=6, monitor="val_acc")
    assert stopper.state_key == "EarlyRankingStopper{'monitor': 'val_acc'}"
    ending = "_lightning" if short == "lightning" else ""
    doors = {
        name: importlib.import_module(f"lightning_sotl.integrations.{name}{ending}")
        for name in ("optuna", "ray")
    }
    reporter = doors["optuna"].OptunaReporter(None, monitor="val_acc")
    assert reporter.state_key == "OptunaReporter{'monitor': 'val_acc'}"
    ray_reporter = doors["ray"].RayReporter(monitor="val_acc")
    assert (ray_reporter.state_key, ray_reporter.state_dict()) == ("RayReporter", {})


def test_a_new_callback_saves_the_same_keys() -> None:
    callbacks = door(PACKAGES[0])
    monitor = callbacks.SoTLMonitor()
    assert monitor.state_dict() == {
        "every_n_train_batches": None,
        "loss_key": "loss",
        "run_id": monitor.run_id,
        "begun": -math.inf,
        "logged": -1,
        "history": {"completed": 0, "units": {}},
        "open": None,
    }
    assert callbacks.EarlyRankingStopper(stop_epoch=3).state_dict() == {
        "stop_epoch": 3,
        "stop_batches": None,
        "estimate": None,
        "epochs_completed": None,
        "stopping_reason": "not_stopped",
        "checkpoint_path": None,
    }


# --- resumes from checkpoints of version 0.1.0


@pytest.mark.parametrize("package", PACKAGES)
def test_a_promoted_run_resumes_with_the_random_state_of_its_stop(
    tmp_path: Path, package: str
) -> None:
    monitor = door(package).SoTLMonitor(window=(1, 2), ema_decay=0.9)
    stopper = door(package).EarlyRankingStopper(stop_epoch=3, promoted=True)
    module = resume(tmp_path, "stop.ckpt", [monitor, stopper], package)
    assert module.steps == FROM_EPOCH_3
    assert module.layer.weight.tolist() == LAST_WEIGHTS
    assert monitor.epoch_losses == MEANS
    assert monitor.estimates == {
        "sotl": 7.75,
        "sotl_e1": 0.5,
        "sotl_e2": 1.25,
        "sotl_ema0.9": pytest.approx(EMA_AT_5, rel=1e-12),
    }
    assert monitor.run_id == saved("stop.ckpt")["callbacks"][MONITOR_KEY]["run_id"]
    # The results of the stopper are still those of the stop.
    assert (stopper.estimate, stopper.epochs_completed) == (1.25, 3)
    assert (stopper.stopping_reason, stopper.checkpoint_path) == ("not_stopped", STOP_PATH)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_run_resumed_at_its_limit_has_already_stopped(tmp_path: Path, package: str) -> None:
    monitor = door(package).SoTLMonitor(window=(1, 2), ema_decay=0.9)
    stopper = door(package).EarlyRankingStopper(stop_epoch=3)
    module = resume(tmp_path, "stop.ckpt", [monitor, stopper], package)
    assert module.steps == []
    assert (stopper.estimate, stopper.epochs_completed) == (1.25, 3)
    assert (stopper.stopping_reason, stopper.checkpoint_path) == ("already_stopped", STOP_PATH)
    assert monitor.estimates == {
        "sotl": 6.5,
        "sotl_e1": 1.25,
        "sotl_e2": 3.25,
        "sotl_ema0.9": pytest.approx(0.81 * 3.25 + 0.9 * 2.0 + 1.25, rel=1e-12),
    }


def test_a_run_resumed_with_a_later_limit_and_other_windows_stops_there(tmp_path: Path) -> None:
    monitor = door(PACKAGES[0]).SoTLMonitor(window=(1, 4))
    stopper = door(PACKAGES[0]).EarlyRankingStopper(stop_epoch=4)
    module = resume(tmp_path, "stop.ckpt", [monitor, stopper])
    assert module.steps == FROM_EPOCH_3[:4]
    assert (stopper.estimate, stopper.epochs_completed) == (0.75, 4)
    assert stopper.stopping_reason == "stop_epoch_reached"
    assert monitor.estimates == {"sotl": 7.25, "sotl_e1": 0.75, "sotl_e4": 7.25}


@pytest.mark.parametrize("package", PACKAGES)
def test_an_epoch_that_was_saved_in_its_middle_keeps_all_its_losses(
    tmp_path: Path, package: str
) -> None:
    monitor = door(package).SoTLMonitor(window=(1, 2), ema_decay=0.9)
    module = resume(tmp_path, "inside_epoch.ckpt", [monitor], package, max_epochs=3)
    assert [step[:2] for step in module.steps] == [step[:2] for step in STEPS[:6]]
    assert monitor.epoch_losses == {0: 3.25, 1: 2.0, 2: 1.25}
    assert monitor.estimates["sotl"] == 6.5
    assert monitor.estimates["sotl_e2"] == 3.25


def in_blocks(package: str, **arguments: Any) -> list[Any]:
    stopper = door(package).EarlyRankingStopper(stop_batches=6, monitor="sotl_b3_e1", **arguments)
    return [door(package).SoTLMonitor(every_n_train_batches=3), stopper]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_promoted_run_resumes_inside_an_epoch(tmp_path: Path, package: str) -> None:
    monitor, stopper = in_blocks(package, promoted=True)
    module = resume(tmp_path, "block_stop.ckpt", [monitor, stopper], package)
    # The samples of the interrupted epoch are drawn again, because the loader has no state.
    assert [step[:2] + step[3:] for step in module.steps] == [step[:2] + step[3:] for step in STEPS]
    assert monitor.epoch_losses == BLOCK_MEANS
    assert monitor.estimates == {
        "sotl_b3": pytest.approx((10.5 + 7.0 + 5.0 + 3.5 + 2.25 + 1.5) / 3, rel=1e-12),
        "sotl_b3_e1": 0.5,
    }
    assert stopper.stopping_reason == "not_stopped"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_run_resumed_at_its_limit_in_batches_has_already_stopped(
    tmp_path: Path, package: str
) -> None:
    monitor, stopper = in_blocks(package)
    module = resume(tmp_path, "block_stop.ckpt", [monitor, stopper], package)
    assert module.steps == []
    assert monitor.epoch_losses == {0: 3.5, 1: 7 / 3}
    assert (stopper.estimate, stopper.epochs_completed) == (7 / 3, 1)
    assert stopper.stopping_reason == "already_stopped"
    assert stopper.checkpoint_path == BLOCK_STOP_PATH


# --- the reporters and the metric


def fit_trial(folder: Path, package: str) -> tuple[Any, Any, Any]:
    ending = "_lightning" if package == "lightning.pytorch" else ""
    home = importlib.import_module(f"lightning_sotl.integrations.optuna{ending}")
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    reporter = home.OptunaReporter(trial, validation="val_acc", validation_mode="max")
    stopper = door(package).EarlyRankingStopper(stop_epoch=2)
    callbacks = [door(package).SoTLMonitor(), stopper, reporter]
    run = trainer(folder, package, callbacks=callbacks, enable_checkpointing=True)
    run.fit(model(package), loader())
    return study, reporter, stopper


@pytest.mark.parametrize("package", PACKAGES)
def test_an_optuna_reporter_reports_and_saves_these_values(tmp_path: Path, package: str) -> None:
    study, reporter, stopper = fit_trial(tmp_path, package)
    assert reporter.state_dict() == {
        "reported": {0: 3.25, 1: 2.0},
        "pending": {},
        "value": 2.0,
        "pruned": False,
        "reached_limit": True,
        "checkpoint": stopper.checkpoint_path,
    }
    assert reporter.finish() == 2.0
    (trial,) = study.get_trials()
    assert trial.intermediate_values == {0: 3.25, 1: 2.0}
    # Accuracies of 1/8 and 2/8, negated so that lower is better.
    assert without(trial.user_attrs, "lightning_sotl:process_of_0") == {
        "lightning_sotl:validation": {"0": -0.125, "1": -0.25},
        "lightning_sotl:checkpoint_path": stopper.checkpoint_path,
    }
    # The checkpoint has no state of the reporter, because a promoted run reports to no trial.
    at_stop = torch.load(stopper.checkpoint_path, weights_only=True)["callbacks"]
    assert not [key for key in at_stop if key.startswith("OptunaReporter")]


def test_an_optuna_reporter_loads_an_old_state() -> None:
    from lightning_sotl.integrations.optuna import OptunaReporter

    state = {
        "reported": {0: 3.0},
        "pending": {1: 2.5},
        "value": 2.5,
        "pruned": False,
        "reached_limit": False,
        "checkpoint": "a.ckpt",
    }
    study = optuna.create_study()
    reporter = OptunaReporter(study.ask())
    reporter.load_state_dict(state)
    assert reporter.state_dict() == state
    assert reporter.finish() == 2.5
    (trial,) = study.get_trials()
    assert trial.intermediate_values == {0: 3.0, 1: 2.5}
    assert trial.user_attrs["lightning_sotl:checkpoint_path"] == "a.ckpt"


@pytest.mark.filterwarnings("ignore:This run is not a Ray Tune trial")
def test_a_ray_reporter_resumes_with_the_random_state_of_its_checkpoint(tmp_path: Path) -> None:
    from lightning_sotl.integrations.ray import RayReporter

    # A report saves the same states as a stop, but without a stopper in a separate entry.
    checkpoint = saved("stop.ckpt")
    stop = checkpoint["callbacks"].pop(STOPPER_KEY)
    checkpoint["lightning_sotl_random_states"] = stop["random_states"]
    torch.save(checkpoint, tmp_path / "checkpoint.ckpt")
    seed(99)
    module = model()
    monitor = door(PACKAGES[0]).SoTLMonitor()
    trainer(tmp_path, callbacks=[monitor, RayReporter()]).fit(
        module, loader(), ckpt_path=str(tmp_path / "checkpoint.ckpt"), **SAFELY
    )
    assert module.steps == FROM_EPOCH_3
    assert monitor.epoch_losses == MEANS


def test_the_metric_saves_and_loads_these_tensors() -> None:
    metric = SumOfTrainingLosses(window=2)
    for losses in ([4.0, 2.0], [2.0, 1.0], [1.0, 0.5]):
        for loss in losses:
            metric.update(loss)
        metric.close_epoch()
    metric.update(8.0)
    # The open epoch, then the closed epochs from newest to oldest.
    expected = {"sums": [8.0, 1.5, 3.0], "counts": [1.0, 2.0, 2.0]}
    state = metric.state_dict()
    assert {name: tensor.tolist() for name, tensor in state.items()} == expected
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
    other = SumOfTrainingLosses(window=2)
    other.load_state_dict(
        {name: torch.tensor(values, dtype=torch.float64) for name, values in expected.items()}
    )
    assert float(other.compute()) == 2.25
