"""Which runs have the same configuration: repeats, and runs that were started again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sotl._utils.text import quote_few
from lightning_sotl.record.format import header_time

# The network, and settings of the Trainer and the loaders, with which equal parameters are
# different trainings.
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
    """Return what runs of one configuration share; None if that cannot be told.

    That is a run's name, its `params` or else its hyper-parameters, its network, and the settings
    under which it was trained. It is None without name and parameters, and if the record does not
    hold all hyper-parameters.

    Examples:
        >>> configuration({"hparams": {"lr": 0.1}}) == configuration({"params": {"lr": 0.1}})
        True
        >>> print(configuration({"hparams": {}}))
        None
    """
    params, name = header.get("params"), header.get("name")
    if not params:
        params = header.get("hparams") or {}
        if not _is_whole(params, header.get("inexact_hparams")):
            return None
    if not params and name is None:
        return None
    settings = [header.get(setting) for setting in _SETTINGS]
    return json.dumps([name, params, settings], sort_keys=True)


def _is_whole(hparams: Mapping[str, Any], inexact: Any) -> bool:
    """Return whether equal JSON means equal hyper-parameters.

    In two processes, two objects may have the same address. A null may have been any number.
    """
    names = inexact if isinstance(inexact, list) else []
    doubtful = [json.dumps(hparams.get(name)) for name in names if isinstance(name, str)]
    return not any("null" in text for text in doubtful) and " at 0x" not in json.dumps(hparams)


def repeats(facts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the row numbers of runs with the same configuration, the oldest of each first.

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
    """Return the names of runs with the same configuration.

    Examples:
        >>> named_repeats(["a", "b", "c", "d"], [[0, 2], [1, 3]])
        "'a', 'c'; 'b', 'd'"
    """
    named = [quote_few([names[row] for row in group]) for group in groups[:_MOST_NAMED]]
    if len(groups) > _MOST_NAMED:
        named.append(f"and {len(groups) - _MOST_NAMED:,} more groups")
    return "; ".join(named)


def repeats_notes(names: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note that names the runs with the same parameters; none if there are none."""
    groups = repeats(facts)
    if not groups:
        return []
    return [
        "Runs with the same parameters, repeated or started again, all count: "
        f"{named_repeats(names, groups)}."
    ]
