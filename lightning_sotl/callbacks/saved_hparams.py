"""Which hyper-parameters a checkpoint of Lightning holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What LightningCLI adds, to know how to make the object again.
_OF_THE_CLI = ("_instantiator", "_class_path")


def saved_hparams(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the hyper-parameters of module and DataModule; None if the checkpoint has none.

    The module's win if both have a name, as in the record.

    Example:
        >>> saved_hparams({"hyper_parameters": {"lr": 1}, "datamodule_hyper_parameters": {"n": 4}})
        {'n': 4, 'lr': 1}
    """
    parts = [
        checkpoint[key]
        for key in ("datamodule_hyper_parameters", "hyper_parameters")
        if key in checkpoint
    ]
    if not parts:
        return None
    return without_cli_keys({name: value for part in parts for name, value in part.items()})


def without_cli_keys(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters without what LightningCLI adds to them."""
    return {name: value for name, value in hparams.items() if name not in _OF_THE_CLI}
