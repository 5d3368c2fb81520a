"""Access to a trial's storage, with retries. All private Optuna names are used only here."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_sotl._utils.messages import warn_user


def sign_of(study: optuna.Study, *, several: str = ".") -> float:
    """Return the factor that makes lower values of a study better.

    Args:
        study: A study with one objective.
        several: The end of the message for several objectives: why they are not supported.

    Returns:
        1.0 for a study that minimizes, -1.0 for a study that maximizes.

    Raises:
        ValueError: If the study has several objectives.

    Examples:
        >>> sign_of(optuna.create_study(direction="maximize"))
        -1.0
    """
    directions = study.directions
    if len(directions) > 1:
        raise ValueError(f"Expected a study with one objective but got {len(directions)}{several}")
    return -1.0 if directions[0] == StudyDirection.MAXIMIZE else 1.0


VALIDATION_KEY = "lightning_sotl:validation"


# The system attribute in which Optuna's halving pruners record a trial's rungs.
_RUNG = "completed_rung_"


# Errors in the call itself, which a retry would not fix.
_CALL_ERRORS = (TypeError, ValueError, optuna.exceptions.UpdateFinishedTrialError)


_WAITS = (0.1, 0.5)  # seconds between attempts


def retry_storage(function: Callable[[], Any], *, otherwise: Any = None) -> Any:
    """Call the storage up to three times; return the result, or `otherwise` if all calls fail.

    Args:
        function: The call.
        otherwise: The result if the storage fails three times. A warning reports the failure.

    Raises:
        TypeError: If the call itself is wrong. It is not repeated.
        ValueError: The same.
        optuna.exceptions.UpdateFinishedTrialError: If the trial is finished.
    """
    for wait in (*_WAITS, None):
        try:
            return function()
        except Exception as error:  # each storage has its own exceptions
            # A damaged line in a journal is a ValueError too, but the call itself is correct.
            if isinstance(error, _CALL_ERRORS) and not isinstance(error, json.JSONDecodeError):
                raise
            if wait is None:
                warn_user(
                    f"The trial's storage failed three times ({type(error).__name__}: "
                    f"{error}); the run continues without it."
                )
            else:
                time.sleep(wait)
    return otherwise


def stored_trial(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    """Return the newest state of a trial, which another process may have changed."""
    return study._storage.get_trial(trial._trial_id)


def set_stored_attribute(study: optuna.Study, trial: FrozenTrial, key: str, value: str) -> None:
    """Set a user attribute of a trial that this process does not run."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def requeue_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial back into the queue, under its own number."""
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def ask_pruner(trial: optuna.trial.BaseTrial) -> bool:
    """Return whether the pruner ends a trial after its newest report.

    A plain bool, because some pruners return NumPy's, which must not get into a checkpoint.
    """
    return bool(trial.should_prune())


def ask_pruner_again(trial: optuna.trial.BaseTrial) -> bool:
    """Ask the pruner about a trial's newest report, as if it had not been asked before.

    Optuna's halving pruners record in the trial that they have judged a report. If asked a second
    time, they answer for the next rung. A process that dies in between leaves the record but no
    decision, so the pruner gets the study without that record.
    """
    if not isinstance(trial, optuna.Trial):
        return ask_pruner(trial)
    frozen = trial.storage.get_trial(trial._trial_id)
    newest = None if frozen.last_step is None else frozen.intermediate_values[frozen.last_step]
    rungs = sorted(
        int(name.removeprefix(_RUNG)) for name in frozen.system_attrs if name.startswith(_RUNG)
    )
    for rung in rungs:
        # An earlier report may have had the same value.
        if frozen.system_attrs[f"{_RUNG}{rung}"] == newest and not _is_earlier(trial, frozen, rung):
            return _ask(trial, _StorageWith(trial.storage, _before_rung(frozen, rung)))
    return ask_pruner(trial)


