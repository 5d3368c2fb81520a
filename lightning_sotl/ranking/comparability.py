"""What makes an order of training losses say little: unlike runs, ties, losses near zero."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_all, shortened

# Of the record's header: each changes what L(e) is a mean of, or how many steps led to it.
_FACTS = (
    "loss_key",
    "unit",
    "batch_size",
    "accumulate_grad_batches",
    "world_size",
    "batches_per_unit",
)
# Hyper-parameters that change the training loss itself, and not only how well it is learned.
_HPARAMS = re.compile(
    r"label_?smooth|class_?weight|pos_?weight|drop_?(out|path|rate|connect)|weight_?decay"
    r"|^w_?decay$|^wd$|augment|mix_?up|cut_?(mix|out)|rand_?aug",
    re.IGNORECASE,
)
NEAR_ZERO = 0.1  # appendix B.3 of the paper
_MANY = 0.1
_MOST_FIELDS = 1000  # each is looked up in each run; nobody has so many hyper-parameters
_MOST_DESCRIBED = 20


def loss_fields(facts: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return field -> its value in each run, of the fields on which training losses depend.

    Hyper-parameters are named as `hparams.dropout`; values are in JSON, and "unknown" where a run
    has no record.

    Args:
        facts: The header of each run's record; empty without one.
    """
    names = list(_FACTS)
    for one in facts:
        hparams = one.get("hparams") or {}
        names += [f"hparams.{key}" for key in hparams if _HPARAMS.search(key)]
    fields = list(dict.fromkeys(names))[:_MOST_FIELDS]
    return {name: [_value(one, name) for one in facts] for name in fields}


def differing_fields(facts: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return field -> how many runs have each value, of those that differ between records.

    Example:
        >>> differing_fields([{"batch_size": 32}, {"batch_size": 64}, {"batch_size": 64}])
        {'batch_size': Counter({'64': 2, '32': 1})}
    """
    known = [one for one in facts if one]
    counts = {name: Counter(values) for name, values in loss_fields(known).items()}
    return {name: values for name, values in counts.items() if len(values) > 1}


def comparability_notes(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Return warnings about runs whose losses do not mean the same; none if no run has a record."""
    notes = []
    differing = differing_fields(facts)
    if differing:
        described = "; ".join(
            f"{shortened(name)} ({_counts(values)})"
            for name, values in list(differing.items())[:_MOST_DESCRIBED]
        )
        if len(differing) > _MOST_DESCRIBED:
            described += f"; and {len(differing) - _MOST_DESCRIBED:,} more fields"
        notes.append(
            f"The runs differ in what their training losses depend on, so their order may not say "
            f"which is better: {described}. Group by a field to rank only like with like."
        )
    budgets = Counter(_value(one, "max_epochs") for one in facts if one)
    if len(budgets) > 1:
        notes.append(
            f"The runs have different `max_epochs` ({_counts(budgets)}): where a learning-rate "
            "schedule follows it, they are not on the same schedule at T."
        )
    unknown = sum(not one for one in facts)
    if 0 < unknown < len(facts):
        notes.append(
            f"{pluralize(unknown, 'run')} of {len(facts)} without a record: whether batch size, "
            "loss and the like make them comparable cannot be told."
        )
    return notes


def _counts(values: Counter[str]) -> str:
    shown = [f"{shortened(value)}: {n}" for value, n in values.most_common(4)]
    return ", ".join([*shown, "..."] if len(values) > 4 else shown)


def groups_of(
    facts: Sequence[dict[str, Any]], fields: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    """Return the values of some fields -> the runs that share them.

    Args:
        facts: The header of each run's record.
        fields: Names as "batch_size" or "hparams.dropout".

    Raises:
        ValueError: If no run has a field; the message lists those that exist.
    """
    available = sorted(
        {name for one in facts for name in one if name != "hparams"}
        | {f"hparams.{key}" for one in facts for key in one.get("hparams") or {}}
    )
    for name in fields:
        if name not in available:
            raise ValueError(f"No run has the field {name!r}; available: {quote_all(available)}.")
    groups: dict[tuple[str, ...], list[int]] = {}
    for run, one in enumerate(facts):
        groups.setdefault(tuple(_value(one, name) for name in fields), []).append(run)
    return groups


def ties_and_zeros(
    losses: NDArray[np.float64] | None,
    bad: NDArray[np.float64],
    *,
    at: int,
    monitor: str,
) -> list[str]:
    """Return warnings where the order says little: losses near zero, and ties.

    Args:
        losses: L(T-1) of each run, or None if something else is ranked by.
        bad: The estimates, lower is better, `+inf` for a diverged run.
        at: T.
        monitor: The estimate's name.
    """
    notes = []
    finite = bad[np.isfinite(bad)]
    if losses is not None:
        near_zero = int((losses < NEAR_ZERO).sum())
        if near_zero > 1 and near_zero >= _MANY * losses.size:
            notes.append(
                f"{near_zero} of {pluralize(losses.size, 'run')} have L(e) < {NEAR_ZERO} after "
                f"{pluralize(at, 'epoch')}: so near zero the order of training losses says little. "
                "A smaller T may order these runs better."
            )
    values, sizes = np.unique(finite, return_counts=True)
    tied = int(sizes[sizes > 1].sum())
    if tied:
        notes.append(
            f"{tied} of {pluralize(finite.size, 'run')} ({tied / finite.size:.0%}) tie with "
            f"another in '{monitor}', which has {pluralize(values.size, 'different value')}."
        )
    return notes


def _value(facts: dict[str, Any], name: str) -> str:
    if not facts:
        return "unknown"
    if name.startswith("hparams."):
        value = (facts.get("hparams") or {}).get(name.removeprefix("hparams."))
    else:
        value = facts.get(name)
    return json.dumps(value, sort_keys=True)
