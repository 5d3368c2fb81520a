"""What makes a ranking by training losses unreliable: unlike runs, ties, losses near zero."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.text import pluralize, quote_all, shortened
from lightning_sotl.ranking.fields import (
    field_names,
    field_value,
    has_field,
    param_leaves,
    value_key,
    value_text,
)

# Fields of the record's header that change which losses L(e) averages, or how many steps come
# before it.
_FACTS = (
    "loss_key",
    "unit",
    "batch_size",
    "accumulate_grad_batches",
    "world_size",
    "batches_per_unit",
)
# Names of parameters that change the training loss itself, not only how well it is minimized. Words
# are separated by "_". If a name matches, everything nested in it matters too.
_MATTERS = re.compile(
    r"""
    # Regularization that is part of the loss, or on only in training.
    label_?smooth | drop_?(out|path|rate|connect|prob) | stochastic_?depth
    | weight_?decay | ^w_?decay$ | ^wd$ | regulari[sz] | penalty
    | (^|_)l[12]_(reg|lambda|weight|penalty|coeff?)
    | augment | mix_?up | cut_?(mix|out) | rand_?aug | (^|_)noise(_(?!dim|size|channels)|$)
    | (^|_)mask(ing)?_(ratio|rate|prob)
    # The loss function, and its weights.
    | (^|_)loss(es)?(_|$) | loss$ | criterion | likelihood | objective
    | (?<!init_)distribution | ^distr_
    | ^reduction$ | ^temperature$ | ^margin$ | ^quantiles?$ | (^|(?<!lr)_)lambda(_|$)
    | class_?weight | pos_?weight
    | (^|_)(kld?|recon(s|struction)?|aux(iliary)?|adv|gp|entropy|vf)_(weight|coeff?|scale)
    # The choice of the data, and their scale.
    | (?<!grad_)scaler | ^scaling$ | ^normali[sz]e$ | normali[sz]er | standardi[sz]e
    | (^|_)(target|label|output|reward|data)s?_(scale|scaling|norm|transform)
    | (^|_)dataset(_name)?$ | tokeni[sz]er | vocab_size
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LOSS_CLASS = re.compile(r"(Loss|Likelihood|Criterion|Distribution)$")
_BATCH_SIZE = re.compile(r"^(train(ing)?_)?batch_?size$", re.IGNORECASE)
NEAR_ZERO = 0.1  # appendix B.3 of the paper
_MANY = 0.1  # share of the runs
_MOST_FIELDS = 1000  # a damaged record may have any number of fields
_MOST_DESCRIBED = 10
_FEWEST_SCATTERED = 3  # a search over a range has at least this many values


