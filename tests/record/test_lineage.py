"""Runs that share their first epochs: which paths of their tree are runs, and what each has."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from lightning_sotl.record.lineage import RecordedRun, merge_sessions
from lightning_sotl.record.session import Session

BASE = [4.0, 3.0, 2.0]


class Records:
    """Sessions of one run, as today's version (with `names_parent`) or an older one writes them."""

    def __init__(self, *, names_parent: bool, same_folder: bool) -> None:
        self.names_parent, self.same_folder = names_parent, same_folder
        self.sessions: list[Session] = []
        self.paths: dict[float, list[float]] = {}
        self.written: dict[int, float] = {}  # the units in the single file

    def train(
        self,
        losses: list[float],
        after: tuple[float, int] | None = None,
        *,
        status: str | None = "finished",
        reason: str | None = None,
        checkpoint: str | None = None,
        **facts: Any,
    ) -> float:
        """Add a session that resumed after some units of another session; return its time."""
        begun = float(len(self.sessions) + 1)
        parent, units = after or (None, 0)
        start = [] if parent is None else self.paths[parent][:units]
        self.paths[begun] = [*start, *losses]
        header = {"run_id": "a", "time": begun, "hparams": {}, **facts}
        if self.names_parent:
            header |= {"parent": parent, "parent_units": units}
        path = dict(enumerate(self.paths[begun]))
        own = dict(path)
        if self.same_folder:
            own = {
                unit: loss
                for unit, loss in path.items()
                if unit >= units or self.written.get(unit) != loss
            }
            for unit, loss in own.items():
                if self.written.get(unit, loss) != loss:
                    self.written = {u: x for u, x in self.written.items() if u < unit}
                self.written[unit] = loss
        session = Session("a", Path("v0" if self.same_folder else f"v{int(begun) - 1}"), header)
        session.begun = session.last_seen = begun
        session.losses = own
        if checkpoint is not None:
            session.checkpoints = {max(path): checkpoint}
            session.losses[max(path)] = path[max(path)]
        if status is not None:
            session.status = {"status": status, **({"reason": reason} if reason else {})}
        self.sessions.append(session)
        return begun

    def runs(self) -> list[RecordedRun]:
        return merge_sessions(self.sessions[::-1])  # the order of the folders does not matter

    def curves(self) -> list[list[float]]:
        runs = self.runs()
        for run in runs:
            assert list(run.losses) == list(range(len(run.losses)))
        return [list(run.losses.values()) for run in runs]


@pytest.fixture(
    params=itertools.product([False, True], [False, True]),
    ids=["older version", "older version, one file", "today", "today, one file"],
)
def records(request: pytest.FixtureRequest) -> Records:
    names_parent, same_folder = request.param
    return Records(names_parent=names_parent, same_folder=same_folder)


def stopped(records: Records, losses: list[float], *after: Any, **facts: Any) -> float:
    return records.train(
        losses, *after, **{"status": "stopped", "reason": "stop_epoch_reached", **facts}
    )


def test_three_forks_of_a_checkpoint_are_three_runs(records: Records) -> None:
    base = stopped(records, BASE, checkpoint="base.ckpt")
    for rate, losses in ((0.01, [1.9, 1.8]), (0.2, [1.0, 0.5]), (0.5, [3.0, 9.0])):
        records.train(losses, (base, 3), hparams={"lr": rate})
    assert records.curves() == [
        [*BASE, 1.9, 1.8],
        [*BASE, 1.0, 0.5],
        [*BASE, 3.0, 9.0],
    ]
    runs = records.runs()
    assert [run.facts["hparams"] for run in runs] == [{"lr": 0.01}, {"lr": 0.2}, {"lr": 0.5}]
    assert [run.stopped_at for run in runs] == [3, 3, 3]
    assert [run.ends for run in runs] == [{3, 5}] * 3
    assert [run.checkpoints for run in runs] == [{2: "base.ckpt"}] * 3
    assert [run.checkpoint_facts["hparams"] for run in runs] == [{}] * 3
    assert len({run.begun for run in runs}) == 3


