"""Ray Tune's schedulers in simulated time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl.replay.policies.ray import RayPolicy
from lightning_sotl.replay.simulation import simulate
from tests.support.replay_tables import TRAIN, VALIDATION, assert_no_look_ahead, many_runs


# With reduction factor 4 and grace period 1, the rungs of four epochs are after 1 and 4. A trial
# stops there if it is above the lowest quarter of the earlier trials. In `TRAIN`, run 1 (loss 3)
# continues because it is below run 0 (4). Run 2 (2) is below both. Run 3 (9) stops.
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


# Eta 3, 9 epochs and 17 runs (Li et al. 2018, Algorithm 1). The first three train to the end. Of
# the next five, the best two continue after 3 epochs. Of the last nine, three continue after 1
# epoch, and one of these after 3.
@pytest.mark.parametrize("workers", [1, 4, 17])
@pytest.mark.parametrize("name", ["ray-hyperband", "ray-hyperband-val"])
def test_brackets_of_hyperband(name: str, workers: int) -> None:
    quality = np.array([16, 3, 11, 9, 0, 12, 1, 5, 8, 2, 15, 7, 10, 4, 6, 13, 14])
    losses = np.repeat(quality[:, np.newaxis], 9, axis=1) - np.linspace(0, 0.5, 9)
    flat = np.ones_like(losses)
    curves = (flat, losses) if name.endswith("val") else (losses, flat)
    outcome = simulate(RayPolicy(name), *curves, workers=workers)
    assert outcome.epochs.tolist() == [9, 9, 9, 3, 9, 3, 9, 3, 1, 9, 1, 1, 1, 3, 3, 1, 1]
    assert outcome.pick == (4 if name.endswith("val") else 0)
    validated = outcome.epochs.sum() if name.endswith("val") else 6
    assert outcome.validations == validated


@pytest.mark.parametrize("runs", [2, 4, 12, 30])
def test_incomplete_brackets_of_hyperband_end_too(runs: int) -> None:
    losses = many_runs(runs, 50).train_loss
    outcome = simulate(RayPolicy("ray-hyperband"), losses, None, workers=3)
    assert outcome.epochs[:4].tolist() == [50] * min(runs, 4)
    ended = np.flatnonzero(outcome.epochs == 50)
    assert outcome.pick == ended[np.argmin(losses[ended, -1])]


@pytest.mark.parametrize("name", ["ray-asha", "ray-hyperband"])
@pytest.mark.parametrize("workers", [1, 20])
def test_scheduler_does_not_look_ahead(name: str, workers: int) -> None:
    assert_no_look_ahead(RayPolicy(name), workers=workers)


def test_brackets_that_are_too_large_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    simulate(RayPolicy("ray-hyperband"), many_runs(60, 50).train_loss, None, workers=60)
    assert not caplog.records


@pytest.mark.parametrize("name", ["ray-asha", "ray-hyperband"])
def test_diverged_runs_are_allowed_and_not_picked(name: str) -> None:
    losses = many_runs(20).train_loss.copy()
    losses[::2] = np.inf
    assert simulate(RayPolicy(name), losses, None, workers=2).pick % 2 == 1
    simulate(RayPolicy(name), np.full((8, 4), np.inf), None, workers=1)


def test_the_global_generator_is_restored() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - Ray draws from it
    simulate(RayPolicy("ray-asha"), TRAIN, None, workers=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002 - as above


def test_an_unknown_scheduler_lists_the_available_ones() -> None:
    message = (
        "There is no policy 'ray-pbt'; available from Ray Tune: 'ray-asha' and 'ray-hyperband', "
        "also with the ending '-val'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RayPolicy("ray-pbt")