def _is_earlier(trial: optuna.Trial, frozen: FrozenTrial, rung: int) -> bool:
    """Return whether the pruner recorded a rung for a report before the newest one."""
    before = _before_rung(frozen, rung)
    del before.intermediate_values[frozen.last_step]  # type: ignore[arg-type]  # it has a report
    storage = _RungsOf(trial.storage, before)
    _ask(trial, storage)
    return f"{_RUNG}{rung}" in storage.recorded


def _before_rung(frozen: FrozenTrial, rung: int) -> FrozenTrial:
    """Return a copy of a trial without the records of this rung and those after it."""
    before = copy.deepcopy(frozen)
    before.system_attrs = {
        key: value
        for key, value in before.system_attrs.items()
        if not key.startswith(_RUNG) or int(key.removeprefix(_RUNG)) < rung
    }
    return before


def _ask(trial: optuna.Trial, storage: _StorageWith) -> bool:
    """Ask the pruner about the trial that the storage has in place of `trial`."""
    study = optuna.load_study(
        study_name=trial.study.study_name,
        storage=cast("Any", storage),
        sampler=trial.study.sampler,
        pruner=trial.study.pruner,
    )
    return bool(study.pruner.prune(study, storage.trial))


class _StorageWith:
    """A wrapper around a storage that replaces the state of one trial."""

    def __init__(self, storage: Any, trial: FrozenTrial) -> None:
        self._storage, self.trial = storage, trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*args, **options)
        return [self.trial if t._trial_id == self.trial._trial_id else t for t in trials]


class _RungsOf(_StorageWith):
    """The same, which keeps the rungs that a pruner records instead of writing them."""

    def __init__(self, storage: Any, trial: FrozenTrial) -> None:
        super().__init__(storage, trial)
        self.recorded: set[str] = set()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.recorded.add(key)


def identity_of(study: optuna.Study) -> tuple[Any, int]:
    """Return an identity that differs for studies of the same name in other storages."""
    return study._storage, study._study_id


def reported_values(trial: optuna.trial.BaseTrial | None) -> dict[int, float]:
    """Return the reported values in the storage as step -> value; empty for a FixedTrial."""
    if not isinstance(trial, optuna.Trial):
        return {}
    return dict(trial.storage.get_trial(trial._trial_id).intermediate_values)


def report_pending(
    trial: optuna.trial.BaseTrial, pending: dict[int, float], reported: dict[int, float]
) -> bool:
    """Report all pending values, oldest first; return whether the storage now has them all.

    Args:
        trial: The trial.
        pending: step -> value; reported values are moved to `reported`.
        reported: step -> value.
    """
    for step, value in list(pending.items()):
        if retry_storage(partial(trial.report, value, step), otherwise=False) is False:
            return False  # `report` itself returns None
        reported[step] = pending.pop(step)
    return True


def note_decision(trial: optuna.trial.BaseTrial, step: int | None) -> None:
    """Store the step at which the pruner ended a trial, or None if it did not after all."""
    trial.set_user_attr(_decision_key(trial), step)


def noted_decision(trial: optuna.trial.BaseTrial | None) -> int | None:
    """Return the step that `note_decision` stored, perhaps in a process that was killed."""
    return trial.user_attrs.get(_decision_key(trial)) if isinstance(trial, optuna.Trial) else None


def _decision_key(trial: optuna.trial.BaseTrial) -> str:
    # With the number, because Optuna copies attributes when it retries a trial as a new one.
    return f"lightning_sotl:pruned_{trial.number}"


def validations_of(trial: optuna.trial.FrozenTrial | optuna.Trial) -> dict[int, float]:
    """Return the validation values that a reporter stored: step -> value, lower is better."""
    noted = trial.user_attrs.get(VALIDATION_KEY, {})
    return {int(step): math.inf if value is None else value for step, value in noted.items()}


def note_validation(trial: optuna.trial.BaseTrial, values: dict[int, float]) -> None:
    """Store validation values, step -> value, lower is better, for the adaptive pruner."""
    # JSON has no infinity, and its keys are strings.
    plain = {str(step): value if math.isfinite(value) else None for step, value in values.items()}
    retry_storage(partial(trial.set_user_attr, VALIDATION_KEY, plain))
