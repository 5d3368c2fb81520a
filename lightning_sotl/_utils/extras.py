"""Checks of installed packages; each error has the `pip install` command that fixes it."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

# The oldest version on which the tests pass. It is also in pyproject.toml. But `lightning` is not
# required there, and an environment may still contain an older `pytorch-lightning`.
OLDEST_LIGHTNING = (2, 5)


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return an optional module.

    Args:
        module: Its dotted name.
        extra: The extra of `lightning-sotl` that installs it.
        purpose: What it is needed for, a verb phrase such as "draw figures".

    Raises:
        ModuleNotFoundError: If it is not installed; the message names the `pip install`.

    Examples:
        >>> require("json", extra="plot", purpose="draw figures").__name__
        'json'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # installed but broken: keep the original message
        raise ModuleNotFoundError(
            f"`{package}` is needed to {purpose} but is not installed. "
            f'Run: pip install "lightning-sotl[{extra}]"',
            name=package,
        ) from None


def require_lightning(package: str) -> None:
    """Raise if a Lightning package is too old.

    Args:
        package: Its name, `pytorch_lightning` or `lightning`.

    Raises:
        ImportError: If it is too old. The message has its version and the `pip install` command.
    """
    version = importlib.import_module(package).__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_LIGHTNING:
        name = package.replace("_", "-")
        oldest = ".".join(map(str, OLDEST_LIGHTNING))
        raise ImportError(
            f"Expected `{name}` {oldest} or newer but got {version}. "
            f"Run: pip install --upgrade {name}",
            name=package,
        )
