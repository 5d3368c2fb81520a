"""Which stopped trials of a study go on, and from where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import optuna

from lightning_sotl import _validation
from lightning_sotl.integrations.optuna_reporter import CHECKPOINT_KEY


@dataclass(frozen=True)
class Promoted:
    """A trial to continue: fit it from its checkpoint with `EarlyRankingStopper(promoted=True)`.

    Attributes:
        number: The trial's number in its study.
        value: Its value at the stop.
        params: Its parameters.
        checkpoint_path: Where it goes on.
    """

    number: int
    value: float
    params: dict[str, Any]
    checkpoint_path: str


def promote(study: optuna.Study, k: int) -> list[Promoted]:
    """Return the best `k` complete trials of a study, best first; ties go to the older trial.

    Fewer than `k` come back if fewer have a finite value: a diverged trial is never promoted.

    Raises:
        TypeError: If `k` is no integer.
        ValueError: If `k` is below 1, or if one of the best trials has no checkpoint.
    """
    k = _validation.positive_int("k", k)
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    finite = [
        (sign * t.value, t) for t in complete if t.value is not None and math.isfinite(t.value)
    ]
    best = sorted(finite, key=lambda pair: (pair[0], pair[1].number))[:k]
    chosen = []
    for value, trial in best:
        path = trial.user_attrs.get(CHECKPOINT_KEY)
        if path is None:
            raise ValueError(
                f"Trial {trial.number} has no checkpoint to go on from: run it with "
                "`EarlyRankingStopper`, checkpointing on, and call `OptunaReporter.finish()`."
            )
        chosen.append(Promoted(trial.number, sign * value, dict(trial.params), path))
    return chosen
