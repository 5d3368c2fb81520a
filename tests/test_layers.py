from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE

# Module or folder -> its floor; imports point down or stay on their floor.
FLOORS = {
    "_utils": 0,
    "losses": 1,
    "policies": 1,
    "stats": 1,
    "metric": 1,
    "record": 2,
    "curves": 3,
    "ranking": 4,
    "replay": 4,
    "evaluation": 5,
    "callbacks": 6,
    "sweep": 7,
    "lightning": 8,
    "pytorch_lightning": 8,
    "integrations": 9,
    "plotting": 9,
    "__init__": 10,
    "__main__": 10,
    "cli": 10,
}
# What a floor may import from outside, beyond the standard library.
OUTSIDE = {
    0: {"lightning_utilities", "numpy", "scipy", "typing_extensions"},
    1: {"numpy", "optuna", "ray", "scipy", "sklearn", "torch", "torchmetrics", "typing_extensions"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return every module that a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == "lightning_sotl":
                found += [f"lightning_sotl.{alias.name}" for alias in node.names]
            else:
                found.append(node.module)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = FLOORS[floor_of(path)]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "lightning_sotl" and rest and not rest.startswith("__version__"):
            assert FLOORS[rest.partition(".")[0]] <= own, f"{path.name} imports {name}"
        elif top != "lightning_sotl" and own < 6 and top not in sys.stdlib_module_names:
            assert top in OUTSIDE[min(own, 1)], f"{path.name} imports {name}"


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
def test_nothing_heavy_is_loaded_before_a_name_needs_it(statement: str) -> None:
    assert not HEAVY & loaded_after(statement)
