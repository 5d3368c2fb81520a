from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import lightning
import pytest
import pytorch_lightning

import lightning_sotl.integrations.optuna
import lightning_sotl.integrations.optuna_lightning
import lightning_sotl.integrations.ray
import lightning_sotl.integrations.ray_lightning
import lightning_sotl.lightning
import lightning_sotl.pytorch_lightning  # all are there before they are hidden
from lightning_sotl._utils import extras
from lightning_sotl.environment import VARIABLE
from tests.support.paths import ROOT


def test_missing_package_names_its_extra() -> None:
    message = (
        "`package_that_is_not_there` is needed to draw pictures but is not installed. "
        'Run: pip install "lightning-sotl[plot]"'
    )
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        extras.require("package_that_is_not_there.part", extra="plot", purpose="draw pictures")


def test_broken_package_speaks_for_itself(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'what_it_needs'$"):
        extras.require("broken_package", extra="plot", purpose="draw pictures")
    sys.modules.pop("broken_package", None)


def reloaded(name: str) -> object:
    """Import a module anew, without keeping what came of it."""
    kept = sys.modules.pop(name)
    try:
        return importlib.import_module(name)
    finally:
        sys.modules[name] = kept


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("matplotlib", "plot", lambda: __import__("lightning_sotl.plotting").plotting._figure()),
        (
            "sklearn",
            "svr",
            lambda: __import__("lightning_sotl.evaluation.lcsvr").evaluation.lcsvr.LcSVR(),
        ),
        ("optuna", "optuna", lambda: reloaded("lightning_sotl.integrations.optuna")),
        ("ray", "ray", lambda: reloaded("lightning_sotl.integrations.ray")),
        (
            "tensorboard",
            "tensorboard",
            lambda: __import__(
                "lightning_sotl.curves._tensorboard"
            ).curves._tensorboard.read_event_files([], ()),
        ),
    ],
)
def test_each_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, call: object
) -> None:
    call_ready = call  # imports first, so that only the optional package is missing
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)

    class Hide:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hide, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=re.escape(f'"lightning-sotl[{extra}]"')):
        call_ready()


TOO_OLD = "Expected `{0}` 2.5 or newer but got 2.4.0. Run: pip install --upgrade {0}"


@pytest.mark.parametrize(
    ("door", "package"),
    [
        ("pytorch_lightning", pytorch_lightning),
        ("integrations.optuna", pytorch_lightning),
        ("integrations.ray", pytorch_lightning),
        ("lightning", lightning),
        ("integrations.optuna_lightning", lightning),
        ("integrations.ray_lightning", lightning),
    ],
)
def test_an_old_lightning_is_refused_where_a_door_is_imported(
    monkeypatch: pytest.MonkeyPatch, door: str, package: Any
) -> None:
    monkeypatch.setattr(package, "__version__", "2.4.0")
    message = TOO_OLD.format(package.__name__.replace("_", "-"))
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        reloaded(f"lightning_sotl.{door}")


@pytest.mark.parametrize("package", [pytorch_lightning, lightning])
def test_an_old_lightning_is_refused_where_the_variable_adds_the_callbacks(
    monkeypatch: pytest.MonkeyPatch, package: Any
) -> None:
    monkeypatch.setattr(package, "__version__", "2.4.0")
    # The module was not imported yet.
    monkeypatch.delattr(lightning_sotl, package.__name__)
    monkeypatch.delitem(sys.modules, f"lightning_sotl.{package.__name__}")
    trainer = getattr(package, "pytorch", package).Trainer
    assert trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    monkeypatch.setenv(VARIABLE, "stop_epoch=3")
    message = TOO_OLD.format(package.__name__.replace("_", "-"))
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        trainer(logger=False, enable_checkpointing=False, accelerator="cpu")


@pytest.mark.parametrize(
    ("version", "is_old"),
    [
        ("1.9.5", True),
        ("2.4.0", True),
        ("2.5.0.post0", False),
        ("2.6.0rc1", False),
        ("2.10.0", False),
        ("3.0.0.dev20261129", False),
    ],
)
def test_the_version_of_lightning_is_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str, is_old: bool
) -> None:
    monkeypatch.setattr(lightning, "__version__", version)
    if is_old:
        with pytest.raises(ImportError, match=f"^Expected .* but got {re.escape(version)}\\. Run"):
            extras.require_lightning("lightning")
    else:
        extras.require_lightning("lightning")


def test_pyproject_has_the_oldest_version_that_is_not_refused() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    bounds = re.findall(r'"(?:pytorch-)?lightning>=(\d+)\.(\d+)\.0"', text)
    assert [tuple(map(int, bound)) for bound in bounds] == [extras.OLDEST_LIGHTNING] * 2
