"""Regularised (aging) evolution as an Optuna sampler; it needs no Lightning."""

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
    low, high, step, log = _range(distribution)
    if log:
        # An integer's cell reaches half a step to both sides, as in Optuna's random sampler.
        half = 0.0 if step is None else 0.5
        value = math.exp(_between(random, math.log(low - half), math.log(high + half)))
        value = value if step is None else round(value)
    elif step is None:
        value = _between(random, low, high)
    else:
        value = low + step * _index(random, _grid_size(low, high, step))
    return min(max(value, low), high)


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
    if abs(position - index) > 1e-8 or not 0 <= index < size:  # enqueued from outside of it
        return draw(random, distribution)
    other = _index(random, size - 1)
    return min(low + step * (other + (other >= index)), high)


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


def _range(distribution: BaseDistribution) -> tuple[Any, Any, Any, bool]:
    """Return low, high and step, in the distribution's own type, and whether it is logarithmic."""
    if not isinstance(distribution, (IntDistribution, FloatDistribution)):
        raise TypeError(f"Expected a distribution of Optuna's but got {distribution!r}.")
    return distribution.low, distribution.high, distribution.step, distribution.log


def _between(random: np.random.Generator, low: float, high: float) -> float:
    share = random.random()
    return (1 - share) * low + share * high  # high - low may overflow


def _grid_size(low: float, high: float, step: float) -> int:
    return round((high - low) / step) + 1


def _index(random: np.random.Generator, size: int) -> int:
    return min(int(random.random() * size), size - 1)  # Generator.integers ends at 64 bits


class _Handover(threading.local):
    """The parent chosen for the trial that this thread is about to sample."""

    trial: FrozenTrial | None = None
    parent: FrozenTrial | None = None

    def __reduce__(self) -> tuple[type[_Handover], tuple[()]]:
        return type(self), ()  # a thread's own business: a copy of the sampler begins without


class RegularizedEvolutionSampler(optuna.samplers.BaseSampler):
    """Proposes mutants of good recent trials: regularised evolution, also called aging evolution.

    The first `population_size` finished trials are drawn at random. From then on a trial is the
    child of a parent: `tournament_size` draws with replacement from the last `population_size`
    COMPLETE trials by time of completion, the best of the drawn (by the study's direction), and
    one of its choices changed. Whoever is older is no parent any more, however good, so that one
    lucky value cannot steer the search for ever.

    The population is read from the study for each trial; the sampler has no memory of its own. So
    any number of threads, processes and machines on any storage share one population, a stopped
    study goes on, and one begun with another sampler can be continued with this one. Across
    machines, "recent" is as good as their clocks.

    What a trial counts for:

    - COMPLETE with a value that is not finite (a diverged run): it takes its place in the
      population and never wins; where all drawn are such, the trial is drawn at random.
    - PRUNED: it has no final value. It counts towards the random start, is never a parent, and
      takes nobody's place.
    - FAIL, RUNNING, WAITING: not at all.

    What a mutation is: one parameter of the parent, each with equal probability, takes another
    value, drawn uniformly from all others (for `log=True` in the logarithm; a float without step
    from its whole range). A parameter with a single value is never chosen, nor one that
    `enqueue_trial` or Optuna's `PartialFixedSampler` has fixed. The same child may come twice, as
    in the paper.

    In a conditional space the parent's parameters that do not appear are ignored, and those that
    it lacks are drawn at random. All that is asked for before the changed parameter is the
    parent's, so it is asked for, too, as long as the parameters depend on each other alone. A
    parent's value outside of a range that has changed is drawn anew.

    With a `HyperbandPruner`, which shows a sampler only the trials of its own bracket, each
    bracket has a population of its own. Constraints are not looked at.

    Args:
        population_size: P, at least 1. More keeps the search broad for longer. The defaults are
            meant for searches of 100 to 200 trials: of P from 10 to 100 and S from 2 to 25, tried
            on made-up tables of 15,625 cells, they were among the best with and without noise.
        tournament_size: S, at least 1. More is greedier: 1 is a random parent.
        seed: A non-negative integer, or None for another search each time. A trial's draws depend
            on the seed and its number alone, so parallel workers may share the seed: they propose
            different children, and a trial is the same wherever it runs if its population is.

    Raises:
        TypeError: If an argument is no integer.
        ValueError: If a size is below 1, or `seed` below 0; in a trial, if its study has several
            objectives.

    Example:
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
        # Drawn once, so that copies in other processes go on with the same.
        self._entropy = np.random.SeedSequence(self.seed).entropy
        self._handover = _Handover()

    @override
    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose the parent and return its parameters, or none where the trial is random.

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
        """Return the parent's values of the parameters in `search_space`, one of them changed."""
        # Chosen only once: another worker may have finished a trial since.
        chosen = self._handover.trial is trial
        parent = self._handover.parent if chosen else self._choose_parent(study, trial)
        if parent is None:
            return {}
        # Sorted, since storages keep them in different orders.
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
        """Return a random value of a parameter that no parent decides.

        Raises:
            ValueError: If the study has several objectives.
        """
        _check_objective(study)
        return draw(self._generator(trial, 2, *param_name.encode()), param_distribution)

    @override
    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own random draws, also with `n_jobs` above 1."""

    def _generator(self, trial: FrozenTrial, *purpose: int) -> np.random.Generator:
        """Return the random draws of one trial for one purpose."""
        key = (trial.number, *purpose)
        return np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=key))

    def _choose_parent(self, study: optuna.Study, trial: FrozenTrial) -> FrozenTrial | None:
        """Return the winner of a tournament, or None during the start and without a winner."""
        sign = _check_objective(study)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if len(finished) < self.population_size:
            return None
        complete = [other for other in finished if other.state == TrialState.COMPLETE]
        if not complete:
            return None
        population = sorted(complete, key=_completion)[-self.population_size :]
        drawn = self._generator(trial, 0).integers(len(population), size=self.tournament_size)
        # The first drawn of equals wins, so that age decides no tie.
        contestants = [
            (sign * other.value, other)
            for other in (population[index] for index in drawn)
            if other.value is not None and math.isfinite(other.value)
        ]
        return min(contestants, key=lambda pair: pair[0], default=(0.0, None))[1]


def _check_objective(study: optuna.Study) -> float:
    """Return the sign of a study with one objective, and refuse others."""
    several = ": a tournament needs one value. Use Optuna's NSGAIISampler for several."
    return sign_of(study, several=several)


def _completion(trial: FrozenTrial) -> tuple[float, int]:
    """Return what orders trials by completion; MySQL keeps whole seconds, so there are ties."""
    when = trial.datetime_complete
    return (-math.inf if when is None else when.timestamp(), trial.number)
