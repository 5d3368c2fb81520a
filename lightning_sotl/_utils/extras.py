"""Optional packages: imported where needed, and named with their `pip install` if absent."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return an optional module.

    Args:
        module: Its dotted name.
        extra: The extra of this package that brings it.
        purpose: What it is needed for, as it completes "... to".

    Raises:
        ModuleNotFoundError: If it is not installed; the message names the `pip install`.

    Example:
        >>> require("json", extra="plot", purpose="draw pictures").__name__
        'json'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is there and broken: its own message says more
        raise ModuleNotFoundError(
            f"`{package}` is needed to {purpose} and is not installed. "
            f'Run: pip install "lightning-sotl[{extra}]"',
            name=package,
        ) from None