def test_a_run_that_is_resumed_once_stays_one_run(records: Records) -> None:
    base = stopped(records, BASE, hparams={"lr": 0.1})
    records.train([1.0], (base, 3), hparams={"lr": 0.01})
    assert records.curves() == [[*BASE, 1.0]]
    (run,) = records.runs()
    assert (run.facts["hparams"], run.status["status"]) == ({"lr": 0.01}, "finished")
    assert run.sessions == {1.0, 2.0}


@pytest.mark.parametrize("status", ["finished", "stopped", "paused"])
def test_two_forks_with_equal_parameters_that_both_ended_are_two_runs(
    records: Records, status: str
) -> None:
    base = stopped(records, BASE)
    records.train([1.0, 0.9], (base, 3), status=status)
    records.train([1.1, 0.8], (base, 3), status=status)
    assert records.curves() == [[*BASE, 1.0, 0.9], [*BASE, 1.1, 0.8]]


def test_a_winner_that_was_promoted_three_times_is_three_runs(records: Records) -> None:
    base = stopped(records, BASE)
    for _ in range(3):
        records.train([1.0, 0.9], (base, 3))
    assert records.curves() == [[*BASE, 1.0, 0.9]] * 3
    assert [run.ends for run in records.runs()] == [{3, 5}] * 3


@pytest.mark.parametrize("status", [None, "interrupted"])
@pytest.mark.parametrize("other", [[1.1, 0.8], [1.0, 0.9, 0.8]])
def test_an_interrupted_session_and_its_repetition_are_one_run(
    records: Records, status: str | None, other: list[float]
) -> None:
    base = stopped(records, BASE)
    records.train([1.0, 0.9], (base, 3), status=status)
    records.train(other, (base, 3))
    assert records.curves() == [[*BASE, *other]]


def test_an_interrupted_session_with_other_parameters_is_a_run(records: Records) -> None:
    base = stopped(records, BASE)
    records.train([1.0, 0.9], (base, 3), status=None, hparams={"lr": 0.1})
    records.train([1.1], (base, 3), params={"lr": 0.1})
    assert records.curves() == [[*BASE, 1.0, 0.9], [*BASE, 1.1]]


def test_a_killed_run_that_resumed_from_an_older_checkpoint_is_one_run(records: Records) -> None:
    killed = records.train([4.0, 3.0, 2.0, 1.0], status=None)
    again = records.train([2.5], (killed, 2), status="interrupted")
    records.train([1.5, 1.0], (again, 3))
    assert records.curves() == [[4.0, 3.0, 2.5, 1.5, 1.0]]


def test_a_finished_run_stays_beside_an_attempt_from_its_middle(records: Records) -> None:
    whole = records.train([4.0, 3.0, 2.0, 1.0], checkpoint="end.ckpt")
    records.train([2.5], (whole, 2), status=None)
    assert records.curves() == [[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.5]]
    first, second = records.runs()
    assert (first.status["status"], first.ends, first.checkpoints) == (
        "finished",
        {4},
        {3: "end.ckpt"},
    )
    assert (second.status, second.ends, second.checkpoints) == ({}, set(), {})


def test_forks_of_forks_have_the_units_of_all_their_ancestors(records: Records) -> None:
    base = records.train([9.0, 8.0, 7.0], status="paused")
    left = records.train([6.0, 5.0], (base, 3), status="paused", hparams={"lr": 1})
    right = records.train([6.5, 5.5], (base, 2), status="paused", hparams={"lr": 2})
    records.train([4.0], (left, 5), hparams={"lr": 1})
    records.train([4.1], (left, 5), hparams={"lr": 3})
    records.train([5.6, 4.2], (right, 3), hparams={"lr": 4})
    assert sorted(records.curves()) == [
        [9.0, 8.0, 6.5, 5.5],
        [9.0, 8.0, 6.5, 5.6, 4.2],
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.1],
    ]
    ends = {run.losses[max(run.losses)]: run.ends for run in records.runs()}
    assert ends == {4.0: {3, 5, 6}, 4.1: {3, 5, 6}, 5.5: {4}, 4.2: {5}}


def test_a_restart_that_trains_nothing_is_not_a_fork(records: Records) -> None:
    base = stopped(records, BASE)
    records.train([1.0], (base, 3))
    for _ in range(2):
        stopped(records, [], (base, 3), reason="already_stopped", checkpoint="base.ckpt")
    assert records.curves() == [[*BASE, 1.0]]
    (run,) = records.runs()
    assert (run.status["status"], run.stopped_at) == ("finished", 3)
    assert run.checkpoints == {2: "base.ckpt"}


