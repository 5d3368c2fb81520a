"""Regularized (aging) evolution as an Optuna sampler. It does not need Lightning."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from lightning_sotl._utils import validation
from lightning_sotl.integrations._optuna.storage import sign_of

# Enough for every range, unless it is so narrow that all its logarithms are the same float.
_TRIES = 100


def draw(random: np.random.Generator, distribution: BaseDistribution) -> Any:
    """Draw a value uniformly, or uniformly in its logarithm with `log=True`.

    Examples:
        >>> draw(np.random.default_rng(0), IntDistribution(2, 10, step=4)) in (2, 6, 10)
        True
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[random.integers(len(distribution.choices))]
    low, high, step, log = _range(distribution)
    if log:
        # As in Optuna's random sampler, an integer covers half a step on both sides.
        half = 0.0 if step is None else 0.5
        value = math.exp(_between(random, math.log(low - half), math.log(high + half)))
        value = value if step is None else round(value)
    elif step is None:
        value = _between(random, low, high)
    else:
        value = low + step * _index(random, _grid_size(low, high, step))
    return min(max(value, low), high)


def draw_other(random: np.random.Generator, distribution: BaseDistribution, value: Any) -> Any:
    """Draw a value other than `value`, with the same probabilities as `draw`.

    The distribution must have a second value. A float without a step is drawn from its whole range,
    where drawing the same value again is practically impossible.

    Examples:
        >>> draw_other(np.random.default_rng(0), CategoricalDistribution(["conv", "pool"]), "conv")
        'pool'
    """
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if not _same(choice, value)]
        return others[random.integers(len(others))]
    low, high, step, log = _range(distribution)
    if step is None:
        return draw(random, distribution)
    for _ in range(_TRIES if log else 0):
        other = draw(random, distribution)
        if other != value:
            return other
    position = (value - low) / step
    index = round(position)
    size = _grid_size(low, high, step)
    if abs(position - index) > 1e-8 or not 0 <= index < size:  # an enqueued value off the grid
        return draw(random, distribution)
    other = _index(random, size - 1)
    return min(low + step * (other + (other >= index)), high)


def has_two_values(distribution: BaseDistribution) -> bool:
    """Return whether a distribution has more than one value. Equal choices count once.

    Examples:
        >>> has_two_values(CategoricalDistribution(["relu", "relu"]))
        False
    """
    if isinstance(distribution, CategoricalDistribution):
        return not all(_same(choice, distribution.choices[0]) for choice in distribution.choices)
    return not distribution.single()


def _same(choice: Any, other: Any) -> bool:
    """Return whether two choices are the same to Optuna, such as 1 and True, or two NaNs."""
    return bool(choice == other or (choice != choice and other != other))


def _range(distribution: BaseDistribution) -> tuple[Any, Any, Any, bool]:
    """Return low, high and step in the distribution's type, and whether it is logarithmic."""
    if not isinstance(distribution, (IntDistribution, FloatDistribution)):
        raise TypeError(f"Expected an Optuna distribution but got {distribution!r}.")
    return distribution.low, distribution.high, distribution.step, distribution.log


def _between(random: np.random.Generator, low: float, high: float) -> float:
    share = random.random()
    return (1 - share) * low + share * high  # high - low may overflow


def _grid_size(low: float, high: float, step: float) -> int:
    return round((high - low) / step) + 1


def _index(random: np.random.Generator, size: int) -> int:
    return min(int(random.random() * size), size - 1)  # Generator.integers is limited to 64 bits


class _Handover(threading.local):
    """The parent chosen for the trial that this thread is about to sample."""

    trial: FrozenTrial | None = None
    parent: FrozenTrial | None = None

    def __reduce__(self) -> tuple[type[_Handover], tuple[()]]:
        return type(self), ()  # thread-local: a copy of the sampler starts empty


