from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.replay.experiment import replay
from lightning_sotl.replay.policies.baselines import named_baseline
from lightning_sotl.replay.simulation import simulate
from tests.support.paths import SHARED_DATA, needs_shared_data
from tests.support.replay_tables import TRAIN, VALIDATION, Logged, assert_no_look_ahead, assert_same

WORST = np.array(TRAIN)
WORST[[0, 2]] = np.inf


# Computed by hand. Ties go to the run that was drawn first, even if it was behind at an earlier
# rung. In halving-eta2-from1, runs 2 and 1 continue and tie after two epochs, and run 1 is kept.
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "epochs", "pick", "validations"),
    [
        ("full", [4, 4, 4, 4], 0, 16),
        ("fixed-t1-top1", [1, 1, 4, 1], 2, 1),
        ("fixed-t2-top1", [2, 4, 2, 2], 1, 1),
        ("fixed-t3-top2", [4, 4, 3, 3], 0, 2),
        ("fixed-t1-top9", [4, 4, 4, 4], 0, 4),
        ("fixed-t3-top1-val", [4, 3, 3, 3], 0, 13),
        ("fixed-t2-top2-val", [2, 4, 4, 2], 1, 12),
        ("halving", [3, 4, 3, 3], 1, 1),
        ("halving-eta2-from1", [1, 4, 2, 1], 1, 1),
        ("halving-from1-val", [1, 1, 4, 1], 2, 7),
        ("halving-eta4-from2", [2, 4, 2, 2], 1, 1),
    ],
)
def test_four_runs(name: str, epochs: list[int], pick: int, validations: int, workers: int) -> None:
    outcome = simulate(named_baseline(name), TRAIN, VALIDATION, workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == pick
    assert outcome.validations == validations


def test_halving_resumes_once_per_rung() -> None:
    policy = Logged(named_baseline("halving-eta2-from1"))
    simulate(policy, TRAIN, None, workers=4)
    assert [entry for entry in policy.decisions if entry[0] == "resume"] == [
        ("resume", [1, 2]),
        ("resume", [1]),
        ("resume", []),
    ]


@pytest.mark.parametrize(
    ("losses", "epochs", "pick"),
    [
        (WORST, [1, 4, 1, 4], 1),  # two of the three places remain unused
        (np.full((4, 4), np.inf), [4, 1, 1, 1], 0),
        (np.ones((4, 4)), [4, 4, 4, 1], 0),
    ],
    ids=["two diverged", "all diverged", "all tied"],
)
def test_diverged_runs_do_not_continue(losses: np.ndarray, epochs: list[int], pick: int) -> None:
    outcome = simulate(named_baseline("fixed-t1-top3"), losses, None, workers=2)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == pick


def test_pick_without_validation_is_by_the_last_training_loss() -> None:
    assert simulate(named_baseline("full"), TRAIN, None, workers=4).pick == 1


def test_two_runs_of_two_epochs() -> None:
    outcome = simulate(named_baseline("fixed-t1-top1"), TRAIN[:2, :2], None, workers=1)
    assert (outcome.pick, outcome.epochs.tolist()) == (1, [1, 2])


@pytest.mark.parametrize("workers", [1, 3, 20])
@pytest.mark.parametrize(
    "name", ["full", "fixed-t2-top4", "halving", "halving-from1-val", "asha-promote"]
)
def test_no_policy_looks_ahead(name: str, workers: int) -> None:
    assert_no_look_ahead(named_baseline(name), workers=workers)


@pytest.mark.parametrize("name", ["fixed-t3-top4-val", "halving-eta2-from1"])
def test_the_number_of_workers_changes_nothing(name: str) -> None:
    generator = np.random.default_rng(0)
    losses = generator.uniform(size=(20, 9))
    outcomes = [simulate(named_baseline(name), losses, losses, workers=w) for w in (1, 7, 20)]
    assert_same(outcomes[0], outcomes[1])
    assert_same(outcomes[0], outcomes[2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "fixed-t4-top5",
            "Expected the first T of 'fixed-t4-top5' to be in [1, 3], below the 4 epochs of full "
            "training, but got 4.",
        ),
        (
            "halving-from5",
            "Expected the first T of 'halving-from5' to be in [1, 3], below the 4 epochs of full "
            "training, but got 5.",
        ),
        (
            "halving-val",
            "'halving-val' needs validation values, but the curves have neither `val_metric` nor "
            "`val_loss`.",
        ),
    ],
)
def test_unsuitable_curves_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        simulate(named_baseline(name), TRAIN, None, workers=1)


