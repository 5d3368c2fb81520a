"""Studies in several processes, where one process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from lightning_sotl.integrations._optuna import restart
from lightning_sotl.integrations._optuna.restart import is_gone, own_identity, process_key
from lightning_sotl.integrations.optuna import OptunaReporter, requeue_interrupted
from tests.support.optuna_jobs import STOP_EPOCH, loss_of, open_study, sweep
from tests.support.paths import ROOT

JOB = ["-m", "tests.support.optuna_jobs"]
# ModelCheckpoint warns about the folder of a resumed trial, because it is not empty.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "ignore", *JOB, *map(str, arguments)], cwd=ROOT)


def assert_complete(trial: optuna.trial.FrozenTrial) -> None:
    level = trial.params["level"]
    expected = {
        epoch: sum(loss_of(level, epoch, batch) for batch in range(3)) / 3
        for epoch in range(STOP_EPOCH)
    }
    assert trial.state == optuna.trial.TrialState.COMPLETE
    assert trial.intermediate_values == pytest.approx(expected, rel=1e-6)  # losses are float32
    assert trial.value == trial.intermediate_values[STOP_EPOCH - 1]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("journal", marks=pytest.mark.slow)])
def test_after_a_kill_no_trial_is_lost_and_no_epoch_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(restart, "_CLAIM_SECONDS", 0.0)  # no other process claims a trial
    assert start(kind, tmp_path, 3, 1).wait() == -signal.SIGKILL
    before = open_study(kind, tmp_path).trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "RUNNING"]
    assert list(before[1].intermediate_values) == [0]

    trained = sweep(kind, tmp_path, 2)

    after = open_study(kind, tmp_path).trials
    assert [trial.number for trial in after] == [0, 1, 2]
    for trial in after:
        assert_complete(trial)
    assert after[0] == before[0]
    assert after[1].params == before[1].params
    assert trained == {1: [1, 2, 3], 2: [0, 1, 2, 3]}


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("journal", marks=pytest.mark.slow)])
def test_two_processes_share_a_study(tmp_path: Path, kind: str) -> None:
    open_study(kind, tmp_path)
    other = start(kind, tmp_path, 2)
    own = sweep(kind, tmp_path, 2)
    assert other.wait() == 0
    trials = open_study(kind, tmp_path).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    for trial in trials:
        assert_complete(trial)
    assert list(own.values()) == [[0, 1, 2, 3]] * 2


def test_trials_of_live_processes_and_other_hosts_are_left_alone(tmp_path: Path) -> None:
    study = open_study("journal", tmp_path)
    own, remote, _ = (study.ask() for _ in range(3))
    OptunaReporter(own)
    remote.set_user_attr(process_key(1), "another-host|1|")
    message = (
        "Left out 2 running trials whose process is unknown or on another host: 1, 2. If no other "
        "process works on this study, `alone=True` requeues all running trials."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        assert requeue_interrupted(study) == []
    assert caught[0].filename == __file__
    assert {trial.state.name for trial in study.trials} == {"RUNNING"}
    assert requeue_interrupted(study, alone=True) == [0, 1, 2]
    assert [study.ask().number for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:Left out 1 running trial whose process")
def test_a_copy_of_an_interrupted_trial_is_not_requeued(tmp_path: Path) -> None:
    study = open_study("journal", tmp_path)
    # Optuna's RetryFailedTrialCallback copies the attributes of the interrupted trial.
    study.ask().set_user_attr(process_key(7), identity_of_ended_process())
    assert requeue_interrupted(study) == []


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_only_one_of_several_processes_requeues_a_trial(tmp_path: Path, kind: str) -> None:
    for _ in range(4):
        trial = open_study(kind, tmp_path).ask()
        trial.set_user_attr(process_key(trial.number), identity_of_ended_process())
    together = threading.Barrier(3)
    # Each thread gets a different identity, as if it were a separate process.
    identities = {}

    def requeue(place: int) -> list[int]:
        identities[threading.get_ident()] = f"{own_identity()}/{place}"
        study = open_study(kind, tmp_path)
        together.wait()
        return requeue_interrupted(study)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(restart, "own_identity", lambda: identities[threading.get_ident()])
        requeued = [number for numbers in pool.map(requeue, range(3)) for number in numbers]
    assert sorted(requeued) == [0, 1, 2, 3]


def identity_of_ended_process() -> str:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    host, _, _ = own_identity().split("|")
    return "|".join([host, str(child), ""])


def test_a_process_that_reuses_a_process_id_is_a_different_process() -> None:
    host, pid, started = own_identity().split("|")
    assert not is_gone("|".join([host, pid, started]))
    assert is_gone("|".join([host, pid, "an earlier boot/1"]))
    assert not is_gone("|".join(["elsewhere", pid, "an earlier boot/1"]))
    assert is_gone(identity_of_ended_process())
