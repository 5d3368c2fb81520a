from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from lightning_sotl.replay.policy import Observations, best_of_the_longest
from lightning_sotl.replay.simulation import simulate
from tests.support.replay_tables import TRAIN, VALIDATION, Logged


class LowestSoFar:
    """A run continues while no lower loss of its epoch has been reported."""

    name = "lowest-so-far"
    validated_from = -1

    def begin(self, observations: Observations) -> LowestSoFar:
        self.observations = observations
        return self

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        losses = self.observations.train
        return [losses[run, done - 1] <= np.nanmin(losses[:, done - 1]) for run, done in reports]

    def resume(self) -> Sequence[int]:
        return ()

    def pick(self) -> int:
        return best_of_the_longest(self.observations, "train")


# Computed by hand. One worker: runs 0 and 1 continue because they are below all earlier runs. Run 2
# ties with run 1 after two epochs and is above it after three. Run 3 is above all from the start.
# Two workers: run 0 reports together with run 1 and stops. Four workers: only run 2 continues after
# one epoch. The pick is the best of the complete runs by validation.
@pytest.mark.parametrize(
    ("workers", "epochs", "pick", "instants"),
    [
        (1, [4, 4, 3, 1], 0, 12),
        (2, [1, 4, 3, 1], 1, 5),
        (4, [1, 1, 4, 1], 2, 4),
        (99, [1, 1, 4, 1], 2, 4),
    ],
)
def test_four_runs_on_workers(workers: int, epochs: list[int], pick: int, instants: int) -> None:
    policy = Logged(LowestSoFar())
    outcome = simulate(policy, TRAIN, VALIDATION, workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == pick
    assert outcome.validations == epochs.count(4)  # after the last epoch only
    assert len(policy.log) == instants + 1  # and one call of `resume`
    assert policy.decisions[-1] == ("resume", [])


def test_each_decision_of_two_workers_sees_all_earlier_reports() -> None:
    policy = Logged(LowestSoFar())
    simulate(policy, TRAIN, VALIDATION, workers=2)
    nan = np.nan
    expected = [
        ([(0, 1), (1, 1)], [False, True], [[4], [3], [], []]),
        ([(1, 2), (2, 1)], [True, True], [[4], [3, 2], [2], []]),
        ([(1, 3), (2, 2)], [True, True], [[4], [3, 2, 1], [2, 2], []]),
        ([(1, 4), (2, 3)], [True, False], [[4], [3, 2, 1, 0], [2, 2, 2], []]),
        ([(3, 1)], [False], [[4], [3, 2, 1, 0], [2, 2, 2], [9]]),
    ]
    for (reports, seen, answers), (runs, expected_answers, visible) in zip(
        policy.log[:-1], expected, strict=True
    ):
        assert reports == runs
        assert answers == expected_answers
        np.testing.assert_array_equal(seen, [row + [nan] * (4 - len(row)) for row in visible])


@pytest.mark.parametrize(
    ("validated_from", "validated_epochs"),
    [(0, [0, 1, 2, 3]), (-1, [3]), (-2, [2, 3]), (2, [2, 3]), (-9, [0, 1, 2, 3]), (9, [3])],
)
def test_only_validations_that_count_in_the_cost_are_visible(
    validated_from: int, validated_epochs: list[int]
) -> None:
    policy = LowestSoFar()
    policy.validated_from = validated_from
    outcome = simulate(policy, TRAIN, VALIDATION, workers=1)
    seen = ~np.isnan(policy.observations.validation)
    trained = np.arange(4) < outcome.epochs[:, np.newaxis]
    np.testing.assert_array_equal(seen, trained & np.isin(np.arange(4), validated_epochs))
    assert outcome.validations == seen.sum()


class Answers(LowestSoFar):
    """Pauses all runs after one epoch, and resumes the given runs."""

    def __init__(self, *resumed: Sequence[int], picks: int = 0) -> None:
        self.resumed, self.picks = list(resumed), picks

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        return [False] * len(reports)

    def resume(self) -> Sequence[int]:
        return self.resumed.pop(0) if self.resumed else ()

    def pick(self) -> int:
        return self.picks


def test_the_pick_is_trained_to_the_end_and_counts_in_the_cost() -> None:
    outcome = simulate(Answers(picks=3), TRAIN, VALIDATION, workers=2)
    assert outcome.epochs.tolist() == [1, 1, 1, 4]
    assert outcome.validations == 1


def test_paused_runs_resume_in_the_order_of_the_policy() -> None:
    policy = Logged(Answers([2, 0], np.array([2])))
    outcome = simulate(policy, TRAIN, None, workers=1)
    calls = [entry[0] for entry in policy.log]
    assert calls == [
        [(0, 1)], [(1, 1)], [(2, 1)], [(3, 1)],
        "resume", [(2, 2)], [(0, 2)],
        "resume", [(2, 3)],
        "resume",
    ]  # fmt: skip
    assert outcome.epochs.tolist() == [4, 1, 3, 1]
    assert outcome.validations == 0


def test_observations_are_read_only() -> None:
    policy = LowestSoFar()
    simulate(policy, TRAIN, VALIDATION, workers=1)
    for array in (
        policy.observations.train,
        policy.observations.validation,
        policy.observations.epochs,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("resumed", [[1, 1], [0], [-1], [4]])
def test_resuming_a_run_that_is_not_paused_is_an_error(resumed: list[int]) -> None:
    finished = [[0]] * 3 if resumed == [0] else []
    message = f"Expected 'lowest-so-far' to resume paused runs, each once, but got {resumed}."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        simulate(Answers(*finished, resumed), TRAIN, None, workers=1)


class Promotes(Answers):
    """Promotes the given runs, whether they are paused or not."""

    def __init__(self, *promoted: int | None) -> None:
        super().__init__()
        self.promoted = list(promoted)

    def promote(self) -> int | None:
        return self.promoted.pop(0) if self.promoted else None


def test_a_free_worker_takes_the_promoted_run_before_a_new_one() -> None:
    policy = Logged(Promotes(None, 0, None, 1))
    simulate(policy, TRAIN, None, workers=1)
    reports = [question for question, _ in policy.decisions if question != "resume"]
    assert reports == [[(0, 1)], [(0, 2)], [(1, 1)], [(1, 2)], [(2, 1)], [(3, 1)]]


@pytest.mark.parametrize("promoted", [3, -1, 4])
def test_promoting_a_run_that_is_not_paused_is_an_error(promoted: int) -> None:
    message = f"Expected 'lowest-so-far' to resume paused runs, each once, but got [{promoted}]."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        simulate(Promotes(None, promoted), TRAIN, None, workers=1)
    with pytest.raises(RuntimeError, match=r"^Expected 'lowest-so-far' to .* but got \[0\]\.$"):
        simulate(Promotes(None, 0), TRAIN, None, workers=2)  # it is training


@pytest.mark.parametrize("picks", [-1, 4])
def test_picking_a_run_that_does_not_exist_is_an_error(picks: int) -> None:
    message = f"Expected 'lowest-so-far' to pick a run in [0, 3] but got {picks}."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        simulate(Answers(picks=picks), TRAIN, None, workers=1)


def test_missing_answers_are_an_error() -> None:
    policy = Answers()
    policy.decide = lambda reports: []
    message = "Expected 'lowest-so-far' to return 2 answers but got 0."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        simulate(policy, TRAIN, None, workers=2)
