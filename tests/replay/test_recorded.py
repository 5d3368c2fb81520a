from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.replay.recorded import replayable
from tests.support.replay_tables import ACCURACY, TRAIN, VALIDATION, four_runs

INF, NAN = float("inf"), float("nan")


def with_row(values: np.ndarray, row: list[float]) -> np.ndarray:
    changed = values.copy()
    changed[1] = row
    return changed


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([3, 2, 1, 0], [3, 2, 1, 0]),
        ([3, NAN, 1, 0], [3, INF, 1, 0]),
        ([NAN, 2, 1, 0], [INF, 2, 1, 0]),
        ([3, 2, INF, INF], [3, 2, INF, INF]),
        ([3, INF, NAN, NAN], [3, INF, INF, INF]),
        ([3, -INF, NAN, 1], [3, INF, INF, 1]),
        ([3, 2, 1, NAN], None),
        ([3, INF, 1, NAN], None),
        ([3, NAN, NAN, NAN], None),
        ([NAN] * 4, None),
    ],
)
@pytest.mark.parametrize("curve", ["train_loss", "val_loss"])
def test_curve_of_one_run(curve: str, row: list[float], expected: list[float] | None) -> None:
    own = {"train_loss": TRAIN, "val_loss": VALIDATION}[curve]
    recorded = replayable(four_runs(**{curve: with_row(own, row)}))
    if expected is None:
        assert (len(recorded.target), recorded.left_out) == (3, 1)
        assert recorded.notes == (
            "Left out 1 run with a target but with curves that end before epoch 4: '1'.",
        )
    else:
        assert (len(recorded.target), recorded.left_out, recorded.notes) == (4, 0, ())
        found = recorded.train if curve == "train_loss" else recorded.validation
        assert found[1].tolist() == expected


def test_all_values_are_oriented_so_that_lower_is_better() -> None:
    accuracy = 1 - VALIDATION
    recorded = replayable(four_runs(val_metric=accuracy))
    np.testing.assert_array_equal(recorded.validation, -accuracy)
    np.testing.assert_array_equal(recorded.target, -ACCURACY)
    recorded = replayable(four_runs(val_metric=accuracy, metric_mode="min", final_mode="max"))
    np.testing.assert_array_equal(recorded.validation, accuracy)
    np.testing.assert_array_equal(recorded.target, -ACCURACY)


def test_the_direction_of_the_metric_does_not_apply_to_the_validation_loss() -> None:
    recorded = replayable(four_runs(metric_mode="max"))
    np.testing.assert_array_equal(recorded.validation, VALIDATION)


def test_a_metric_without_values_is_replaced_by_the_validation_loss() -> None:
    recorded = replayable(four_runs(val_metric=np.full((4, 4), NAN)))
    np.testing.assert_array_equal(recorded.validation, VALIDATION)


def test_runs_without_a_finite_target_are_counted() -> None:
    recorded = replayable(four_runs(final_metric=[0.9, NAN, INF, 0.1]))
    assert recorded.train.tolist() == TRAIN[[0, 3]].tolist()
    assert recorded.left_out == 2
    assert recorded.notes == ("Left out 2 runs without a finite target.",)


def test_unvalidated_epochs_repeat_the_newest_validation() -> None:
    values = VALIDATION.copy()
    values[:, [0, 2]] = NAN
    values[2, 1] = NAN  # a gap in a single run counts as diverged
    recorded = replayable(four_runs(val_loss=values))
    expected = [[INF, 0.8, 0.8, 0.5], [INF, 0.7, 0.7, 0.6], [INF, INF, INF, 0.7]]
    assert recorded.validation[:3].tolist() == expected
    assert recorded.notes == (
        "In 2 epochs of 4 no run has a 'val_loss'. These epochs repeat the newest values, and "
        "before epoch 2 there are no values.",
    )


def test_last_epoch_without_a_validation_does_not_end_the_curves() -> None:
    values = VALIDATION.copy()
    values[:, 3] = NAN
    recorded = replayable(four_runs(val_loss=values))
    np.testing.assert_array_equal(recorded.validation[:, 3], VALIDATION[:, 2])
    assert recorded.notes == (
        "In 1 epoch of 4 no run has a 'val_loss'. These epochs repeat the newest values.",
    )


def test_without_validation_a_note_names_the_pick() -> None:
    recorded = replayable(LearningCurves(TRAIN, final_metric=ACCURACY))
    assert recorded.validation is None
    assert recorded.notes == (
        "There are no validation values, so the pick is the run with the lowest last training "
        "loss.",
    )


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        (
            LearningCurves(TRAIN),
            "Expected the curves to have `final_metric`, the target, but it is absent.",
        ),
        (
            four_runs(final_metric=[0.5, NAN, NAN, NAN]),
            "Expected at least 2 runs with a finite target and curves of all 4 epochs but got 1 of "
            "4.",
        ),
    ],
)
def test_curves_that_cannot_be_replayed(curves: LearningCurves, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replayable(curves)
