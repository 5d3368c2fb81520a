from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lightning_sotl"

# Module or folder -> its floor; imports point down or stay on their floor.
FLOORS = {
    "_correlation": 0,
    "_extras": 0,
    "_movement": 0,
    "_ranks": 0,
    "_reading": 0,
    "_resamples": 0,
    "_validation": 0,
    "_wording": 0,
    "_writing": 0,
    "adaptive_policy": 0,
    "estimators": 0,
    "growing_curves": 0,
    "history": 0,
    "intervals": 0,
    "monitor_name": 0,
    "policies": 0,
    "ranking": 0,
    "record": 0,
    "comparability": 1,
    "curves": 1,
    "estimator_table": 1,
    "evaluation": 1,
    "extrapolation": 1,
    "generators": 1,
    "metric": 1,
    "replay": 1,
    "run_losses": 1,
    "run_order": 1,
    "scorer": 1,
    "window": 1,
    "_user_warning": 2,
    "callbacks": 2,
    "lightning": 2,
    "pytorch_lightning": 2,
    "winners": 2,
    "integrations": 3,
    "plotting": 3,
    "__init__": 4,
    "__main__": 4,
    "cli": 4,
    "commands": 4,
    "evaluate_command": 4,
    "rank_command": 4,
    "replay_command": 4,
    "replay_policies": 4,
    "screen": 4,
    "sources": 4,
}
# What a floor may import from outside, beyond the standard library.
OUTSIDE = {
    0: {"numpy", "scipy", "typing_extensions"},
    1: {"numpy", "scipy", "sklearn", "torch", "torchmetrics", "typing_extensions"},
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
        elif top != "lightning_sotl" and own in OUTSIDE and top not in sys.stdlib_module_names:
            assert top in OUTSIDE[own], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


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
}


@pytest.mark.parametrize(
    "statement",
    [
        "import lightning_sotl",
        "from lightning_sotl import LearningCurves, ESTIMATORS, rank_correlation, sotl_e",
        "import lightning_sotl.evaluate_command, lightning_sotl.rank_command",
    ],
)
def test_nothing_heavy_is_loaded_before_a_name_needs_it(statement: str) -> None:
    assert not HEAVY & loaded_after(statement)
