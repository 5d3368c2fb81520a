"""The requirements in pyproject.toml."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

BOUND = re.compile(r"([\w.-]+)(\[[\w,-]+\])?>=\d[\w.]*")


def requirements() -> list[str]:
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    extras = re.compile(rf"{project['name']}\[[\w,-]+\]")
    return [entry for entries in lists for entry in entries if not extras.fullmatch(entry)]


def test_every_package_has_a_lower_bound_and_nothing_else() -> None:
    assert [entry for entry in requirements() if not BOUND.fullmatch(entry)] == []


@pytest.mark.parametrize("entry", ["a", "a==1.0", "a>=1.0,<2", "a>=1; python_version<'3.12'"])
def test_other_requirements_are_not_lower_bounds(entry: str) -> None:
    assert not BOUND.fullmatch(entry)


def test_the_requirements_of_the_package_and_its_extras_are_found() -> None:
    found = {BOUND.fullmatch(entry)[1] for entry in requirements()}
    assert {"torch", "pytorch-lightning", "optuna", "ray", "pytest"} <= found
    assert any(entry.startswith("ray[tune]>=") for entry in requirements())
