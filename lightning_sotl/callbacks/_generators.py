"""The states of random generators that the training loaders, their samplers and datasets use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import MethodType
from typing import Any, TypeAlias

import numpy as np
import torch

from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Trainer, training_loaders

_Generator: TypeAlias = (
    torch.Generator
    | np.random.Generator
    | np.random.RandomState
    | np.random.BitGenerator
    | random.Random
)
_KINDS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
)

# Lists and dictionaries are searched for generators up to this size and depth.
_MAX_SIZE, _MAX_DEPTH = 1000, 2
_INNER = ("sampler", "batch_sampler", "dataset", "collate_fn", "transform")


def generator_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the states of all generators in attributes of the training loaders and their parts.

    The states are plain types that `weights_only` can load. A torch generator in the attribute
    `generator` of a loader or sampler is omitted because it is saved separately.

    A worker process has its own copy of the dataset, whose generators cannot be reached. The copy
    of the main process is saved instead, since the next workers start from it.
    """
    return [
        {"kind": _kind(generator), "state": _plain_state(generator)}
        for generator in _generators(trainer)
    ]


def set_generator_states(trainer: Trainer, states: list[dict[str, Any]] | None) -> None:
    """Restore the states of `generator_states`, or warn if they are None but needed.

    Raises:
        RuntimeError: If the loaders and their parts have other generators now.
    """
    generators = _generators(trainer)
    found = [_kind(own) for own in generators]
    if states is None:
        if generators:
            warn_user(
                "The checkpoint lacks the states of generators that the training loaders use "
                f"({_join_kinds(found)}), so the run will differ from one that was never stopped."
            )
        return
    saved = [entry["kind"] for entry in states]
    if saved != found:
        raise RuntimeError(
            "Expected the generators that the training loaders use to be those in the saved random "
            f"state ({_join_kinds(saved)}) but got {_join_kinds(found)}."
        )
    for generator, entry in zip(generators, states, strict=True):
        _set_state(generator, entry["state"])


def sampler_orders(trainer: Trainer) -> list[torch.Tensor]:
    """Return the index orders of samplers that have their own generator.

    Such a sampler shuffles its indices in place, so each epoch's order depends on the previous one.
    """
    return [torch.as_tensor(order) for order in _orders(trainer)]


def set_sampler_orders(trainer: Trainer, saved: list[torch.Tensor]) -> None:
    """Restore the orders of `sampler_orders`.

    Raises:
        RuntimeError: If the samplers have other numbers of indices now.
    """
    orders = _orders(trainer)
    sizes = [len(order) for order in orders]
    if sizes != [len(order) for order in saved]:
        raise RuntimeError(
            f"Expected the samplers to have orders of {[len(order) for order in saved]} indices, "
            f"as in the saved random state, but got {sizes}."
        )
    for order, values in zip(orders, saved, strict=True):
        order[:] = values.tolist()


def _orders(trainer: Trainer) -> list[Any]:
    """Return the lists and arrays of indices in those loader parts that have a generator."""
    found: dict[int, Any] = {}
    for part in training_loaders(trainer):
        attributes = _attributes(part)
        if any(_is_own_generator(name, value) for name, value in _walk_attributes(attributes)):
            found |= {id(value): value for value in attributes.values() if _is_order(value)}
    return list(found.values())


def _is_order(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu" and value.flags.writeable
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _generators(trainer: Trainer) -> list[_Generator]:
    parts = training_loaders(trainer)
    for part in parts:  # `parts` grows here, since a dataset may wrap another one
        inner = [_attributes(part).get(name) for name in _INNER]
        inner.append(getattr(part, "__self__", None) if isinstance(part, MethodType) else None)
        parts += [each for each in inner if each is not None and not _is_in(each, parts)]
    found: dict[int, _Generator] = {}  # a loader and its sampler may share one
    for part in parts:
        for name, value in _walk_attributes(_attributes(part)):
            if _is_own_generator(name, value):
                found[id(value)] = value
    return list(found.values())


def _walk_attributes(attributes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and values of attributes, and of the entries of short lists and dictionaries."""
    values = [(name, value, 0) for name, value in attributes.items()]
    for name, value, depth in values:  # `values` grows here
        yield name, value
        # A subclass of these types might run its own code.
        if type(value) in (list, tuple, dict) and depth < _MAX_DEPTH and len(value) <= _MAX_SIZE:
            inner = value.values() if type(value) is dict else value
            values += [(f"{name}[]", each, depth + 1) for each in inner]


def _is_own_generator(name: str, value: Any) -> bool:
    """Return whether an attribute is a generator that is not saved elsewhere."""
    if not isinstance(value, _KINDS) or isinstance(value, random.SystemRandom):
        return False
    return name != "generator" or not isinstance(value, torch.Generator)


def _attributes(part: Any) -> dict[str, Any]:
    """Return an object's attributes without running any of its code."""
    attributes: dict[str, Any] = getattr(part, "__dict__", {})
    return attributes


def _is_in(part: Any, parts: list[Any]) -> bool:
    return any(part is other for other in parts)


def _kind(generator: _Generator) -> str:
    if isinstance(generator, np.random.Generator):
        generator = generator.bit_generator
    return f"{type(generator).__module__.partition('.')[0]} {type(generator).__name__}"


def _join_kinds(kinds: list[str]) -> str:
    return ", ".join(kinds) or "none"


def _plain_state(generator: _Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, internal, gauss = generator.getstate()
        return [version, list(internal), gauss]
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    if isinstance(generator, np.random.Generator):
        generator = generator.bit_generator
    return _plain(generator.state)


def _set_state(generator: _Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_numpy(state))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _numpy(state)
    else:
        generator.state = _numpy(state)


def _plain(state: Any) -> Any:
    """Return a NumPy state in plain types, because `weights_only` loads no arrays or scalars."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"array": state.tolist(), "dtype": state.dtype.name}
    return state.item() if isinstance(state, np.generic) else state


def _numpy(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"array", "dtype"}:
        return np.array(state["array"], dtype=state["dtype"])
    if isinstance(state, dict):
        return {name: _numpy(value) for name, value in state.items()}
    return state
