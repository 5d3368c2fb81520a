"""Which way the values of an Optuna study are better; a study of several objectives is refused."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection


def sign_of(study: optuna.Study, *, several: str = ".") -> float:
    """Return what a study's values are multiplied by so that lower is better.

    Args:
        study: With one objective.
        several: How the message for several objectives ends: why they will not do.

    Returns:
        1.0 for a study that minimises, -1.0 for one that maximises.

    Raises:
        ValueError: If the study has several objectives.

    Example:
        >>> sign_of(optuna.create_study(direction="maximize"))
        -1.0
    """
    directions = study.directions
    if len(directions) > 1:
        raise ValueError(f"Expected a study with one objective but got {len(directions)}{several}")
    return -1.0 if directions[0] == StudyDirection.MAXIMIZE else 1.0
