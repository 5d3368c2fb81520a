"""Ray Tune's own ASHA scheduler in simulated time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl.replay.policies.ray import RayPolicy
from lightning_sotl.replay.simulation import simulate
from tests.support.replay_tables import TRAIN, VALIDATION, assert_no_look_ahead, many_runs


# Reduction factor 4, grace period 1: the rungs of four epochs are after 1 and 4. There a trial
# stops if it is above the lowest quarter of those before it: run 1 of train (3) goes on as it is
# below run 0 (4), 2 is below both, 9 stops.
@pytest.mark.parametrize(
    ("name", "order", "epochs", "validations"),
    [
        ("ray-asha", [0, 1, 2, 3], [4, 4, 4, 1], 3),
        ("ray-asha", [2, 1, 0, 3], [4, 1, 1, 1], 1),
        ("ray-asha-val", [0, 1, 2, 3], [4, 4, 4, 1], 13),
        ("ray-asha-val", [2, 1, 0, 3], [4, 1, 1, 1], 7),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_four_runs(
    name: str, order: list[int], epochs: list[int], validations: int, workers: int
) -> None:
    outcome = simulate(RayPolicy(name), TRAIN[order], VALIDATION[order], workers=workers)
    assert outcome.epochs.tolist() == epochs
    assert order[outcome.pick] == (0 if order[0] == 0 else 2)
    assert outcome.validations == validations


@pytest.mark.parametrize("workers", [1, 20])
def test_scheduler_does_not_look_ahead(workers: int) -> None:
    assert_no_look_ahead(RayPolicy("ray-asha"), workers=workers)


def test_diverged_runs_are_no_error() -> None:
    losses = many_runs(20).train_loss.copy()
    losses[::2] = np.inf
    assert simulate(RayPolicy("ray-asha"), losses, None, workers=2).pick % 2 == 1
    simulate(RayPolicy("ray-asha"), np.full((8, 4), np.inf), None, workers=1)


def test_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what Ray draws from
    simulate(RayPolicy("ray-asha"), TRAIN, None, workers=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002 - as above


def test_unknown_scheduler_lists_what_there_is() -> None:
    message = (
        "There is no policy 'ray-pbt'; of Ray Tune there is 'ray-asha', also with the ending "
        "'-val'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RayPolicy("ray-pbt")
