"""Import of optional packages, with the `pip install` command in the error if one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType


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