class RegularizedEvolutionSampler(optuna.samplers.BaseSampler):
    """Optuna sampler for regularized evolution, also called aging evolution.

    The first `population_size` finished trials are drawn at random. Every later trial is a mutation
    of a good recent trial:

    1. The population is the last `population_size` COMPLETE trials by time of completion.
    2. The sampler draws `tournament_size` of them with replacement. The best one, in the study's
       direction, becomes the parent.
    3. The child is the parent with one parameter changed.

    Older trials are never parents, however good they are. A single lucky value therefore cannot
    steer the search forever.

    The sampler reads the population from the study for each trial and keeps no state. Any number of
    threads, processes and machines can share one population on any storage. You can resume a
    stopped study, and continue a study that was started with another sampler. Across machines, the
    order of completion is as accurate as their clocks.

    **Trial states.** Only finished trials count:

    - COMPLETE with a non-finite value (a diverged run): a member of the population that never wins.
      If all drawn members have diverged, the trial is drawn at random.
    - PRUNED: has no final value. It counts toward the random start, but it is never a member of the
      population.
    - FAIL, RUNNING, WAITING: ignored.

    **Mutation.** The sampler picks one of the parent's parameters with equal probability and draws
    a different value for it uniformly. With `log=True`, the draw is uniform in the logarithm. A
    float without a step is drawn from its whole range. Parameters with a single value are never
    picked, and neither are those fixed by `enqueue_trial` or Optuna's `PartialFixedSampler`. As in
    the paper, the same child may be proposed twice.

    **Conditional spaces.** Parameters of the parent that the objective does not suggest are
    ignored. Parameters that the parent lacks are drawn at random. If the conditions depend only on
    other parameters, the objective always suggests the changed parameter, because every value
    before it is the parent's. If a range has changed and the parent's value is outside it, a new
    value is drawn.

    A `HyperbandPruner` shows a sampler only the trials of one bracket, so each bracket has a
    separate population. Constraints are ignored.

    Args:
        population_size: P, the size of the population, at least 1. A larger population keeps the
            search broad for longer. The defaults are meant for searches of 100 to 200 trials. They
            were among the best of P from 10 to 100 and S from 2 to 25 on synthetic tables of 15,625
            cells, with and without noise.
        tournament_size: S, the number of draws in a tournament, at least 1. A larger tournament is
            greedier. With 1, the parent is random.
        seed: A non-negative integer, or None for a different search each time. The draws of a trial
            depend only on the seed and the trial's number. Parallel workers may therefore share a
            seed and still propose different children. With the same population, a trial is the same
            on every worker.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If a size is below 1 or `seed` is below 0. When a trial is sampled, if its study
            has several objectives.

    Examples:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     cell = [trial.suggest_categorical(f"edge_{i}", [0, 1, 2, 3]) for i in range(6)]
        ...     return sum(cell)
        >>> study = optuna.create_study(sampler=RegularizedEvolutionSampler(seed=0))
        >>> study.optimize(objective, n_trials=100)
        >>> study.best_value
        0.0

    Source: Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture
    Search", AAAI 2019, Algorithm 1.
    """

    def __init__(
        self, *, population_size: int = 20, tournament_size: int = 10, seed: int | None = None
    ) -> None:
        self.population_size = validation.positive_int("population_size", population_size)
        self.tournament_size = validation.positive_int("tournament_size", tournament_size)
        self.seed = validation.optional_seed("seed", seed)
        # Drawn once, so that copies in other processes use the same entropy.
        self._entropy = np.random.SeedSequence(self.seed).entropy
        self._handover = _Handover()

    @override
    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose a parent and return its parameters, or none for a random trial.

        Raises:
            ValueError: If the study has several objectives.
        """
        parent = self._choose_parent(study, trial)
        self._handover.trial, self._handover.parent = trial, parent
        return {} if parent is None else dict(parent.distributions)

    @override
    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parent's values of the parameters in `search_space`, with one changed."""
        # Keep the first choice: another worker may have finished a trial since then.
        chosen = self._handover.trial is trial
        parent = self._handover.parent if chosen else self._choose_parent(study, trial)
        if parent is None:
            return {}
        # Sorted because storages keep parameters in different orders.
        values = {
            name: parent.params[name] for name in sorted(search_space) if name in parent.params
        }
        fixed = trial.system_attrs.get("fixed_params", {})  # Optuna's key of an enqueued trial
        changeable = [
            name for name in values if name not in fixed and has_two_values(search_space[name])
        ]
        if changeable:
            random = self._generator(trial, 1)
            name = changeable[random.integers(len(changeable))]
            values[name] = draw_other(random, search_space[name], values[name])
        return values

    @override
    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value for a parameter without a parent's value.

        Raises:
            ValueError: If the study has several objectives.
        """
        _check_objective(study)
        return draw(self._generator(trial, 2, *param_name.encode()), param_distribution)

    @override
    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own random draws, even with `n_jobs` above 1."""

    def _generator(self, trial: FrozenTrial, *purpose: int) -> np.random.Generator:
        """Return the random generator of one trial for one purpose."""
        key = (trial.number, *purpose)
        return np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=key))

    def _choose_parent(self, study: optuna.Study, trial: FrozenTrial) -> FrozenTrial | None:
        """Return the winner of a tournament, or None in the random start or without a winner."""
        sign = _check_objective(study)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if len(finished) < self.population_size:
            return None
        complete = [other for other in finished if other.state == TrialState.COMPLETE]
        if not complete:
            return None
        population = sorted(complete, key=_completion)[-self.population_size :]
        drawn = self._generator(trial, 0).integers(len(population), size=self.tournament_size)
        # `min` returns the first drawn of equal trials, so age does not decide ties.
        contestants = [
            (sign * other.value, other)
            for other in (population[index] for index in drawn)
            if other.value is not None and math.isfinite(other.value)
        ]
        return min(contestants, key=lambda pair: pair[0], default=(0.0, None))[1]


def _check_objective(study: optuna.Study) -> float:
    """Return the sign of a study with one objective; raise for several."""
    several = ": a tournament needs one value. For several objectives, use Optuna's NSGAIISampler."
    return sign_of(study, several=several)


def _completion(trial: FrozenTrial) -> tuple[float, int]:
    """Return a sort key by completion time. The number breaks ties: MySQL stores whole seconds."""
    when = trial.datetime_complete
    return (-math.inf if when is None else when.timestamp(), trial.number)
