"""Calls of a study's storage, which may fail for a moment, and what it holds of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna
from lightning_utilities.core.rank_zero import rank_zero_warn

_WAITS = (0.1, 0.5)  # seconds between the tries


def patiently(function: Callable[[], Any], *, otherwise: Any) -> Any:
    """Return what a call of the storage gives, or `otherwise` where it fails three times.

    Args:
        function: The call.
        otherwise: What to go on with; a warning says that the storage has failed.

    Raises:
        TypeError: If the call itself is wrong, which no second try mends.
        ValueError: The same.
        optuna.exceptions.UpdateFinishedTrialError: If the trial is finished.
    """
    for wait in (*_WAITS, None):
        try:
            return function()
        except (TypeError, ValueError, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except Exception as error:  # each storage has its own exceptions
            if wait is None:
                rank_zero_warn(
                    f"The trial's storage failed three times ({type(error).__name__}: "
                    f"{error}); the run goes on without it.",
                    stacklevel=2,
                )
            else:
                time.sleep(wait)
    return otherwise


def reported_values(trial: optuna.trial.BaseTrial | None) -> dict[int, float]:
    """Return step -> value that the storage has of a trial; of a FixedTrial there is none."""
    if not isinstance(trial, optuna.Trial):
        return {}
    return dict(trial.storage.get_trial(trial._trial_id).intermediate_values)
