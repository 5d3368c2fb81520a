from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from lightning_sotl.evaluation.generators import select_generator


def test_groups_have_the_moments_and_correlation_of_numpy_and_scipy() -> None:
    generator = np.random.default_rng(0)
    keys = np.repeat(np.arange(9), 8)
    target = keys / 9 + generator.normal(size=72) / 4
    scores = 2 - target + generator.normal(size=72) / 4
    found = select_generator(scores, target, keys)
    by_key = {group.key: group for group in found.generators}
    means = np.array([[scores[keys == k].mean(), target[keys == k].mean()] for k in range(9)])
    for key in range(9):
        group = by_key[str(key)]
        assert (group.score, group.target) == pytest.approx(tuple(means[key]))
        assert group.score_se == pytest.approx(stats.sem(scores[keys == key]))
        assert group.target_se == pytest.approx(stats.sem(target[keys == key]))
    assert found.correlation == pytest.approx(-stats.spearmanr(*means.T).statistic)
    assert [group.key for group in found.generators] == [str(k) for k in np.argsort(means[:, 0])]


def test_a_group_with_a_diverged_run_ranks_last() -> None:
    found = select_generator([1.0, np.nan, 5.0, 6.0], [0.9, 0.8, 0.5, 0.4], ["a", "a", "b", "b"])
    assert [group.key for group in found.generators] == ["b", "a"]
    assert found.generators[1].score == np.inf
    assert found.correlation == -1.0


def test_runs_without_a_target_are_left_out_and_counted() -> None:
    found = select_generator([1.0, 0.0, 5.0], [0.9, np.nan, 0.5], ["a", "a", "b"])
    assert found.left_out == 1
    assert found.generators[0].score == 1.0
    assert np.isnan(found.generators[0].score_se)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([1.0, 2.0], [1.0, 2.0], ["a"]),
            "Expected `scores`, `target` and `keys` to have one entry per run but got the shapes "
            "(2,), (2,) and (1,).",
        ),
        (
            ([1.0, 2.0], [1.0, 2.0], ["a", "a"]),
            "Expected at least 2 groups of runs with a finite target but got 1.",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        select_generator(*arguments)
