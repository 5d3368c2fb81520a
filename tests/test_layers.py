"""The allowed imports: the contracts in pyproject.toml, and rules that no contract can state."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

from tests.support.paths import ROOT

# Third-party packages that modules below the callbacks may import.
OUTSIDE = {
    "lightning_utilities",
    "numpy",
    "optuna",
    "pandas",
    "ray",
    "scipy",
    "sklearn",
    "torch",
    "torchmetrics",
    "typing_extensions",
}
BELOW_THE_CALLBACKS = {
    "_utils",
    "curves",
    "evaluation",
    "losses",
    "metric",
    "policies",
    "ranking",
    "record",
    "replay",
    "stats",
}
# (importer, imported): packages that may use another package's internal modules. Reporters are
# callbacks.
SHARED = {("integrations", "callbacks")}


def test_the_contracts_of_pyproject_are_kept() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 5 kept, 0 broken." in done.stdout


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Return the imports of each module, including those inside functions and for types only."""
    graph = grimp.build_graph(
        "lightning_sotl",
        include_external_packages=True,
        exclude_type_checking_imports=False,
        cache_dir=None,
    )
    own = [name for name in graph.modules if name.partition(".")[0] == "lightning_sotl"]
    return {name: graph.find_modules_directly_imported_by(name) for name in sorted(own)}


def part_of(module: str) -> str:
    return f"{module}.".split(".")[1]


def test_no_module_imports_itself_through_others(imports: dict[str, set[str]]) -> None:
    TopologicalSorter(imports).prepare()  # a CycleError would name the modules


def test_below_the_callbacks_only_known_packages_are_imported(
    imports: dict[str, set[str]],
) -> None:
    known = {"lightning_sotl", *OUTSIDE, *sys.stdlib_module_names}
    unknown = {
        (module, name)
        for module, names in imports.items()
        for name in names
        if part_of(module) in BELOW_THE_CALLBACKS and name.partition(".")[0] not in known
    }
    assert unknown == set()


def home(module: str) -> str | None:
    """Return the package to which a module is internal, or None if the module is public."""
    names = module.split(".")
    internal = [i for i, name in enumerate(names) if name[0] == "_" and name[:2] != "__"]
    return ".".join(names[: internal[-1]]) if internal else None


def test_internal_modules_are_imported_only_within_their_package(
    imports: dict[str, set[str]],
) -> None:
    found = {
        (module, name)
        for module, names in imports.items()
        for name in names
        if name.startswith("lightning_sotl.")
        and (package := home(name)) is not None
        and not f"{module}.".startswith(f"{package}.")
        and (part_of(module), part_of(name)) not in SHARED
    }
    assert found == set()


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("lightning_sotl.curves.table", None),
        ("lightning_sotl.__main__", None),
        ("lightning_sotl._utils.text", "lightning_sotl"),
        ("lightning_sotl.curves._runs", "lightning_sotl.curves"),
        ("lightning_sotl.integrations._ray.session", "lightning_sotl.integrations"),
    ],
)
def test_an_underscore_makes_a_module_internal(module: str, package: str | None) -> None:
    assert home(module) == package


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


HEAVY = {
    "torch",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "optuna",
    "ray",
    "sklearn",
    "matplotlib",
    "tqdm",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import lightning_sotl",
        "from lightning_sotl import LearningCurves, ESTIMATORS, rank_correlation, sotl_e",
        "import lightning_sotl.cli.evaluate, lightning_sotl.cli.rank",
    ],
)
def test_heavy_packages_are_loaded_only_when_a_name_needs_them(statement: str) -> None:
    assert not HEAVY & loaded_after(statement)
