"""Search spaces in which a child shows its parent, and studies on them, for tests of evolution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler

LARGE_TOURNAMENT = 500  # so many draws contain the best of a small population almost surely
# Six genes of a million values: two trials that share one are parent and child.
GENES = {f"gene_{i}": IntDistribution(0, 10**6) for i in range(6)}
EDGES = {f"edge_{i}": CategoricalDistribution(list("abcde")) for i in range(6)}


def evolution_sampler(
    population_size: int, tournament_size: int = LARGE_TOURNAMENT, seed: int = 0
) -> Any:
    return RegularizedEvolutionSampler(
        population_size=population_size, tournament_size=tournament_size, seed=seed
    )


def run_trials(
    study: optuna.Study, values: Iterable[float], space: Any = GENES
) -> list[FrozenTrial]:
    """Run one trial per value, one after another, and return all trials."""
    for value in values:
        study.tell(study.ask(space), value)
    return study.trials


def genes(number: int) -> dict[str, int]:
    """Return six genes that no trial with another number has."""
    return dict.fromkeys(GENES, number)


def add_trials(study: optuna.Study, *outcomes: float | TrialState) -> None:
    """Add a trial for each outcome: its value, or its state if it has no value."""
    for outcome in outcomes:
        number = len(study.trials)
        done = {"state": outcome} if isinstance(outcome, TrialState) else {"value": outcome}
        study.add_trial(optuna.create_trial(params=genes(number), distributions=GENES, **done))


def study_of(*outcomes: float | TrialState) -> optuna.Study:
    study = optuna.create_study()
    add_trials(study, *outcomes)
    return study


def shared_values(child: FrozenTrial, parent: FrozenTrial) -> int:
    """Return the number of parameters with the same value in both trials."""
    return sum(child.params[name] == value for name, value in parent.params.items())


def possible_parents(child: FrozenTrial, candidates: Iterable[FrozenTrial]) -> list[int]:
    """Return the numbers of the candidates that differ from the child in exactly one gene."""
    return [other.number for other in candidates if shared_values(child, other) == len(GENES) - 1]
