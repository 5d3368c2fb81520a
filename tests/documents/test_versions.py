"""Which versions `campaigns/versions.py` asks for, and what it says of those that came."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.campaigns import versions


def project(*requirements: str, **extras: list[str]) -> dict:
    return {
        "name": "My.Project",
        "dependencies": list(requirements),
        "optional-dependencies": extras,
    }


def asked(*requirements: str, **extras: list[str]) -> list[str]:
    return [str(bound) for bound in versions.bounds(project(*requirements, **extras)).values()]


def test_bounds_of_dependencies_and_all_extras_are_asked_for_once_and_by_name() -> None:
    assert asked("torch>=2.5", plot=["nats_bench >= 1.8"], dev=["my-project[plot]"]) == [
        "nats-bench>=1.8",
        "torch>=2.5",
    ]


def test_of_two_bounds_the_higher_is_asked_for() -> None:
    assert asked("a>=1.9", one=["a[b]>=1.10"], two=["a>=1.2"]) == ["a[b]>=1.10"]


@pytest.mark.parametrize("requirement", ["a", "a==1.0", "a>=1.0,<2", "a>=1; python_version<'3.12'"])
def test_what_is_no_lower_bound_is_refused(requirement: str) -> None:
    message = f"Expected a lower bound alone, as `name>=1.0`, but got {requirement!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        versions.bounds(project(requirement))


def test_the_project_s_own_bounds_are_read() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = (versions.ROOT / "pyproject.toml").read_text()
    found = versions.bounds(tomllib.loads(text)["project"])
    assert {"torch", "pytorch-lightning", "optuna", "ray", "pytest"} <= set(found)
    assert found["ray"].extras == "[tune]"


def test_what_is_held_is_no_requirement_of_its_own() -> None:
    wanted = versions.bounds(project("numpy>=1.26", "ray[tune]>=2.49.2"))
    arguments = versions.choice("oldest", wanted, Path("held.txt"))
    assert arguments[:4] == ["--resolution", "lowest-direct", "--constraint", "held.txt"]
    assert arguments[-2:] == ["numpy>=1.26", "ray[tune]>=2.49.2"]
    assert not any("pyarrow" in argument for argument in arguments)


def test_only_a_version_above_its_bound_is_remarked_on() -> None:
    wanted = versions.bounds(project("scipy>=1.11", "torch>=2.5"))
    came = {"scipy": "1.11.1", "torch": "2.5.0+cpu"}
    assert versions.table(wanted, came, "oldest") == [
        f"scipy  >=1.11      1.11.1    {versions.NOT_AT_FLOOR}",
        "torch  >=2.5       2.5.0+cpu",
    ]
    assert not any("(" in line for line in versions.table(wanted, came, "newest"))
