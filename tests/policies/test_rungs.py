"""The rungs of a sweep, and the score that compares its finished runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_sotl.policies.rungs import final_score, rungs

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ([9.0, 0.5, 0.25, 0.75], 0.5),
        ([0.5, 0.25], 0.375),
        ([0.5], 0.5),
        ([], math.inf),
        ([0.5, math.inf, 0.25], math.inf),
        ([0.5, 0.25, NAN], math.inf),
        ([-math.inf, math.inf], math.inf),
        ([NAN, 0.5, 0.25, 0.75], 0.5),
    ],
)
def test_a_finished_run_is_compared_by_its_last_three_validations(values, score):
    assert final_score(values) == score
    assert final_score(np.array(values)) == score


def test_after_a_huge_growth_the_next_rung_is_the_last():
    assert rungs(3, 30, growth=1e308) == [3, 30]
