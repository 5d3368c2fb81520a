"""Checks that a promoted run has the same settings as the stopped run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import shortened
from lightning_sotl.callbacks._record_facts import run_facts
from lightning_sotl.callbacks._trainer import Module, Trainer
from lightning_sotl.callbacks.monitor import monitors_of
from lightning_sotl.record.format import without_cli_keys

_KEY = "lightning_sotl_facts"  # an entry of checkpoints
_HPARAMS = ("hyper_parameters", "datamodule_hyper_parameters")  # Lightning's own entries
_MAX_NAMED = 10
_BY_NAME = (type, FunctionType, BuiltinFunctionType)  # checkpoints contain only their names
_FACTS = {
    "max_epochs": "max_epochs",
    "max_steps": "max_steps",
    "batch_size": "batch_size",
    "batches_per_unit": "num_training_batches",
    "accumulate_grad_batches": "accumulate_grad_batches",
}


def facts_of(trainer: Trainer, pl_module: Module) -> dict[str, Any]:
    """Return the settings, other than hyper-parameters, that a promotion should not change."""
    facts = run_facts(trainer, pl_module, block=None)
    params = (monitor.params for monitor in monitors_of(trainer))
    return {
        **{name: facts[key] for key, name in _FACTS.items()},
        "params": next((dict(given) for given in params if given is not None), None),
    }


def put_facts(checkpoint: dict[str, Any], facts: dict[str, Any] | None) -> None:
    """Put facts into a checkpoint that Lightning is about to save."""
    if facts is not None:
        checkpoint[_KEY] = facts


def saved_facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a checkpoint that contain facts and hyper-parameters."""
    return {key: checkpoint[key] for key in (_KEY, *_HPARAMS) if key in checkpoint}


def facts_in(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the facts in a result of `saved_facts`, or None for an older checkpoint."""
    facts: dict[str, Any] | None = saved.get(_KEY)
    return facts


def warn_of_differences(
    trainer: Trainer, pl_module: Module, saved: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Warn if the schedule, the hyper-parameters or the data of a promoted run have changed.

    Args:
        trainer: The Trainer of the promoted run.
        pl_module: The module of the promoted run.
        saved: The `saved_facts` of the checkpoint from which the run resumes.
        facts: The present facts of the promoted run.
    """
    differences = [
        *_different(saved.get(_KEY) or {}, facts, skip=("params",)),
        *_different((saved.get(_KEY) or {}).get("params"), facts["params"]),
        *_different(saved.get(_HPARAMS[0]), pl_module.hparams),
        *_different(saved.get(_HPARAMS[1]), getattr(trainer.datamodule, "hparams", None)),
    ]
    named = dict.fromkeys(differences)  # the module and the DataModule may share a name
    if not named:
        return
    rest = len(named) - _MAX_NAMED
    listed = "; ".join([*list(named)[:_MAX_NAMED], *([f"and {rest} more"] if rest > 0 else [])])
    warn_user(
        f"The settings of the promoted run differ from those of the stopped run: {listed}. Its "
        "rank and the states of its optimizers and schedules come from the stopped run."
    )


def _different(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, skip: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a text with both values for each difference; nothing if one side is empty."""
    if not before or not now:
        return
    before, now = without_cli_keys(before), without_cli_keys(now)
    for name in dict.fromkeys([*before, *now]):
        if name in skip:
            continue
        if name not in now:
            yield f"`{name}` was {_shown(before[name])} and is now absent"
        elif name not in before:
            yield f"`{name}` was absent and is now {_shown(now[name])}"
        elif not is_same(before[name], now[name]):
            yield f"`{name}` was {_shown(before[name])} and is now {_shown(now[name])}"


def is_same(before: Any, now: Any) -> bool:
    """Return whether two settings are equal; in doubt, return True.

    A tuple equals a list with the same entries. Objects without `__eq__` count as equal if they
    have the same type, because one of them is a copy from a checkpoint.
    """
    if isinstance(before, torch.Tensor) and isinstance(now, torch.Tensor):
        return before.shape == now.shape and bool(torch.equal(before.cpu(), now.cpu()))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return before.keys() == now.keys() and all(is_same(before[k], now[k]) for k in before)
    if _is_sequence(before) and _is_sequence(now):
        return len(before) == len(now) and all(map(is_same, before, now))
    if isinstance(before, float) and isinstance(now, float) and math.isnan(before):
        return math.isnan(now)
    has_equality = getattr(type(before), "__eq__", None) is not object.__eq__
    if not has_equality and not isinstance(before, _BY_NAME):
        return type(before) is type(now)
    try:
        return bool(np.all(before == now))
    except Exception:  # the `__eq__` of a user's class may raise anything
        return True


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _shown(value: Any) -> str:
    try:
        return shortened(repr(value))
    except Exception:  # the `repr` of a user's class may raise anything
        return f"a {type(value).__name__}"
