"""After a kill: the trials that died with their process go back into the study's queue."""

from __future__ import annotations

import optuna
from lightning_utilities.core.rank_zero import rank_zero_warn
from optuna.trial import TrialState

from lightning_sotl._wording import counted, some
from lightning_sotl.integrations.process_identity import is_gone

PROCESS_KEY = "lightning_sotl:process"


def requeue_interrupted(study: optuna.Study, *, alone: bool = False) -> list[int]:
    """Put the trials that were left by killed processes back into the queue of their study.

    Optuna keeps a trial whose process was killed as RUNNING for ever. Call this before
    `study.optimize`: the next trials are then the interrupted ones, each with its own number and
    parameters, so that the objective finds its checkpoint by `trial.number` and goes on from it.
    The reporter reports only the epochs that the storage does not have yet.

    A trial counts as interrupted if its OptunaReporter was made by a process of this host that is
    no more; trials of living processes and of other hosts stay as they are. (Across hosts, with
    RDBStorage, there is Optuna's own heartbeat.)

    Args:
        study: Of a storage that outlives a process (the one in memory does not).
        alone: Whether no other process works on the study, so that all running trials are
            interrupted ones.

    Returns:
        The numbers of the trials in the queue again.

    Warns:
        UserWarning: If trials stay RUNNING of which no process is known, killed before their
            reporter was made or run without one.

    Example:
        >>> study = optuna.create_study()
        >>> _ = study.ask()
        >>> requeue_interrupted(study, alone=True)
        [0]
    """
    storage = study._storage
    numbers, unknown = [], []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        identity = trial.user_attrs.get(PROCESS_KEY)
        if identity is None and not alone:
            unknown.append(trial.number)
        elif alone or is_gone(str(identity)):
            try:
                # Without the old name a second process that looks now leaves the trial alone.
                storage.set_trial_user_attr(trial._trial_id, PROCESS_KEY, None)
                storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            numbers.append(trial.number)
    if unknown:
        rank_zero_warn(
            f"{counted(len(unknown), 'running trial')} without a known process left as it is: "
            f"{some(unknown)}. If no other process works on this study, `alone=True` takes them.",
            stacklevel=2,
        )
    return numbers