def differing_fields(facts: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return the fields that training losses depend on and that differ between runs.

    Differences that change no loss are left out: 0 and 0.0, a parameter that is absent in some runs
    and off (0, null, false or empty) in the others, a second name for the same parameter, and a
    number of batches that follows from the batch size.

    Args:
        facts: The header of each run's record; empty without a record.

    Returns:
        Field, for example "batch_size", "hparams.model.dropout" or "params.loss" -> value as JSON
        -> number of runs.

    Examples:
        >>> differing_fields([{"batch_size": 32}, {"batch_size": 64}, {"batch_size": 64}])
        {'batch_size': Counter({'64': 2, '32': 1})}
    """
    headers = [header for header in facts if header]
    names = dict.fromkeys(name for header in headers for name in _relevant_params(header))
    differing: dict[str, Counter[str]] = {}
    seen = set()
    for name in [*_FACTS, *names][:_MOST_FIELDS]:
        values = [field_value(header, name) for header in headers]
        is_param = name not in _FACTS
        keys = tuple("off" if is_param and _is_off(value) else value_key(value) for value in values)
        parameter = (name.rpartition(".")[2], keys)  # may be saved under several names
        if len(set(keys)) > 1 and parameter not in seen:
            seen.add(parameter)
            differing[name] = _count(values)
    if "batch_size" in differing and _is_explained_by_batch_size(headers):
        differing.pop("batches_per_unit", None)
    return {name: values for name, values in differing.items() if not _is_detail(name, differing)}


def _relevant_params(header: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the parameters that training losses depend on."""
    for leaf in param_leaves(header):
        # A `class_path` matters if it is below a key that matters, such as `loss`, or if it names a
        # loss. It does not matter below `optimizer` or `model`.
        if (
            any(map(_matters, leaf.keys))
            or any(map(_LOSS_CLASS.search, leaf.classes))
            or (header.get("batch_size") is None and _BATCH_SIZE.search(leaf.keys[-1]))
        ):
            yield leaf.name


@lru_cache(maxsize=10_000)
def _matters(key: str) -> bool:
    """Return whether a key is the name of a parameter that training losses depend on.

    Examples:
        >>> [_matters(key) for key in ("lossWeight", "model/drop-rate", "width")]
        [True, True, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[- ]", "_", key)
    return any(map(_MATTERS.search, re.split(r"[./]", words)))


def _is_off(value: Any) -> bool:
    """Return whether a parameter has no effect, as if it were absent."""
    return not value or (isinstance(value, str) and value.lower() == "none")


def _is_explained_by_batch_size(headers: list[dict[str, Any]]) -> bool:
    """Return whether all runs may have the same number of examples, in batches of their size."""
    fewest, most = 0.0, math.inf
    for header in headers:
        size, batches = header.get("batch_size"), header.get("batches_per_unit")
        ranks = header.get("world_size", 1)
        if not (isinstance(size, int) and isinstance(batches, int) and isinstance(ranks, int)):
            return False
        # The last batch may be smaller or dropped.
        fewest = max(fewest, (batches - 1) * size * ranks + 1)
        most = min(most, (batches + 1) * size * ranks - 1)
    return fewest <= most


def _is_detail(name: str, differing: dict[str, Counter[str]]) -> bool:
    """Return whether a field is an argument of a class that itself differs."""
    return any(
        f"{name[: match.start()]}.class_path" in differing
        for match in re.finditer(r"\.init_args\.", name)
    )


def comparability_notes(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Return warnings about runs whose losses may not be comparable.

    There are none if no run has a record.

    Args:
        facts: The header of each run's record; empty without a record.
    """
    headers = [header for header in facts if header]
    notes = []
    if differing := differing_fields(facts):
        described = "; ".join(
            f"{shortened(name)} ({_described(values)})"
            for name, values in list(differing.items())[:_MOST_DESCRIBED]
        )
        if len(differing) > _MOST_DESCRIBED:
            described += f"; and {len(differing) - _MOST_DESCRIBED:,} more fields"
        notes.append(
            "The runs differ in settings that change the training loss, so their order may not "
            f"show which is better: {described}."
        )
        # In a search over a range, most groups would have only one run.
        if not all(map(_is_scattered, differing.values())):
            notes[-1] += " `lightning-sotl rank --group-by FIELD` compares like with like."
    budgets = {}
    for name in ("max_epochs", "max_steps"):
        limits = [header.get(name) for header in headers]
        limits = [-1 if limit is None else limit for limit in limits]  # both mean no limit
        if len(counts := _count(limits)) > 1:
            budgets[name] = counts
    if budgets:
        described = " and ".join(f"`{name}` ({_counts(each)})" for name, each in budgets.items())
        notes.append(
            f"The runs have different {described}. If a learning-rate schedule depends on "
            f"{'it' if len(budgets) == 1 else 'them'}, the runs are not at the same point of their "
            "schedules at T."
        )
    unknown = len(facts) - len(headers)
    if 0 < unknown < len(facts):
        notes.append(
            f"Runs without a record ({unknown} of {len(facts)}) may differ from the others in "
            "batch size, loss and similar settings."
        )
    return notes


def _count(values: Sequence[Any]) -> Counter[str]:
    """Return value as JSON -> number of runs; equal values share the text of the first."""
    texts: dict[str, str] = {}
    return Counter(texts.setdefault(value_key(value), value_text(value)) for value in values)


def _is_scattered(values: Counter[str]) -> bool:
    """Return whether most runs have a value of their own, as in a search over a range."""
    return len(values) >= _FEWEST_SCATTERED and 2 * len(values) > values.total()


def _described(values: Counter[str]) -> str:
    present = [value for value in values if value != "null"]
    numbers = [number for value in present if (number := _number(value)) is not None]
    if not _is_scattered(values) or len(numbers) < len(present):
        return _counts(values)
    return f"{len(numbers)} values from {min(numbers):g} to {max(numbers):g}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _counts(values: Counter[str]) -> str:
    shown = [f"{shortened(value)} in {pluralize(n, 'run')}" for value, n in values.most_common(4)]
    return ", ".join([*shown, "..."] if len(values) > 4 else shown)


def groups_of(
    facts: Sequence[dict[str, Any]], fields: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    """Return values of the fields -> row numbers of the runs that have them.

    Args:
        facts: The header of each run's record; empty without a record.
        fields: Names such as "batch_size", "hparams.model.dropout" or "params.loss".

    Raises:
        ValueError: If no run has one of the fields. The message lists the existing fields.
    """
    for name in fields:
        if not any(has_field(header, name) for header in facts):
            available = sorted({name for header in facts for name in field_names(header)})
            raise ValueError(f"No run has the field {name!r}; available: {quote_all(available)}.")
    groups: dict[tuple[str, ...], tuple[tuple[str, ...], list[int]]] = {}
    for run, header in enumerate(facts):
        values = [field_value(header, name) for name in fields]
        keys = tuple(value_key(value) if header else "unknown" for value in values)
        texts = tuple(value_text(value) if header else "unknown" for value in values)
        groups.setdefault(keys, (texts, []))[1].append(run)
    return dict(groups.values())


def near_zero_notes(losses: NDArray[np.float64], *, at: int, unit: str = "epoch") -> list[str]:
    """Return a warning if many runs have losses near zero, where their order means little.

    There is no warning if any loss is negative. Zero then has no special meaning, for example for
    the log-likelihoods of densities.

    Args:
        losses: L(e) of each run, shape `(runs, epochs)`.
        at: T. The warning is about L(T-1).
        unit: "epoch" or "block".
    """
    if (losses < 0).any():
        return []
    near_zero = int((losses[:, at - 1] < NEAR_ZERO).sum())
    if near_zero < 2 or near_zero < _MANY * len(losses):
        return []
    return [
        f"{near_zero} of {pluralize(len(losses), 'run')} have L(e) < {NEAR_ZERO} after "
        f"{pluralize(at, unit)}. So close to zero, the order of training losses means little. "
        "A smaller T may rank these runs better."
    ]


def tie_notes(estimates: NDArray[np.float64], *, monitor: str) -> list[str]:
    """Return a warning if runs tie.

    Args:
        estimates: Shape `(runs,)`, lower is better, `+inf` for a diverged run.
        monitor: The estimate's name.
    """
    finite = estimates[np.isfinite(estimates)]
    values, sizes = np.unique(finite, return_counts=True)
    tied = int(sizes[sizes > 1].sum())
    if not tied:
        return []
    return [
        f"{tied} of {pluralize(finite.size, 'run')} ({tied / finite.size:.0%}) tie with "
        f"another in '{monitor}', which has {pluralize(values.size, 'different value')}."
    ]
