"""After a kill: the trials that died with their process go back into the study's queue."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.integrations._optuna.storage import (
    requeue_trial,
    set_stored_attribute,
    stored_trial,
)

_PROC = Path("/proc")


def own_identity() -> str:
    """Return a name of this process that no other one on this host ever has.

    A process id comes again, also after a reboot, so where the system tells it (Linux) the name
    holds when the process and the system were started.

    Example:
        >>> is_gone(own_identity())
        False
    """
    return "|".join([_host(), str(os.getpid()), _started(os.getpid())])


def is_gone(identity: str) -> bool:
    """Return whether the process of that name was on this host and has ended.

    Of a process on another host nothing is known from here: then it is not said to be gone.
    """
    _, pid, started = identity.split("|")
    if not is_of_this_host(identity) or os.name == "nt":  # where `kill` would not only look
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's process has that id now, or had it then
    return started != _started(int(pid))


def is_of_this_host(identity: str) -> bool:
    """Return whether a process of that name runs, or ran, where this one does."""
    return identity.partition("|")[0] == _host()


def _started(pid: int) -> str:
    """Return when the system and the process have started; "" where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The name of the program stands in brackets and may hold spaces and brackets.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, ticks = fields[0], fields[19]
    return "" if state == "Z" else f"{boot}/{ticks}"


def _host() -> str:
    """Return where process ids mean the same: containers may share a host's name, not its ids."""
    try:
        return f"{socket.gethostname()}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


_CLAIM_SECONDS = 2.0  # longer than another process takes from its look to its claim


def process_key(number: int) -> str:
    """Return the user attribute that names the process of a trial.

    The number is in it because Optuna copies attributes when it retries a trial under a new one.
    """
    return f"lightning_sotl:process_of_{number}"


def requeue_interrupted(study: optuna.Study, *, alone: bool = False) -> list[int]:
    """Put the trials that were left by killed processes back into the queue of their study.

    Optuna keeps a trial whose process was killed as RUNNING for ever. Call this before
    `study.optimize`: the next trials are then the interrupted ones, each with its own number and
    parameters, so that the objective finds its checkpoint by `trial.number` and resumes from it.
    The reporter reports only the epochs that the storage does not have yet, and the trial ends as
    it would have without the kill: one that the pruner had ended is PRUNED, whenever it was killed.

    A trial counts as interrupted if its OptunaReporter was made by a process of this host (of this
    container) that no longer runs; trials of living processes and of other hosts stay as they are.
    (Across hosts, with RDBStorage, there is Optuna's own heartbeat.) A process that is killed
    before it makes the trial's reporter leaves a trial of no known process; only `alone` takes it.

    Several processes may call this at once. As no storage can take a trial back in one step, each
    claims what it finds, waits 2 seconds, and takes what is still its own; a storage that is
    slower than that may give one trial to two processes.

    Args:
        study: Of a storage that outlives a process (the one in memory does not).
        alone: Whether no other process works on the study, so that all running trials are
            interrupted ones.

    Returns:
        The numbers of the trials in the queue again.

    Warns:
        UserWarning: If trials stay RUNNING because they are of other hosts, or because they name no
            process: they were killed before their reporter was made, or have none.

    Example:
        >>> study = optuna.create_study()
        >>> _ = study.ask()
        >>> requeue_interrupted(study, alone=True)
        [0]
    """
    claimed, left = [], []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        identity = trial.user_attrs.get(process_key(trial.number))
        if alone or (identity is not None and is_gone(identity)):
            if _take(study, trial, identity, partial(_claim, study, trial)):
                claimed.append(trial)
        elif identity is None or not is_of_this_host(identity):
            left.append(trial.number)
    if claimed and not alone:
        time.sleep(_CLAIM_SECONDS)
    # The claim stays: a trial that is killed before it has a reporter again is this process's.
    numbers = [
        trial.number
        for trial in claimed
        if _take(study, trial, own_identity(), partial(requeue_trial, study, trial))
    ]
    if left:
        warn_user(
            f"Left out {pluralize(len(left), 'running trial')} of another host or of no known "
            f"process: {quote_few(left)}. If no other process works on this study, `alone=True` "
            "requeues all running trials."
        )
    return numbers


def _take(
    study: optuna.Study, trial: FrozenTrial, identity: str | None, step: Callable[[], None]
) -> bool:
    """Do `step` if the trial still runs and belongs to `identity`; return whether it does."""
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        newest = stored_trial(study, trial)
        owner = newest.user_attrs.get(process_key(trial.number))
        if newest.state == TrialState.RUNNING and owner == identity:
            step()
            return True
    return False  # it has ended, or another process was faster


def _claim(study: optuna.Study, trial: FrozenTrial) -> None:
    set_stored_attribute(study, trial, process_key(trial.number), own_identity())
