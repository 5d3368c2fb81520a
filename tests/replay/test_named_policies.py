"""The names by which a replay knows its policies."""

from __future__ import annotations

import importlib.util

import pytest

from lightning_sotl.replay.policies import all_names, default_names, named_policy


@pytest.mark.parametrize(
    ("epochs", "hidden", "names"),
    [
        (1, {"optuna", "ray"}, []),
        (2, {"optuna", "ray"}, ["fixed-t1-top5"]),
        (3, {"optuna"}, ["fixed-t1-top5", "ray-asha"]),
        (4, {"optuna", "ray"}, ["fixed-t2-top5", "halving"]),
    ],
)
def test_default_policies_of_short_curves_and_without_extras(
    monkeypatch: pytest.MonkeyPatch, epochs: int, hidden: set[str], names: list[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )
    assert default_names(epochs, has_validation=False) == ["full", "adaptive", *names]
    names = ["full", "adaptive", "adaptive-keep2", *names]
    assert all_names(epochs, has_validation=False) == names
    assert [named_policy(name).name for name in names] == names
