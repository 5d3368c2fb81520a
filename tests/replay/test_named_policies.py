"""The names of the policies in a replay."""

from __future__ import annotations

import importlib.util

import pytest

from lightning_sotl.replay.policies import all_names, default_names, named_policy


@pytest.mark.parametrize(
    ("epochs", "hidden", "names", "more"),
    [
        (1, {"optuna", "ray"}, [], []),
        (2, {"optuna", "ray"}, ["fixed-t1-top5"], []),
        (3, {"optuna"}, ["fixed-t1-top5", "ray-asha"], ["ray-hyperband"]),
        (4, {"optuna", "ray"}, ["fixed-t2-top5", "halving"], ["asha-promote"]),
    ],
)
def test_default_policies_of_short_curves_and_without_extras(
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
    hidden: set[str],
    names: list[str],
    more: list[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )
    default = ["full", "adaptive", "adaptive-pause", *names]
    assert default_names(epochs, has_validation=False) == default
    names = ["full", "adaptive", "adaptive-pause", "adaptive-keep2", *names, *more]
    assert all_names(epochs, has_validation=False) == names
    assert [named_policy(name).name for name in names] == names


@pytest.mark.parametrize(
    "name",
    [
        "adaptive-first2-keep2-pause1.2-both",
        "adaptive-pause2-val",
        "asha-promote-eta4-from1-val",
        "ray-hyperband-val",
    ],
)
def test_names_with_numbers_and_endings(name: str) -> None:
    assert named_policy(name).name == name
