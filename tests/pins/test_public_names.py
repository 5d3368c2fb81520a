"""The names, signatures and attributes that user code may depend on."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import optuna
import pytest

import lightning_sotl
from lightning_sotl import LearningCurves
from tests.pins.known_losses import PACKAGES, door, lightning

NAMES = [
    "AdaptivePolicy",
    "ESTIMATORS",
    "EarlyRankingStopper",
    "LearningCurves",
    "SoTLMonitor",
    "StoppingReason",
    "SumOfTrainingLosses",
    "Sweep",
    "Winner",
    "correlation_curves",
    "evaluate",
    "find_winners",
    "promote",
    "rank_correlation",
    "rank_correlation_curve",
    "rank_correlation_interval",
    "selection_regret",
    "sotl",
    "sotl_e",
    "sotl_ema",
    "top_k_overlap",
]

_OPTUNA = [
    "AdaptivePruner",
    "OptunaReporter",
    "RegularizedEvolutionSampler",
    "find_winners",
    "promote",
    "requeue_interrupted",
]
_RAY = [
    "AdaptiveScheduler",
    "RayReporter",
    "StartingPoint",
    "find_winners",
    "promote",
    "starting_point",
]
DOORS = {
    "lightning_sotl.pytorch_lightning": ["EarlyRankingStopper", "SoTLMonitor", "Sweep"],
    "lightning_sotl.lightning": ["EarlyRankingStopper", "SoTLMonitor", "Sweep"],
    "lightning_sotl.integrations.optuna": _OPTUNA,
    "lightning_sotl.integrations.optuna_lightning": _OPTUNA,
    "lightning_sotl.integrations.ray": _RAY,
    "lightning_sotl.integrations.ray_lightning": _RAY,
}

# Class path -> the Lightning package of its base class `Callback`.
CALLBACKS = {
    "lightning_sotl.pytorch_lightning.SoTLMonitor": "pytorch_lightning",
    "lightning_sotl.pytorch_lightning.EarlyRankingStopper": "pytorch_lightning",
    "lightning_sotl.lightning.SoTLMonitor": "lightning.pytorch",
    "lightning_sotl.lightning.EarlyRankingStopper": "lightning.pytorch",
    "lightning_sotl.integrations.optuna.OptunaReporter": "pytorch_lightning",
    "lightning_sotl.integrations.optuna_lightning.OptunaReporter": "lightning.pytorch",
    "lightning_sotl.integrations.ray.RayReporter": "pytorch_lightning",
    "lightning_sotl.integrations.ray_lightning.RayReporter": "lightning.pytorch",
}


def at(path: str) -> Any:
    """Return the object at a path such as `lightning_sotl.LearningCurves.load`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(at(module), name)


def public(thing: Any) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def test_the_package_has_these_names() -> None:
    assert lightning_sotl.__all__ == NAMES
    assert [name for name in NAMES if getattr(lightning_sotl, name, None) is None] == []


