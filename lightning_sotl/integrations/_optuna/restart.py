"""Put the trials of killed processes back into the study's queue."""

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
    """Return a name for this process that no other process on this host ever has.

    Process ids are reused, also after a reboot. On Linux, the name therefore contains the start
    times of the process and the system.

    Examples:
        >>> is_gone(own_identity())
        False
    """
    return "|".join([_host(), str(os.getpid()), _started(os.getpid())])


def is_gone(identity: str) -> bool:
    """Return whether the process with that name ran on this host and has ended.

    False for a process on another host, because its state is unknown here.
    """
    _, pid, started = identity.split("|")
    if (
        not is_of_this_host(identity) or os.name == "nt"
    ):  # on Windows, `os.kill` would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # the process with that id is another user's
    return started != _started(int(pid))


def is_of_this_host(identity: str) -> bool:
    """Return whether a process with that name runs, or ran, on this process's host."""
    return identity.partition("|")[0] == _host()


def _started(pid: int) -> str:
    """Return when the system and the process started, or "" if the system does not report it."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The name of the program is in brackets and may contain spaces and brackets.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, ticks = fields[0], fields[19]
    return "" if state == "Z" else f"{boot}/{ticks}"


def _host() -> str:
    """Return the host and process namespace: containers may share a host name but not its ids."""
    try:
        return f"{socket.gethostname()}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


_CLAIM_SECONDS = 2.0  # longer than another process needs between its check and its claim


def process_key(number: int) -> str:
    """Return the user attribute that names the process of a trial.

    It contains the number because Optuna copies attributes when it retries a trial as a new one.
    """
    return f"lightning_sotl:process_of_{number}"


def requeue_interrupted(study: optuna.Study, *, alone: bool = False) -> list[int]:
    """Put the trials of killed processes back into the queue of their study.

    If a process is killed, Optuna keeps its trial as RUNNING forever. Call this function before
    `study.optimize`. The interrupted trials then run next, each with its own number and parameters.
    The objective finds the trial's checkpoint by `trial.number` and resumes from it. The
    OptunaReporter reports only the epochs that the storage does not have yet. The trial ends as it
    would have without the kill. If the pruner had already ended it, it becomes PRUNED.

    A trial counts as interrupted if its OptunaReporter was created by a process on this host (in
    this container) that no longer runs. Trials of other hosts and of live processes are left alone.
    Across hosts, use the heartbeat of Optuna's RDBStorage. If a process is killed before it creates
    the reporter, its trial names no process, and only `alone=True` requeues it.

    Several processes may call this function at the same time. No storage can requeue a trial in a
    single step, so each process claims the trials that it finds, waits 2 seconds, and requeues
    those that it still owns. With a slower storage, two processes may requeue the same trial.

    Args:
        study: A study whose storage outlives the process. In-memory storage does not.
        alone: Whether no other process works on the study. If True, all running trials are
            requeued.

    Returns:
        The numbers of the requeued trials.

    Warns:
        UserWarning: If trials stay RUNNING because they belong to another host or name no process.
            A trial names no process if it was killed before its reporter was created, or if it has
            no reporter.

    Examples:
        >>> import optuna
        >>> from lightning_sotl.integrations.optuna import requeue_interrupted
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
    # Keep the claim: if the trial is killed before it has a reporter again, it names this process.
    numbers = [
        trial.number
        for trial in claimed
        if _take(study, trial, own_identity(), partial(requeue_trial, study, trial))
    ]
    if left:
        warn_user(
            f"Left out {pluralize(len(left), 'running trial')} whose process is unknown or on "
            f"another host: {quote_few(left)}. If no other process works on this study, "
            "`alone=True` requeues all running trials."
        )
    return numbers


def _take(
    study: optuna.Study, trial: FrozenTrial, identity: str | None, step: Callable[[], None]
) -> bool:
    """Call `step` if the trial is running and belongs to `identity`; return whether it does."""
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        newest = stored_trial(study, trial)
        owner = newest.user_attrs.get(process_key(trial.number))
        if newest.state == TrialState.RUNNING and owner == identity:
            step()
            return True
    return False  # it has ended, or another process was faster


def _claim(study: optuna.Study, trial: FrozenTrial) -> None:
    set_stored_attribute(study, trial, process_key(trial.number), own_identity())