@pytest.mark.parametrize(
    "name",
    [
        "full-val",
        "fixed",
        "fixed-t0-top1",
        "fixed-t10",
        "halving-eta3-val-x",
        "halving3",
        "asha",
        "asha-promote2",
    ],
)
def test_an_unknown_name_lists_the_available_policies(name: str) -> None:
    message = (
        f"There is no policy {name!r}; the built-in ones are 'full', 'fixed-t10-top5', 'halving', "
        "'halving-eta3-from3', 'asha-promote' and 'asha-promote-eta3-from3', with any numbers. All "
        "except 'full' also exist with the ending '-val'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        named_baseline(name)


def test_eta_must_be_at_least_two() -> None:
    message = "Expected eta in 'halving-eta1' to be at least 2 but got 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        named_baseline("halving-eta1")


# Computed by hand, with eta 2 and rungs after 1 and 2 epochs. One worker, in the order 3, 0, 1, 2:
# Run 0 is promoted over run 3. Run 1 is promoted over both, and at the second rung over run 0, so
# it trains to the end. Run 2 is promoted last and ties with run 1. Four workers: runs 2 and 1 are
# promoted at once, run 2 first. The tie at the second rung goes to run 2, which trains to the end.
@pytest.mark.parametrize(
    ("order", "workers", "epochs"),
    [
        ([0, 1, 2, 3], 1, [1, 4, 2, 1]),
        ([0, 1, 2, 3], 2, [1, 4, 2, 1]),
        ([3, 0, 1, 2], 1, [1, 2, 4, 2]),
        ([3, 0, 1, 2], 4, [1, 1, 2, 4]),
    ],
)
def test_asha_promotes_the_best_runs(order: list[int], workers: int, epochs: list[int]) -> None:
    policy = named_baseline("asha-promote-eta2-from1")
    outcome = simulate(policy, TRAIN[order], VALIDATION[order], workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert outcome.pick == epochs.index(4)
    assert outcome.validations == 1


def test_asha_promotes_a_run_that_was_paused_long_ago() -> None:
    losses = np.repeat([[3.0], [4.0], [5.0], [6.0]], 4, axis=1)
    policy = Logged(named_baseline("asha-promote-eta2-from1-val"))
    outcome = simulate(policy, -losses, losses, workers=1)
    reports = [question for question, _ in policy.decisions if question != "resume"]
    assert reports == [
        [(0, 1)], [(1, 1)], [(0, 2)],  # the best of two
        [(2, 1)], [(3, 1)], [(1, 2)],  # one of the best two of four
        [(0, 3)], [(0, 4)],
    ]  # fmt: skip
    assert outcome.validations == 8


def test_asha_and_halving_agree_if_all_runs_train_at_the_same_time() -> None:
    losses = np.random.default_rng(0).uniform(size=(27, 30))
    outcomes = [
        simulate(named_baseline(name), losses, None, workers=27)
        for name in ("asha-promote", "halving")
    ]
    assert_same(*outcomes)


def test_asha_promotes_no_diverged_run() -> None:
    policy = named_baseline("asha-promote-eta2-from1")
    assert simulate(policy, WORST, None, workers=1).epochs.tolist() == [1, 4, 1, 2]
    assert simulate(policy, np.full((4, 4), np.inf), None, workers=1).epochs.tolist() == [
        4,
        1,
        1,
        1,
    ]


# From the README of the shared data: cost, and rank regret averaged over the seven tables (2,000
# draws, standard error at most 0.0003).
REFERENCE = {
    "fixed-t10-top5": (0.249, 0.0032),
    "fixed-t10-top5-val": (0.249, 0.0033),
    "halving": (0.157, 0.0049),
    "halving-val": (0.157, 0.0046),
}


@needs_shared_data
def test_reference_values_of_the_shared_tables() -> None:
    tables = [LearningCurves.load(path) for path in sorted(SHARED_DATA.glob("taskset/*.npz"))]
    tables.append(read_nas_bench_nlp(SHARED_DATA / "nas-bench-nlp-wikitext2/logs.zip")[0])
    assert len(tables) == 7
    policies = [named_baseline(name) for name in REFERENCE]
    means = [
        {
            name: scores.means()
            for name, scores in replay(table, policies, repeats=60).policies.items()
        }
        for table in tables
    ]
    for name, (cost, regret) in REFERENCE.items():
        assert round(float(np.mean([one[name]["cost"] for one in means])), 3) == cost
        found = np.mean([one[name]["rank_regret"] for one in means])
        error = np.sqrt(sum(one[name]["rank_regret_se"] ** 2 for one in means)) / 7
        assert error < 0.003
        assert abs(found - regret) < 4 * np.hypot(error, 0.0003)