def test_a_restart_that_trains_nothing_keeps_the_reason_of_the_stop(records: Records) -> None:
    base = stopped(records, BASE, reason="policy", checkpoint="x.ckpt")
    stopped(records, [], (base, 3), reason="already_stopped", checkpoint="newest.ckpt")
    (run,) = records.runs()
    assert (run.status["reason"], run.has_ended) == ("policy", True)
    assert run.checkpoints == {2: "x.ckpt"}
    records.train([], (base, 3), status="interrupted")
    (run,) = records.runs()
    assert (run.status["reason"], run.has_ended) == ("policy", True)


def test_a_run_killed_between_its_stop_and_the_checkpoint_trains_again_as_one_run(
    records: Records,
) -> None:
    first = stopped(records, BASE)
    stopped(records, [2.0], (first, 2), checkpoint="x.ckpt")
    assert records.curves() == [BASE]
    (run,) = records.runs()
    assert (run.checkpoints, run.stopped_at) == ({2: "x.ckpt"}, 3)


def test_a_session_that_wrote_after_another_began_was_not_interrupted_before_it(
    records: Records,
) -> None:
    base = stopped(records, BASE)
    records.train([1.0, 0.9], (base, 3), status="interrupted")
    records.train([1.1], (base, 3))
    records.sessions[1].last_seen = 3.5
    assert records.curves() == [[*BASE, 1.0, 0.9], [*BASE, 1.1]]


def test_parameters_that_differ_only_in_addresses_of_objects_are_equal(records: Records) -> None:
    base = stopped(records, BASE)
    records.train([1.0], (base, 3), status=None, hparams={"act": "<Act object at 0x7f01>"})
    records.train([1.1], (base, 3), hparams={"act": "<Act object at 0x55aa>"})
    assert records.curves() == [[*BASE, 1.1]]


def test_runs_do_not_depend_on_the_order_of_the_folders(records: Records) -> None:
    base = stopped(records, BASE)
    for rate in range(4):
        records.train([float(rate)], (base, 3), hparams={"lr": rate})
    orders = {
        tuple(run.begun for run in merge_sessions(order))
        for order in itertools.permutations(records.sessions)
    }
    assert len(orders) == 1


def test_population_based_training_has_a_run_for_each_path() -> None:
    """Trial B resumes from A's checkpoint, A from B's, and B again from A's."""
    sessions = []

    def session(run_id: str, time: float, folder: str, losses: list[float], **facts: Any) -> None:
        header = {"time": time, **facts}
        status = {"status": facts.pop("status", "stopped")} if facts.get("status") else {}
        path = dict(enumerate(losses))
        units = {unit: path[unit] for unit in path}
        sessions.append(
            Session(run_id, Path(folder), header, time, units, {}, status),
        )

    session("a", 1.0, "A", [5.0, 4.0], hparams={"lr": 1}, parent=None, parent_units=0)
    session("b", 1.5, "B", [6.0, 5.5], hparams={"lr": 2}, parent=None, parent_units=0)
    session("a", 2.0, "B", [5.0, 4.0, 3.0], hparams={"lr": 2}, parent=1.0, parent_units=2)
    session("a", 2.5, "A", [5.0, 4.0, 3.5], hparams={"lr": 1}, parent=1.0, parent_units=2)
    session("a", 3.0, "A", [5.0, 4.0, 3.0, 2.0], hparams={"lr": 3}, parent=2.0, parent_units=3)
    session("a", 3.5, "B", [5.0, 4.0, 3.0, 2.5], hparams={"lr": 2}, parent=2.0, parent_units=3)
    runs = merge_sessions(sessions)
    assert [(run.run_id, run.folders[0].name, list(run.losses.values())) for run in runs] == [
        ("a", "A", [5.0, 4.0, 3.0, 2.0]),
        ("b", "B", [6.0, 5.5]),
        ("a", "A", [5.0, 4.0, 3.5]),
        ("a", "B", [5.0, 4.0, 3.0, 2.5]),
    ]
