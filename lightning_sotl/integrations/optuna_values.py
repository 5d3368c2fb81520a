"""Uniform draws from an Optuna distribution, also of another value than a given one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

# More than enough, except for a range so narrow that its logarithms are one float.
_TRIES = 100


def draw(random: np.random.Generator, distribution: BaseDistribution) -> Any:
    """Return a value drawn uniformly; with `log=True`, uniformly in its logarithm.

    Example:
        >>> draw(np.random.default_rng(0), IntDistribution(2, 10, step=4)) in (2, 6, 10)
        True
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[random.integers(len(distribution.choices))]
    low, high, step = _range(distribution)
    if _is_log(distribution):
        # An integer's cell reaches half a step to both sides, as in Optuna's random sampler.
        half = 0.0 if step is None else 0.5
        value = math.exp(_between(random, math.log(low - half), math.log(high + half)))
        value = value if step is None else round(value)
        return min(max(value, low), high)
    if step is None:
        return min(max(_between(random, low, high), low), high)
    return _grid_value(distribution, _index(random, _grid_size(low, high, step)))


def draw_other(random: np.random.Generator, distribution: BaseDistribution, value: Any) -> Any:
    """Return a value drawn as by `draw` from all but `value`; there must be another.

    A float without a step is drawn from its whole range: it never hits the same value again.

    Example:
        >>> draw_other(np.random.default_rng(0), CategoricalDistribution(["conv", "pool"]), "conv")
        'pool'
    """
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if not _same(choice, value)]
        return others[random.integers(len(others))]
    low, high, step = _range(distribution)
    if step is None:
        return draw(random, distribution)
    for _ in range(_TRIES if _is_log(distribution) else 0):
        other = draw(random, distribution)
        if other != value:
            return other
    position = (value - low) / step
    index = round(position)
    size = _grid_size(low, high, step)
    if abs(position - index) > 1e-8 or not 0 <= index < size:  # enqueued from outside of it
        return draw(random, distribution)
    other = _index(random, size - 1)
    return _grid_value(distribution, other + (other >= index))


def has_two_values(distribution: BaseDistribution) -> bool:
    """Return whether there is more than one value, counting equal choices once.

    Example:
        >>> has_two_values(CategoricalDistribution(["relu", "relu"]))
        False
    """
    if isinstance(distribution, CategoricalDistribution):
        return not all(_same(choice, distribution.choices[0]) for choice in distribution.choices)
    return not distribution.single()


def _same(choice: Any, other: Any) -> bool:
    """Return whether Optuna takes two choices for one: 1 and True, NaN and NaN."""
    return bool(choice == other or (choice != choice and other != other))


def _range(distribution: BaseDistribution) -> tuple[Any, Any, Any]:
    """Return low, high and step, in the distribution's own type, int or float."""
    if not isinstance(distribution, (IntDistribution, FloatDistribution)):
        raise TypeError(f"Expected a distribution of Optuna's but got {distribution!r}.")
    return distribution.low, distribution.high, distribution.step


def _is_log(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, (IntDistribution, FloatDistribution)) and distribution.log


def _between(random: np.random.Generator, low: float, high: float) -> float:
    share = random.random()
    return (1 - share) * low + share * high  # high - low may overflow


def _grid_size(low: float, high: float, step: float) -> int:
    return round((high - low) / step) + 1


def _index(random: np.random.Generator, size: int) -> int:
    return min(int(random.random() * size), size - 1)  # Generator.integers ends at 64 bits


def _grid_value(distribution: BaseDistribution, index: int) -> Any:
    low, high, step = _range(distribution)
    return min(low + index * step, high)
