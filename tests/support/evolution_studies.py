"""Spaces in which a child betrays its parent, and studies on them, for the tests of evolution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler

SURE = 500  # a tournament so large that the best of a small population is drawn in any case
# Six genes of a million values: two trials that share one are parent and child.
GENES = {f"gene_{i}": IntDistribution(0, 10**6) for i in range(6)}
EDGES = {f"edge_{i}": CategoricalDistribution(list("abcde")) for i in range(6)}


def evolution(population_size: int, tournament_size: int = SURE, seed: int = 0) -> Any:
    return RegularizedEvolutionSampler(
        population_size=population_size, tournament_size=tournament_size, seed=seed
    )


def run(study: optuna.Study, values: Iterable[float], space: Any = GENES) -> list[FrozenTrial]:
    """Ask and tell one trial after the other, and return the trials."""
    for value in values:
        study.tell(study.ask(space), value)
    return study.trials


def genes(number: int) -> dict[str, int]:
    """Return six genes that no other number has."""
    return dict.fromkeys(GENES, number)


def add(study: optuna.Study, *outcomes: float | TrialState) -> None:
    """Add finished or unfinished trials, each given by its value or its state."""
    for outcome in outcomes:
        number = len(study.trials)
        done = {"state": outcome} if isinstance(outcome, TrialState) else {"value": outcome}
        study.add_trial(optuna.create_trial(params=genes(number), distributions=GENES, **done))


def study_of(*outcomes: float | TrialState) -> optuna.Study:
    study = optuna.create_study()
    add(study, *outcomes)
    return study


def shared(child: FrozenTrial, parent: FrozenTrial) -> int:
    return sum(child.params[name] == value for name, value in parent.params.items())


def parents(child: FrozenTrial, candidates: Iterable[FrozenTrial]) -> list[int]:
    """Return the numbers of the candidates that the child has all genes but one from."""
    return [other.number for other in candidates if shared(child, other) == len(GENES) - 1]
