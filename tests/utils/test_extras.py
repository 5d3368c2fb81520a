from __future__ import annotations

import importlib
import re
import sys

import pytest

import lightning_sotl.integrations.optuna
import lightning_sotl.integrations.ray  # noqa: F401  # both are there before they are hidden
from lightning_sotl._utils import extras


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
