"""Finds runs with the same configuration: repeats, and runs that were started again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sotl._utils.text import quote_few
from lightning_sotl.record.format import header_time

# If one of these differs, runs with equal parameters have different configurations.
_SETTINGS = (
    "network",
    "loss_key",
    "unit",
    "batch_size",
    "accumulate_grad_batches",
    "batches_per_unit",
)
_MOST_NAMED = 5  # groups


def configuration(header: Mapping[str, Any]) -> str | None:
    """Return a text that identifies the configuration of a run, or None if it is unknown.

    A configuration is the run's name, its `params` or else its hyper-parameters, its network and
    the settings of its training. It is unknown if the run has neither a name nor parameters, or if
    equal JSON does not mean equal hyper-parameters.

    Examples:
        >>> configuration({"hparams": {"lr": 0.1}}) == configuration({"params": {"lr": 0.1}})
        True
        >>> print(configuration({"hparams": {}}))
        None
    """
    params, name = header.get("params"), header.get("name")
    if not params:
        params = header.get("hparams") or {}
        if not _is_exact(params, header.get("inexact_hparams")):
            return None
    if not params and name is None:
        return None
    settings = [header.get(setting) for setting in _SETTINGS]
    return json.dumps([name, params, settings], sort_keys=True)


def _is_exact(hparams: Mapping[str, Any], inexact: Any) -> bool:
    """Return whether equal JSON means equal hyper-parameters.

    It does not if JSON has null instead of a value, or the address of an object: different objects
    of two processes may have the same address.
    """
    names = inexact if isinstance(inexact, list) else []
    texts = [json.dumps(hparams.get(name)) for name in names if isinstance(name, str)]
    return not any("null" in text for text in texts) and " at 0x" not in json.dumps(hparams)


def repeats(facts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return groups of row numbers of runs with the same configuration, oldest first.

    Args:
        facts: The header of each run's record; empty without a record.

    Examples:
        >>> repeats([{"hparams": {"lr": 1}}, {"hparams": {"lr": 2}}, {"hparams": {"lr": 1}}, {}])
        [[0, 2]]
    """
    rows: dict[str, list[int]] = {}
    for row, header in enumerate(facts):
        key = configuration(header)
        if key is not None:
            rows.setdefault(key, []).append(row)
    return [
        sorted(group, key=lambda row: header_time(facts[row]))
        for group in rows.values()
        if len(group) > 1
    ]


def named_repeats(names: Sequence[str], groups: Sequence[Sequence[int]]) -> str:
    """Return the names of the runs in each group of `repeats`, for a message.

    Examples:
        >>> named_repeats(["a", "b", "c", "d"], [[0, 2], [1, 3]])
        "'a', 'c'; 'b', 'd'"
    """
    named = [quote_few([names[row] for row in group]) for group in groups[:_MOST_NAMED]]
    if len(groups) > _MOST_NAMED:
        named.append(f"and {len(groups) - _MOST_NAMED:,} more groups")
    return "; ".join(named)


def repeats_notes(names: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note that names the runs with the same parameters, if there are any."""
    groups = repeats(facts)
    if not groups:
        return []
    return [
        "Some runs have the same parameters, because they are repeats or were started again. All "
        f"of them count: {named_repeats(names, groups)}."
    ]