@pytest.mark.parametrize("name", DOORS)
def test_a_door_has_these_names(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == DOORS[name]
    assert [entry for entry in DOORS[name] if getattr(module, entry, None) is None] == []


def test_the_package_serves_pytorch_lightning() -> None:
    module = door("pytorch_lightning")
    assert lightning_sotl.SoTLMonitor is module.SoTLMonitor
    assert lightning_sotl.EarlyRankingStopper is module.EarlyRankingStopper


@pytest.mark.parametrize("path", CALLBACKS)
def test_a_callback_has_its_path_and_one_base(path: str) -> None:
    cls = at(path)
    assert f"{cls.__module__}.{cls.__qualname__}" == path
    bases = {package: issubclass(cls, lightning(package).Callback) for package in PACKAGES}
    assert bases == {package: package == CALLBACKS[path] for package in PACKAGES}


# Parameters in order: a name, or a name and its default. "*" precedes keyword-only parameters.
_MONITOR = [
    "self",
    ("window", 1),
    ("ema_decay", None),
    ("every_n_train_batches", None),
    ("loss_key", "loss"),
    ("prefix", "sotl"),
    ("prog_bar", False),
    ("epoch_axis", False),
    ("record", True),
    ("record_metrics", ()),
    ("name", None),
    ("params", None),
    ("directory", None),
]
_STOPPER = [
    "self",
    ("stop_epoch", None),
    ("stop_batches", None),
    ("monitor", "sotl_e1"),
    ("promoted", False),
    ("hp_metric", False),
    ("policy", None),
    ("directory", None),
    ("checkpoint_dir", None),
    ("validation", None),
    ("validation_mode", None),
]
_OPTUNA_REPORTER = [
    "self",
    "trial",
    ("monitor", "sotl_e1"),
    ("validation", None),
    ("validation_mode", None),
]
_RAY_REPORTER = ["self", ("monitor", "sotl_e1"), ("metrics", ()), ("checkpoint_every", 1)]
_CORRELATION = [
    "scores",
    "target",
    "*",
    ("method", "spearman"),
    ("mode", "min"),
    ("target_mode", "max"),
]
SIGNATURES: dict[str, list[Any]] = {
    "lightning_sotl.pytorch_lightning.SoTLMonitor.__init__": _MONITOR,
    "lightning_sotl.lightning.SoTLMonitor.__init__": _MONITOR,
    "lightning_sotl.pytorch_lightning.EarlyRankingStopper.__init__": _STOPPER,
    "lightning_sotl.lightning.EarlyRankingStopper.__init__": _STOPPER,
    "lightning_sotl.integrations.optuna.OptunaReporter.__init__": _OPTUNA_REPORTER,
    "lightning_sotl.integrations.optuna_lightning.OptunaReporter.__init__": _OPTUNA_REPORTER,
    "lightning_sotl.integrations.ray.RayReporter.__init__": _RAY_REPORTER,
    "lightning_sotl.integrations.ray_lightning.RayReporter.__init__": _RAY_REPORTER,
    "lightning_sotl.SoTLMonitor.units_needed": ["self", "name"],
    "lightning_sotl.AdaptivePolicy": [
        "max_epochs",
        ("keep", 1.0),
        ("runs", None),
        ("first", 3),
        ("finalists", None),
    ],
    "lightning_sotl.AdaptivePolicy.decide": ["self", "run", "train", ("validation", None)],
    "lightning_sotl.AdaptivePolicy.decide_all": ["self", "runs", "train", ("validation", None)],
    "lightning_sotl.AdaptivePolicy.decide_at_rung": [
        "self",
        "rung",
        "runs",
        "train",
        ("validation", None),
    ],
    "lightning_sotl.SumOfTrainingLosses": [("window", 1), "**kwargs"],
    "lightning_sotl.SumOfTrainingLosses.update": ["self", "loss"],
    "lightning_sotl.SumOfTrainingLosses.close_epoch": ["self"],
    "lightning_sotl.SumOfTrainingLosses.compute": ["self"],
    "lightning_sotl.Winner": [
        "run_id",
        "estimate",
        "params",
        "checkpoint_path",
        ("final_epochs", None),
        ("final_estimate", None),
    ],
    "lightning_sotl.Winner.load": ["self", "module_class", "**kwargs"],
    "lightning_sotl.Winner.fit": ["self", "trainer", "model", "*args", "**kwargs"],
    "lightning_sotl.find_winners": ["directory", "k", "*", ("monitor", "sotl_e1"), ("at", None)],
    "lightning_sotl.promote": [
        "directory",
        "k",
        "train",
        "*",
        ("monitor", "sotl_e1"),
        ("at", None),
        ("retrain", False),
    ],
    "lightning_sotl.LearningCurves": [
        "train_loss",
        "*",
        ("val_loss", None),
        ("val_metric", None),
        ("final_metric", None),
        ("final_loss", None),
        ("features", None),
        ("epoch_seconds", None),
        ("metric_mode", "max"),
        ("final_mode", None),
        ("run_ids", None),
        ("checkpoints", None),
    ],
    "lightning_sotl.LearningCurves.from_logs": [
        "directory",
        "*",
        ("val_loss", None),
        ("val_metric", None),
        ("final_metric", None),
        ("final_loss", None),
        ("metric_mode", "max"),
        ("final_mode", None),
        ("train_loss", None),
        ("prefix", "sotl"),
        ("block", None),
    ],
    "lightning_sotl.LearningCurves.from_frame": [
        "frame",
        "*",
        ("run", "run"),
        ("epoch", "epoch"),
        ("train_loss", "train_loss"),
        ("val_loss", None),
        ("val_metric", None),
        ("final_metric", None),
        ("final_loss", None),
        ("metric_mode", "max"),
        ("final_mode", None),
        ("first_epoch", 0),
    ],
    "lightning_sotl.LearningCurves.to_frame": ["self"],
    "lightning_sotl.LearningCurves.load": ["path"],
    "lightning_sotl.LearningCurves.save": ["self", "path"],
    "lightning_sotl.LearningCurves.select": ["self", "runs"],
    "lightning_sotl.evaluate": [
        "curves",
        "*",
        ("at", None),
        ("estimators", None),
        ("method", "spearman"),
        ("resamples", 1000),
        ("seed", 0),
    ],
    "lightning_sotl.correlation_curves": ["curves", "names", "*", ("method", "spearman")],
    "lightning_sotl.rank_correlation": _CORRELATION,
    "lightning_sotl.rank_correlation_curve": _CORRELATION,
    "lightning_sotl.rank_correlation_interval": [
        "scores",
        "target",
        "*",
        ("confidence", 0.95),
        ("resamples", 1000),
        ("seed", 0),
        ("method", "spearman"),
        ("mode", "min"),
        ("target_mode", "max"),
    ],
    "lightning_sotl.selection_regret": [
        "scores",
        "target",
        "*",
        ("k", 1),
        ("unit", "target"),
        ("mode", "min"),
        ("target_mode", "max"),
    ],
    "lightning_sotl.top_k_overlap": [
        "scores",
        "target",
        "*",
        "k",
        ("mode", "min"),
        ("target_mode", "max"),
    ],
    "lightning_sotl.sotl": ["losses"],
    "lightning_sotl.sotl_e": ["losses", "*", ("window", 1)],
    "lightning_sotl.sotl_ema": ["losses", "*", ("decay", 0.999)],
    "lightning_sotl.integrations.optuna.OptunaReporter.finish": ["self"],
    "lightning_sotl.integrations.optuna.AdaptivePruner": ["policy"],
    "lightning_sotl.integrations.optuna.RegularizedEvolutionSampler": [
        "*",
        ("population_size", 20),
        ("tournament_size", 10),
        ("seed", None),
    ],
    "lightning_sotl.integrations.optuna.find_winners": ["study", "k"],
    "lightning_sotl.integrations.optuna.promote": ["study", "k", "train", "*", ("retrain", False)],
    "lightning_sotl.integrations.optuna.requeue_interrupted": ["study", "*", ("alone", False)],
    "lightning_sotl.integrations.ray.AdaptiveScheduler": [
        "policy",
        ("metric", "sotl_e1"),
        ("mode", "min"),
        ("validation", None),
        ("validation_mode", None),
        "*",
        ("pause", False),
        ("growth", 1.5),
    ],
    "lightning_sotl.integrations.ray.StartingPoint": ["checkpoint_path", "promoted"],
    "lightning_sotl.integrations.ray.find_winners": [
        "results",
        "k",
        "*",
        ("monitor", "sotl_e1"),
        ("mode", "min"),
    ],
    "lightning_sotl.integrations.ray.promote": [
        "results",
        "k",
        "trainable",
        "*",
        ("monitor", "sotl_e1"),
        ("mode", "min"),
        ("tune_config", None),
        ("run_config", None),
        ("restore", None),
    ],
    "lightning_sotl.integrations.ray.starting_point": [],
}


def parameters(function: Any) -> list[Any]:
    """Return a signature in the form of SIGNATURES."""
    found: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        kind, name, default = parameter.kind, parameter.name, parameter.default
        assert kind is not parameter.POSITIONAL_ONLY
        if kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(kind, "")
        found.append(stars + name if default is parameter.empty else (name, default))
    return found


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_signature_is_unchanged(path: str) -> None:
    found = parameters(at(path))
    assert found == SIGNATURES[path]
    # Also compare the types, since `False == 0` and `1 == 1.0`.
    assert str(found) == str(SIGNATURES[path])


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["SoTLMonitor", "EarlyRankingStopper"])
def test_an_error_for_an_unknown_argument_has_the_public_name(package: str, name: str) -> None:
    message = rf"^{name}\.__init__\(\) got an unexpected keyword argument 'windows'"
    with pytest.raises(TypeError, match=message):
        getattr(door(package), name)(windows=1)


