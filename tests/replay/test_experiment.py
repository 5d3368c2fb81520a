from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.replay.experiment import replay
from lightning_sotl.replay.policies.baselines import named_baseline
from tests.support.replay_tables import ACCURACY, TRAIN, VALIDATION, four_runs, many_runs


def named(*names: str) -> list[Any]:
    return [named_baseline(name) for name in names]


# Each repeat has all four runs. `fixed-t1-top1` picks run 2, the third of four by accuracy, at a
# cost of 7 of 16 epochs and one validation. `full` picks run 0.
@pytest.mark.parametrize("price", [0.0, 0.1])
def test_four_runs(price: float) -> None:
    result = replay(four_runs(), named("fixed-t1-top1", "full"), repeats=3, validation_cost=price)
    cheap, full = result.policies["fixed-t1-top1"], result.policies["full"]
    np.testing.assert_allclose(cheap.cost, [(7 + price) / (16 * (1 + price))] * 3)
    np.testing.assert_allclose(cheap.rank_regret, [2 / 3] * 3)
    np.testing.assert_allclose(cheap.metric_regret, [0.2] * 3)
    np.testing.assert_allclose(full.cost, [1] * 3)
    assert full.rank_regret.tolist() == full.metric_regret.tolist() == [0] * 3
    assert (result.runs, result.repeats, result.workers, result.left_out) == (4, 3, 4, 0)
    assert result.notes == ()
    assert result.remarks == (
        "Each repeat draws all 4 runs, in a different order. The standard errors show the effect "
        "of the order, not of other runs.",
    )


def test_ties_of_the_target_share_the_lowest_rank() -> None:
    curves = four_runs(final_metric=[0.9, 0.9, 0.9, 0.1])
    scores = replay(curves, named("fixed-t1-top1"), repeats=2).policies["fixed-t1-top1"]
    assert scores.rank_regret.tolist() == scores.metric_regret.tolist() == [0, 0]


def test_a_lower_target_may_be_better() -> None:
    curves = four_runs(final_metric=1 - ACCURACY, final_mode="min")
    scores = replay(curves, named("fixed-t1-top1"), repeats=2).policies["fixed-t1-top1"]
    np.testing.assert_allclose(scores.metric_regret, [0.2, 0.2])


def test_two_runs() -> None:
    curves = four_runs().select([0, 2])
    result = replay(curves, named("fixed-t1-top1", "full"), repeats=2, workers=1)
    assert result.policies["fixed-t1-top1"].rank_regret.tolist() == [1, 1]
    assert result.policies["full"].rank_regret.tolist() == [0, 0]


def test_policies_share_draws_and_each_seed_has_different_ones() -> None:
    curves = many_runs()
    options: dict[str, Any] = {"runs": 15, "repeats": 20}
    first = replay(curves, named("halving", "full"), **options)
    again = replay(curves, named("full"), **options).policies["full"]
    other = replay(curves, named("full"), **options, seed=1).policies["full"]
    np.testing.assert_array_equal(first.policies["full"].metric_regret, again.metric_regret)
    assert (other.metric_regret != again.metric_regret).any()
    assert first.notes == first.remarks == ()


def test_draws_are_those_of_the_docstring() -> None:
    curves = many_runs()
    found = replay(curves, named("full"), runs=15, repeats=2, seed=7).policies["full"]
    for repeat in range(2):
        rows = np.random.default_rng([7, repeat]).choice(60, 15, replace=False)
        drawn = curves.select(rows)
        pick = np.argmin(drawn.val_loss[:, -1])
        regret = drawn.final_metric.max() - drawn.final_metric[pick]
        assert found.metric_regret[repeat] == pytest.approx(regret)


def test_progress_counts_repeats_of_all_policies() -> None:
    calls: list[tuple[int, int]] = []
    replay(
        four_runs(),
        named("full", "halving"),
        repeats=2,
        progress=lambda *counts: calls.append(counts),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_note_names_a_policy_that_stopped_nothing() -> None:
    result = replay(many_runs(), named("fixed-t3-top60", "full"), repeats=2, runs=10)
    assert result.notes == (
        "'fixed-t3-top60' stopped no run in any repeat. A policy that compares with complete runs "
        "cannot stop any while all runs train at the same time.",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 1}, "Expected `runs` to be at least 2 but got 1."),
        ({"repeats": 1}, "Expected `repeats` to be at least 2 but got 1."),
        ({"workers": 0}, "Expected `workers` to be a positive integer but got 0."),
        ({"seed": -1}, "Expected `seed` to be a non-negative integer but got -1."),
        (
            {"validation_cost": -1.0},
            "Expected `validation_cost` to be at least 0 and finite but got -1.0.",
        ),
        (
            {"validation_cost": math.nan},
            "Expected `validation_cost` to be at least 0 and finite but got nan.",
        ),
        (
            {"validation_cost": 0.1},
            "Expected validation values at a validation cost of 0.1, but the curves have neither "
            "`val_metric` nor `val_loss`.",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    curves = LearningCurves(TRAIN, final_metric=ACCURACY)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replay(curves, named("full"), **options)


@pytest.mark.parametrize("cost", [True, "0.1", None])
def test_a_validation_cost_that_is_no_number_is_refused(cost: Any) -> None:
    message = f"Expected `validation_cost` to be a number of at least 0 but got {cost!r}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        replay(four_runs(), named("full"), repeats=2, validation_cost=cost)


def test_two_policies_with_the_same_name_are_refused() -> None:
    message = "Expected `policies` to have different names but got 'full', 'halving', 'full'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replay(four_runs(), named("full", "halving", "full"), repeats=2)


def test_an_unsuitable_policy_raises_before_any_other_policy_is_replayed() -> None:
    calls: list[int] = []
    with pytest.raises(ValueError, match=r"^Expected the first T of 'fixed-t9-top1' to be in"):
        replay(
            four_runs(val_loss=VALIDATION),
            named("full", "fixed-t9-top1"),
            repeats=2,
            progress=lambda done, _: calls.append(done),
        )
    assert calls == []
