"""What makes a ranking by training losses unreliable: unlike runs, ties, losses near zero."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_all, shortened

# Fields of the record's header that change what L(e) is a mean of, or how many steps led to it.
_FACTS = (
    "loss_key",
    "unit",
    "batch_size",
    "accumulate_grad_batches",
    "world_size",
    "batches_per_unit",
)
# Hyper-parameters that change the training loss itself, not only how well it is minimised.
_HPARAMS = re.compile(
    r"label_?smooth|class_?weight|pos_?weight|drop_?(out|path|rate|connect)|weight_?decay"
    r"|^w_?decay$|^wd$|augment|mix_?up|cut_?(mix|out)|rand_?aug",
    re.IGNORECASE,
)
NEAR_ZERO = 0.1  # appendix B.3 of the paper
_MANY = 0.1  # share of the runs
_MOST_FIELDS = 1000  # a bound for damaged records; each is looked up in each run
_MOST_DESCRIBED = 20


def differing_fields(facts: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return the fields that training losses depend on and that differ between records.

    Args:
        facts: The header of each run's record; empty without a record.

    Returns:
        Field (for a hyper-parameter "hparams.dropout") -> how many runs have each value, in JSON.

    Example:
        >>> differing_fields([{"batch_size": 32}, {"batch_size": 64}, {"batch_size": 64}])
        {'batch_size': Counter({'64': 2, '32': 1})}
    """
    headers = [header for header in facts if header]
    names = [
        f"hparams.{key}"
        for header in headers
        for key in header.get("hparams") or {}
        if _HPARAMS.search(key)
    ]
    fields = list(dict.fromkeys([*_FACTS, *names]))[:_MOST_FIELDS]
    counts = {name: Counter(_value(header, name) for header in headers) for name in fields}
    return {name: values for name, values in counts.items() if len(values) > 1}


def comparability_notes(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Return warnings about runs with incomparable losses; none if no run has a record."""
    notes = []
    if differing := differing_fields(facts):
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
    budgets = Counter(_value(header, "max_epochs") for header in facts if header)
    if len(budgets) > 1:
        notes.append(
            f"The runs have different `max_epochs` ({_counts(budgets)}): where a learning-rate "
            "schedule follows it, they are not on the same schedule at T."
        )
    unknown = sum(not header for header in facts)
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
    """Return the values of some fields -> the row numbers of the runs that share them.

    Args:
        facts: The header of each run's record.
        fields: Names such as "batch_size" or "hparams.dropout".

    Raises:
        ValueError: If no run has a field; the message lists the existing fields.
    """
    available = sorted(
        {name for header in facts for name in header if name != "hparams"}
        | {f"hparams.{key}" for header in facts for key in header.get("hparams") or {}}
    )
    for name in fields:
        if name not in available:
            raise ValueError(f"No run has the field {name!r}; available: {quote_all(available)}.")
    groups: dict[tuple[str, ...], list[int]] = {}
    for run, header in enumerate(facts):
        groups.setdefault(tuple(_value(header, name) for name in fields), []).append(run)
    return groups


def ties_and_zeros(
    losses: NDArray[np.float64] | None,
    estimates: NDArray[np.float64],
    *,
    at: int,
    monitor: str,
) -> list[str]:
    """Return warnings about losses near zero, and about ties.

    Args:
        losses: L(T-1) of each run, or None if the ranking is not by losses.
        estimates: Shape `(runs,)`, lower is better, `+inf` for a diverged run.
        at: T.
        monitor: The estimate's name.
    """
    notes = []
    if losses is not None:
        near_zero = int((losses < NEAR_ZERO).sum())
        if near_zero > 1 and near_zero >= _MANY * losses.size:
            notes.append(
                f"{near_zero} of {pluralize(losses.size, 'run')} have L(e) < {NEAR_ZERO} after "
                f"{pluralize(at, 'epoch')}: so near zero the order of training losses says little. "
                "A smaller T may order these runs better."
            )
    finite = estimates[np.isfinite(estimates)]
    values, sizes = np.unique(finite, return_counts=True)
    if tied := int(sizes[sizes > 1].sum()):
        notes.append(
            f"{tied} of {pluralize(finite.size, 'run')} ({tied / finite.size:.0%}) tie with "
            f"another in '{monitor}', which has {pluralize(values.size, 'different value')}."
        )
    return notes


def _value(header: dict[str, Any], name: str) -> str:
    """Return a field in JSON; "unknown" for a run without a record."""
    if not header:
        return "unknown"
    if name.startswith("hparams."):
        value = (header.get("hparams") or {}).get(name.removeprefix("hparams."))
    else:
        value = header.get(name)
    return json.dumps(value, sort_keys=True)
