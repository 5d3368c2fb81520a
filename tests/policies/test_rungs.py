"""The rungs of a sweep in turns: the decisions at a rung, and the score at the end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_sotl import AdaptivePolicy
from lightning_sotl.policies.rungs import decide_at_rung, final_score

NAN = math.nan
POLICY = AdaptivePolicy(max_epochs=12)


def test_what_runs_were_trained_beyond_a_rung_does_not_count():
    generator = np.random.default_rng(0)
    losses, values = generator.uniform(size=(2, 9, 12))
    beyond = decide_at_rung(POLICY, 4, range(9), losses, values)
    at_rung = decide_at_rung(POLICY, 4, range(9), losses[:, :4], values[:, :4])
    assert beyond == at_rung
    assert {decision.epoch for decision in beyond.values()} == {4}


def test_runs_that_have_not_reached_the_rung_are_compared_with_nobody():
    losses = np.array([[3.0, 2.0, 1.0 + run] for run in range(6)])
    losses[0, 2] = NAN
    decisions = decide_at_rung(POLICY, 3, [1, 5], losses)
    assert list(decisions) == [1, 5]
    assert [decision.place for decision in decisions.values()] == [1, 5]
    assert decide_at_rung(POLICY, 3, [], losses) == {}


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ([9.0, 0.5, 0.25, 0.75], 0.5),
        ([0.5, 0.25], 0.375),
        ([0.5], 0.5),
        ([], math.inf),
        ([0.5, math.inf, 0.25], math.inf),
        ([0.5, 0.25, NAN], math.inf),
        ([-math.inf], math.inf),
        ([NAN, 0.5, 0.25, 0.75], 0.5),
    ],
)
def test_a_finished_run_is_compared_by_its_last_three_validations(values, score):
    assert final_score(values) == score
    assert final_score(np.array(values)) == score
