"""Finds fields of a record's header by dotted name, including nested hyper-parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# The parameters that the user gave the monitor, and those that module and DataModule saved.
_NESTED = ("params", "hparams")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ABSENT = object()


class Leaf(NamedTuple):
    """A parameter that contains no other parameters.

    Attributes:
        name: Its dotted name, such as "model.dropout".
        value: Its value, as JSON.
        keys: The keys that lead to it, outermost first.
        classes: The class names of every `class_path` around it, outermost first.
    """

    name: str
    value: Any
    keys: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def leaves(params: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the parameters that contain no others, also from nested dicts and lists of dicts.

    Examples:
        >>> [leaf.name for leaf in leaves({"lr": 0.1, "model": {"sizes": [8, 4], "dropout": 0.5}})]
        ['lr', 'model.sizes', 'model.dropout']
    """
    for key, value in params.items():
        yield from _leaves_below(Leaf(str(key), value, (str(key),)))


def _leaves_below(node: Leaf) -> Iterator[Leaf]:
    value, classes = node.value, node.classes
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
        if isinstance(value.get("class_path"), str):
            classes = (*classes, value["class_path"].rpartition(".")[2])
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        entries = list(enumerate(value))
    if not entries:
        yield node
    for key, entry in entries:
        yield from _leaves_below(Leaf(f"{node.name}.{key}", entry, (*node.keys, str(key)), classes))


def field_names(header: Mapping[str, Any]) -> list[str]:
    """Return the names of a header's fields.

    Examples:
        >>> field_names({"batch_size": 8, "hparams": {"model": {"dropout": 0.5}}})
        ['batch_size', 'hparams.model.dropout']
    """
    names = [name for name in header if name not in _NESTED]
    return [*names, *(leaf.name for leaf in param_leaves(header))]


def param_leaves(header: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the parameters in a header, with names such as "hparams.model.dropout"."""
    for part in _NESTED:
        if isinstance(params := header.get(part), dict):
            for leaf in leaves(params):
                yield leaf._replace(name=f"{part}.{leaf.name}")


def has_field(header: Mapping[str, Any], name: str) -> bool:
    """Return whether a header has a field, even if it is null."""
    return _find(header, name) is not _ABSENT


def field_value(header: Mapping[str, Any], name: str) -> Any:
    """Return the value of a header's field as JSON, or None if it is absent.

    A key may itself contain dots.

    Examples:
        >>> field_value({"hparams": {"model": {"dropout": 0.5}}}, "hparams.model.dropout")
        0.5
        >>> field_value({"hparams": {"model.dropout": 0.1}}, "hparams.model.dropout")
        0.1
    """
    found = _find(header, name)
    return None if found is _ABSENT else found


def _find(container: Any, name: str) -> Any:
    if isinstance(container, list):
        container = {str(index): entry for index, entry in enumerate(container)}
    if not isinstance(container, dict):
        return _ABSENT
    if name in container:
        return container[name]
    for dot in (match.start() for match in re.finditer(r"\.", name)):
        if name[:dot] in container:
            found = _find(container[name[:dot]], name[dot + 1 :])
            if found is not _ABSENT:
                return found
    return _ABSENT


def value_text(value: Any) -> str:
    """Return a value as JSON, without the addresses in the `repr` of objects.

    Examples:
        >>> value_text({"b": "<function mse at 0x7f00>", "a": 0.0})
        '{"a": 0.0, "b": "<function mse>"}'
    """
    return _ADDRESS.sub("", json.dumps(value, sort_keys=True))


def value_key(value: Any) -> str:
    """Return the same text for equal values, such as 1 and 1.0, or a function in two processes.

    Examples:
        >>> value_key([32, {"p": 0.0}]) == value_key([32.0, {"p": 0}])
        True
        >>> value_key(1) == value_key(True)
        False
    """
    return value_text(_with_whole_numbers(value))


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
