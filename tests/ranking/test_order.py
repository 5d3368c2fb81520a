from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.ranking.order import Ranking, rank_runs
from tests.support.run_folders import csv_rows, write_csv_log, write_record


def found_of(losses: list[list[float]], **changes: object) -> FoundRuns:
    runs = len(losses)
    fields = {
        "facts": ({},) * runs,
        "others": {},
        "has_record": np.ones(runs, dtype=bool),
        "stopped_at": (None,) * runs,
        **changes,
    }
    return FoundRuns(LearningCurves(losses, run_ids=[f"r{i}" for i in range(runs)]), **fields)


def rank(found: FoundRuns, monitor: str = "sotl_e1", **options: object) -> Ranking:
    return rank_runs(found, monitor, estimate=parse_monitor(monitor), **options)


def rows(ranking: Ranking) -> list[tuple[int, str, float | None, int]]:
    return [(run.rank, run.run_id, run.estimate, run.epochs) for run in ranking.runs]


def test_lower_losses_rank_first_and_diverged_runs_last() -> None:
    ranking = rank(found_of([[3.0, 2.0], [3.0, np.inf], [3.0, 1.0]]))
    assert rows(ranking) == [(1, "r2", 1.0, 2), (2, "r0", 2.0, 2), (3, "r1", None, 2)]
    assert ranking.notes == [
        "Runs without a finite value at T = 2 (diverged, or without a loss) rank last: 'r1' (1 of "
        "3 runs)."
    ]


def test_ties_share_the_lowest_rank() -> None:
    ranking = rank(found_of([[2.0], [1.0], [2.0], [3.0]]))
    assert [run.rank for run in ranking.runs] == [1, 2, 2, 4]
    assert ranking.notes == [
        "2 of 4 runs (50%) tie with another in 'sotl_e1', which has 3 different values."
    ]


def test_runs_that_trained_longest_rank_first_if_a_policy_ended_the_others() -> None:
    nan = np.nan
    losses = [[3.0, nan, nan], [1.0, 1.5, nan], [2.0, 2.0, nan], [5.0, 4.0, 0.9], [1.0, 1.0, 1.1]]
    losses.append([1.0, 1.0, np.inf])
    policy, finished = {"stopping_reason": "policy"}, {}
    found = found_of(losses, facts=(policy, policy, policy, finished, finished, finished))
    ranking = rank(found)
    assert ranking.at == 3
    assert rows(ranking) == [
        (1, "r3", 0.9, 3),
        (2, "r4", 1.1, 3),
        (3, "r1", None, 2),
        (3, "r2", None, 2),
        (3, "r0", None, 1),
        (3, "r5", None, 3),
    ]
    assert ranking.notes[0] == (
        "A policy ended 3 of 6 runs, and no stopper ended a run at a limit, so T is 3, the length "
        "of the longest run. The runs that trained longest rank first."
    )
    assert [run.run_id for run in rank(found, at=2).runs][:3] == ["r4", "r5", "r1"]


def test_the_default_t_is_the_limit_even_if_a_pruner_ended_other_runs() -> None:
    nan = np.nan
    losses = [[3.0, 2.0, 0.5], [3.0, 1.5, nan], [4.0, nan, nan]]
    pruned, finished = {"stopping_reason": "policy"}, {"stopping_reason": "stop_epoch_reached"}
    found = found_of(losses, stopped_at=(2, 2, None), facts=(finished, finished, pruned))
    ranking = rank(found)
    assert rows(ranking) == [(1, "r1", 1.5, 2), (2, "r0", 2.0, 3), (3, "r2", None, 1)]
    assert not any("policy" in note for note in ranking.notes)


def test_the_default_t_is_the_limit_even_after_promotion() -> None:
    nan = np.nan
    losses = [[3.0, 2.0, 0.5], [3.0, 1.5, 0.7], [3.0, 2.5, nan]]
    found = found_of(losses, stopped_at=(2, 2, 2))
    ranking = rank(found)
    assert ranking.at == 2
    assert [run.run_id for run in ranking.runs] == ["r1", "r0", "r2"]


def test_the_default_t_without_a_limit_is_reached_by_three_quarters_of_the_runs() -> None:
    nan = np.nan
    losses = [[3.0, 2.0, nan], [3.0, 1.0, nan], [3.0, 2.5, 1.0], [3.0, nan, nan]]
    ranking = rank(found_of(losses))
    assert ranking.at == 2
    assert rows(ranking)[-1] == (4, "r3", None, 1)
    assert ranking.notes[0] == (
        "Runs that completed fewer than 2 epochs cannot be compared at T = 2 and rank last: 'r3' "
        "(1 of 4 runs)."
    )


def test_a_logged_estimate_ranks_a_run_without_a_record() -> None:
    # The CSVLogger has deleted the first row, so SoTL cannot be computed.
    found = found_of(
        [[np.nan, 1.0], [2.0, 1.5]],
        others={"sotl": np.array([[np.nan, 4.0], [9.0, 9.0]])},
        has_record=np.array([False, True]),
    )
    assert rows(rank(found, "sotl", at=2)) == [(1, "r1", 3.5, 2), (2, "r0", 4.0, 2)]


def test_any_logged_key_ranks_in_its_own_direction() -> None:
    found = found_of([[np.nan], [np.nan]], others={"val_acc": np.array([[0.5], [0.7]])})
    ranking = rank_runs(found, "val_acc", estimate=None, mode="max")
    assert rows(ranking) == [(1, "r1", 0.7, 1), (2, "r0", 0.5, 1)]


def test_losses_near_zero_cause_a_warning() -> None:
    notes = rank(found_of([[0.05], [0.01], [0.5]])).notes
    assert notes == [
        "2 of 3 runs have L(e) < 0.1 after 1 epoch. So close to zero, the order of training losses "
        "means little. A smaller T may rank these runs better."
    ]


@pytest.mark.parametrize(
    ("losses", "monitor", "at", "message"),
    [
        (
            [[1.0], [2.0]],
            "sotl_e1",
            5,
            "No run has completed 5 epochs; the longest has completed 1.",
        ),
        ([[1.0] * 3] * 2, "sotl_e3", 2, "'sotl_e3' needs 3 completed epochs but T is 2."),
        (
            [[np.inf], [np.inf]],
            "sotl_e1",
            None,
            "No run has a finite 'sotl_e1' after 1 epoch, so there is nothing to rank.",
        ),
        ([[1.0]], "sotl_e1", 0, "Expected `at` to be a positive integer but got 0."),
    ],
)
def test_runs_that_cannot_be_ranked_are_an_error(
    losses: list[list[float]], monitor: str, at: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rank(found_of(losses), monitor, at=at)


def test_a_single_run_is_ranked_with_a_warning() -> None:
    assert rank(found_of([[1.0]])).notes == [
        "There is only one run, so there is nothing to compare it with."
    ]


@pytest.mark.parametrize("monitor", ["sotl", "sotl_e1", "sotl_e2", "sotl_ema0.5"])
def test_records_and_logs_give_the_same_order(tmp_path: Path, monitor: str) -> None:
    curves = np.random.default_rng(0).uniform(0.2, 2, size=(8, 4))
    for number, losses in enumerate(curves.tolist()):
        write_record(tmp_path / f"records/v{number}", losses)
        write_csv_log(tmp_path / f"logs/v{number}", csv_rows(losses))
    orders = []
    for kind in ("records", "logs"):
        found = read_logs(tmp_path / kind, LogKeys(others=(monitor,)))
        orders.append([(run.run_id, run.estimate) for run in rank(found, monitor).runs])
    assert orders[0] == orders[1]
