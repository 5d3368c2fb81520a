"""The site builds without warnings, and shows the names that users need."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="the last mkdocstrings for Python 3.10 does not work with the newest pymdown-extensions",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Build the site. Its settings are strict, and `--quiet` would hide warnings from the check."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done, folder


@pytest.fixture(scope="module")
def anchors(build):
    """Return the anchors of the pages of the reference."""
    _, folder = build
    text = "".join(page.read_text() for page in (folder / "reference").rglob("*.html"))
    return set(re.findall(r'id="(lightning_sotl\.[\w.]+)"', text))


def test_the_site_builds_without_a_broken_cross_reference(build):
    done, _ = build
    assert done.returncode == 0, done.stderr


def public_names(module):
    """Return a module's `__all__` without its import, which takes seconds."""
    path = importlib.util.find_spec(module).origin
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no `__all__`")


@pytest.mark.parametrize(
    "module",
    [
        "lightning_sotl",
        "lightning_sotl.evaluation",
        "lightning_sotl.integrations.optuna",
        "lightning_sotl.integrations.optuna_lightning",
        "lightning_sotl.integrations.ray",
        "lightning_sotl.integrations.ray_lightning",
        "lightning_sotl.lightning",
    ],
)
def test_every_public_name_has_an_anchor_in_the_reference(module, anchors):
    names = {f"{module}.{name}" for name in public_names(module)}
    assert names
    assert names <= anchors, names - anchors


@pytest.mark.parametrize(
    "name",
    [
        "evaluation.estimators.Estimator",
        "evaluation.evaluate.Correlation",
        "evaluation.evaluate.Evaluation",
        "ranking.order.RankedRun",
        "replay.experiment.Replay",
    ],
)
def test_what_public_functions_return_is_in_the_reference(name, anchors):
    assert f"lightning_sotl.{name}" in anchors


def test_the_site_has_no_programs(build):
    _, folder = build
    assert list(folder.rglob("*.py")) == []