ATTRIBUTES = {
    "SoTLMonitor": [
        "batches_completed",
        "directory",
        "ema_decay",
        "epoch_axis",
        "epoch_losses",
        "estimates",
        "every_n_train_batches",
        "is_between_units",
        "loss_key",
        "metric_names",
        "name",
        "params",
        "prefix",
        "prog_bar",
        "record",
        "record_metrics",
        "record_path",
        "run_id",
        "units_completed",
        "units_needed",
        "window",
    ],
    "EarlyRankingStopper": [
        "checkpoint_dir",
        "checkpoint_path",
        "decision",
        "directory",
        "epochs_completed",
        "estimate",
        "hp_metric",
        "monitor",
        "policy",
        "promoted",
        "stop_batches",
        "stop_epoch",
        "stopping_reason",
        "validation",
        "validation_mode",
    ],
    "OptunaReporter": ["finish", "monitor", "trial", "validation", "validation_mode"],
    "RayReporter": ["checkpoint_every", "metrics", "monitor", "stopped_by_ray"],
}
# Public by name only: callbacks call them on each other, and they are not documented.
BETWEEN_CALLBACKS = {
    "begun",
    "completes_block_next",
    "sweep_run_id",
    "turn_checkpoint",
    "write_checkpoint",
    "write_end",
    "write_stop",
    "end_by_policy",
    "gives_way",
    "lacks_losses",
    "reason_at_limit",
}
MADE_WITH: dict[str, list[Any]] = {"EarlyRankingStopper": [3], "OptunaReporter": [None]}


