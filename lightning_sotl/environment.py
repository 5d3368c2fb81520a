"""Adds the callbacks to every Trainer of a program through the variable `LIGHTNING_SOTL`.

Lightning calls the two functions of this module for each new Trainer, because the package registers
them as entry points. They do nothing unless the variable is set.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

VARIABLE = "LIGHTNING_SOTL"


def pytorch_lightning_callbacks() -> list[Any]:
    """Return the callbacks for a `pytorch_lightning` Trainer, or an empty list."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return []
    from lightning_sotl import pytorch_lightning

    return _callbacks(text, pytorch_lightning)


def lightning_callbacks() -> list[Any]:
    """Return the callbacks for a `lightning.pytorch` Trainer, or an empty list."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return []
    from lightning_sotl import lightning

    return _callbacks(text, lightning)


def _callbacks(text: str, door: Any) -> list[Any]:
    """Return the callbacks that the variable asks for, of one of the two doors."""
    options = _read(text)
    for_stopper = {name: options.pop(name) for name in _STOPPER_OPTIONS if name in options}
    try:
        callbacks = [door.SoTLMonitor(**options)]
        if for_stopper:
            # The first name is the sum over all epochs, the second that of the first window.
            for_stopper.setdefault("monitor", callbacks[0].metric_names[1])
            directory = options.get("directory")
            callbacks.append(door.EarlyRankingStopper(**for_stopper, checkpoint_dir=directory))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} It is set by {VARIABLE}={text!r}.") from error
    for callback in callbacks:
        callback.gives_way = True
    return callbacks


def _read(text: str) -> dict[str, Any]:
    """Return name -> value of the options in the variable's text."""
    # A value may contain spaces and commas. It ends at the next ` name=`, or at a comma before the
    # name of an option.
    names = "|".join(_OPTIONS)
    start, *parts = re.split(rf"(?:^|[\s,;]*[\s;]+|,(?=(?:{names})=))([A-Za-z_]\w*)=", text)
    values = dict(zip(parts[::2], parts[1::2], strict=True))
    known = ", ".join(f"'{name}'" for name in _OPTIONS)
    if start or not values:
        raise ValueError(
            f"Expected the environment variable {VARIABLE} to be options such as "
            f"'stop_epoch=10 directory=runs/a' but got {text!r}."
        )
    if len(values) < len(parts) // 2:
        raise ValueError(f"Expected each option of {VARIABLE} once but got {text!r}.")
    options = {}
    for name, value in values.items():
        if name not in _OPTIONS:
            raise ValueError(
                f"Expected the options of {VARIABLE} to be among {known} but got '{name}'."
            )
        options[name] = _parse(name, value)
    return options


def _parse(name: str, value: str) -> Any:
    convert, expected = _OPTIONS[name]
    try:
        return convert(value)
    except ValueError:
        raise ValueError(
            f"Expected `{name}` in {VARIABLE} to be {expected} but got {value!r}."
        ) from None


def _integers(value: str) -> int | tuple[int, ...]:
    numbers = tuple(map(int, value.split(",")))
    return numbers[0] if len(numbers) == 1 else numbers


def _flag(value: str) -> bool:
    flags = {"1": True, "true": True, "0": False, "false": False}
    if value.lower() not in flags:
        raise ValueError(value)
    return flags[value.lower()]


def _names(value: str) -> tuple[str, ...]:
    return tuple(value.split(","))


def _path(value: str) -> str:
    if not value:
        raise ValueError(value)
    return str(Path(value).expanduser())


_INTEGER = int, "an integer"
_TEXT = str, "a text"
_STOPPER_OPTIONS = {
    "stop_epoch": _INTEGER,
    "stop_batches": _INTEGER,
    "monitor": _TEXT,
    "promoted": (_flag, "1 or 0"),
}
_OPTIONS: dict[str, tuple[Any, str]] = {
    "window": (_integers, "an integer or several such as 1,10"),
    "ema_decay": (float, "a number"),
    "every_n_train_batches": _INTEGER,
    "loss_key": _TEXT,
    "record_metrics": (_names, "names such as val_loss,val_acc"),
    "name": _TEXT,
    "directory": (_path, "a folder"),
    **_STOPPER_OPTIONS,
}
