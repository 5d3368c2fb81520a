"""The private names of Ray, which only `session.py` may use."""

import ast
import inspect
import re

from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController

from lightning_sotl.integrations._ray import session
from tests.support.paths import ROOT

PUBLIC = {"ray", "ray.tune", "ray.tune.schedulers", "ray.tune.experiment"}


def imported_ray_modules(path):
    """Return the modules of Ray that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name for name in names if name.partition(".")[0] == "ray"}


def test_only_session_imports_private_modules_of_ray():
    package = ROOT / "lightning_sotl"
    private = {
        str(path.relative_to(package)): found
        for path in sorted(package.rglob("*.py"))
        if (found := imported_ray_modules(path) - PUBLIC)
    }
    assert list(private) == ["integrations/_ray/session.py"]


def test_ray_still_has_the_private_names_that_session_uses():
    assert session.SHOULD_CHECKPOINT == "should_checkpoint"
    assert callable(TuneController._set_trial_status)
    assert "self._tune_controller = tune_controller" in inspect.getsource(TrialRunnerWrapper)
    resets = re.findall(r"self\._resetting_trials\.(\w+)", inspect.getsource(TuneController))
    # Ray removes a trial only when its reset returns. If this changes, review our workaround.
    assert sorted(resets) == ["add", "remove"]