@pytest.mark.parametrize("path", CALLBACKS)
def test_a_callback_has_these_attributes(path: str) -> None:
    cls = at(path)
    base = lightning(CALLBACKS[path]).Callback
    own = set(public(cls(*MADE_WITH.get(cls.__name__, [])))) - set(dir(base))
    assert sorted(own - BETWEEN_CALLBACKS) == ATTRIBUTES[cls.__name__]


def test_arguments_are_stored_as_they_were_given() -> None:
    monitor = lightning_sotl.SoTLMonitor(window=[1, 10], ema_decay=0.5, prefix="s")
    assert (monitor.window, monitor.ema_decay, monitor.prefix) == ([1, 10], 0.5, "s")
    assert monitor.metric_names == ("s", "s_e1", "s_e10", "s_ema0.5")
    blocks = lightning_sotl.SoTLMonitor(window=5, every_n_train_batches=1000)
    assert blocks.metric_names == ("sotl_b1000", "sotl_b1000_e5")


def test_a_new_callback_has_no_results() -> None:
    monitor = lightning_sotl.SoTLMonitor()
    assert (monitor.epoch_losses, monitor.estimates, monitor.record_path) == ({}, {}, None)
    assert (monitor.units_completed, monitor.batches_completed) == (0, 0)
    stopper = lightning_sotl.EarlyRankingStopper(stop_epoch=3)
    assert (stopper.estimate, stopper.epochs_completed, stopper.checkpoint_path) == (None,) * 3
    assert (stopper.stopping_reason, stopper.decision) == ("not_stopped", None)
    with pytest.raises(RuntimeError, match=r"^The run ended before `sotl_e1` was available"):
        at("lightning_sotl.integrations.optuna.OptunaReporter")(
            optuna.trial.FixedTrial({})
        ).finish()


def test_stopping_reasons_are_these_strings() -> None:
    reasons = lightning_sotl.StoppingReason
    assert {reason.name: reason.value for reason in reasons} == {
        "not_stopped": "not_stopped",
        "stop_epoch_reached": "stop_epoch_reached",
        "stop_batches_reached": "stop_batches_reached",
        "non_finite_estimate": "non_finite_estimate",
        "policy": "policy",
        "paused": "paused",
        "already_stopped": "already_stopped",
    }
    assert all(isinstance(reason, str) and str(reason) == reason.value for reason in reasons)


def test_a_decision_has_these_attributes() -> None:
    policy = lightning_sotl.AdaptivePolicy(max_epochs=12)
    losses = [[3.0, 2.0, 1.0 + run] for run in range(8)]
    best, last = policy.decide_all([0, 7], losses)
    assert public(best) == ["compared", "epoch", "goes_on", "place", "places", "signal"]
    # The order has not changed, so keep * max_epochs / k = 12 / 3 = 4 places continue.
    assert (best.goes_on, best.epoch, best.place, best.places) == (True, 3, 1, 4)
    assert (last.goes_on, last.epoch, last.place, last.places) == (False, 3, 8, 4)
    assert (best.compared, best.signal) == (8, "train")


def test_a_policy_and_a_winner_have_these_attributes() -> None:
    policy = lightning_sotl.AdaptivePolicy(9)
    methods = ["decide", "decide_all", "decide_at_rung"]
    assert public(policy) == [*methods, "finalists", "first", "keep", "max_epochs", "runs"]
    assert str(policy) == "AdaptivePolicy(max_epochs=9, keep=1.0, runs=None, first=3)"
    winner = lightning_sotl.Winner("a", 0.5, {"lr": 0.1}, "a.ckpt")
    assert public(winner) == [
        "checkpoint_path",
        "estimate",
        "final_epochs",
        "final_estimate",
        "fit",
        "load",
        "params",
        "run_id",
    ]


def test_learning_curves_have_these_attributes() -> None:
    assert public(LearningCurves([[2.0, 1.0]])) == [
        "checkpoints",
        "epoch_seconds",
        "epochs",
        "epochs_completed",
        "features",
        "final_loss",
        "final_metric",
        "final_mode",
        "from_frame",
        "from_logs",
        "load",
        "metric_mode",
        "names",
        "run_ids",
        "runs",
        "save",
        "select",
        "to_frame",
        "train_loss",
        "val_loss",
        "val_metric",
    ]


def test_an_evaluation_has_these_attributes() -> None:
    curves = LearningCurves([[3.0, 1.0], [4.0, 2.0], [5.0, 3.0]], final_metric=[0.9, 0.8, 0.7])
    found = lightning_sotl.evaluate(curves, at=[1], estimators=["sotl-e1"], resamples=10)
    assert public(found) == [
        "epochs",
        "estimators",
        "is_advised",
        "left_out",
        "recommended",
        "runs",
        "target",
        "to_json",
        "unavailable",
    ]
    correlation = found.estimators["sotl-e1"][1]
    assert public(correlation) == ["high", "low", "rho", "to_json"]
    assert correlation.rho == 1.0
    assert public(found.recommended) == ["epoch", "to_json", "window"]


def test_the_estimators_are_these_families() -> None:
    assert {
        name: (one.family, one.curve, one.mode, one.parameter, one.default)
        for name, one in lightning_sotl.ESTIMATORS.items()
    } == {
        "sotl": ("sotl", "train_loss", "min", None, None),
        "sotl-e": ("sotl-e", "train_loss", "min", "window", 1),
        "sotl-ema": ("sotl-ema", "train_loss", "min", "decay", 0.999),
        "sovl": ("sovl", "val_loss", "min", None, None),
        "sovl-e": ("sovl-e", "val_loss", "min", "window", 1),
        "sova-e": ("sova-e", "val_metric", None, "window", 1),
        "val-metric": ("val-metric", "val_metric", None, None, None),
        "epochs-to-loss": ("epochs-to-loss", "train_loss", "min", "threshold", 0.1),
    }
