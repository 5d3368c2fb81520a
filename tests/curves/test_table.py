from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_sotl.curves.table import LearningCurves
from tests.support.paths import SHARED_DATA, needs_shared_data

LOSSES = [[2.0, 1.0, 0.5], [3.0, np.nan, np.nan]]


def full_table() -> LearningCurves:
    return LearningCurves(
        LOSSES,
        val_loss=[[2.5, 1.5, 1.0]] * 2,
        val_metric=[[0.1, 0.2, 0.3]] * 2,
        final_metric=[0.3, np.nan],
        final_loss=[1.1, np.inf],
        features=[[1.0, 2.0], [3.0, 4.0]],
        epoch_seconds=[1.0, 2.0],
        metric_mode="max",
        final_mode="min",
        run_ids=["first", "zweite äöü"],
        checkpoints=["a/b.ckpt", None],
    )


def assert_equal(one: LearningCurves, other: LearningCurves) -> None:
    for field in dataclasses.fields(LearningCurves):
        np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def test_all_fields_are_saved_and_loaded(tmp_path: Path) -> None:
    full_table().save(tmp_path / "x.npz")
    assert_equal(LearningCurves.load(tmp_path / "x.npz"), full_table())


def test_fields_that_are_none_are_not_saved(tmp_path: Path) -> None:
    LearningCurves(LOSSES).save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        assert set(archive.files) == {"train_loss", "metric_mode", "final_mode", "run_ids"}
        assert archive["run_ids"].dtype.kind == "U"
        assert archive["metric_mode"].shape == ()
    assert_equal(LearningCurves.load(tmp_path / "x.npz"), LearningCurves(LOSSES))


@settings(max_examples=25, deadline=None)
@given(
    losses=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
        elements=st.floats(allow_nan=True, allow_infinity=True),
    )
)
def test_any_losses_are_saved_and_loaded_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, losses: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    LearningCurves(losses).save(path)
    np.testing.assert_array_equal(LearningCurves.load(path).train_loss, losses)


def test_defaults() -> None:
    curves = LearningCurves(LOSSES, metric_mode="min")
    assert (curves.final_mode, curves.run_ids, curves.checkpoints) == (
        "min",
        ("0", "1"),
        (None, None),
    )
    assert (curves.runs, curves.epochs, curves.epochs_completed.tolist()) == (2, 3, [3, 1])


def test_completed_epochs_include_diverged_and_missing_ones_but_not_trailing_nans() -> None:
    curves = LearningCurves([[1.0, np.inf, np.nan], [np.nan, 1.0, 2.0], [np.nan] * 3])
    assert curves.epochs_completed.tolist() == [2, 3, 0]


def test_a_table_is_frozen_and_copies_its_arrays() -> None:
    mine = np.array(LOSSES)
    curves = LearningCurves(mine)
    mine[0, 0] = 9.0
    assert curves.train_loss[0, 0] == 2.0
    with pytest.raises(ValueError, match="read-only"):
        curves.train_loss[0, 0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        curves.train_loss = mine


def test_select_reorders_all_fields_alike() -> None:
    chosen = full_table().select([1, 0])
    assert chosen.run_ids == ("zweite äöü", "first")
    assert chosen.checkpoints == (None, "a/b.ckpt")
    np.testing.assert_array_equal(chosen.final_metric, [np.nan, 0.3])
    np.testing.assert_array_equal(chosen.features, [[3.0, 4.0], [1.0, 2.0]])


def test_select_refuses_a_boolean_mask() -> None:
    message = "Expected `runs` to hold row numbers but got the dtype bool."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        full_table().select(np.array([False, True]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"train_loss": [1.0]},
            ValueError,
            "Expected `train_loss` to have the shape (runs, epochs) with at least one of each but "
            "got (1,).",
        ),
        (
            {"train_loss": np.empty((0, 3))},
            ValueError,
            "Expected `train_loss` to have the shape (runs, epochs) with at least one of each but "
            "got (0, 3).",
        ),
        (
            {"train_loss": [["a"]]},
            TypeError,
            "Expected `train_loss` to hold numbers but got the dtype <U1.",
        ),
        (
            {"train_loss": np.array([[None]])},
            TypeError,
            "Expected `train_loss` to hold numbers but got the dtype object.",
        ),
        (
            {"train_loss": [[1.0], [1.0, 2.0]]},
            ValueError,
            "Expected `train_loss` to have rows of equal length.",
        ),
        (
            {"train_loss": LOSSES, "val_loss": [[1.0]]},
            ValueError,
            "Expected `val_loss` to have the shape (2, 3), to match `train_loss`, but got (1, 1).",
        ),
        (
            {"train_loss": LOSSES, "final_metric": [1.0]},
            ValueError,
            "Expected `final_metric` to have the shape (2,), to match `train_loss`, but got (1,).",
        ),
        (
            {"train_loss": LOSSES, "features": [1.0, 2.0]},
            ValueError,
            "Expected `features` to have the shape (2, n), to match `train_loss`, but got (2,).",
        ),
        (
            {"train_loss": LOSSES, "metric_mode": "up"},
            ValueError,
            "Expected `metric_mode` to be 'min' or 'max' but got 'up'.",
        ),
        (
            {"train_loss": LOSSES, "final_mode": "up"},
            ValueError,
            "Expected `final_mode` to be 'min' or 'max' but got 'up'.",
        ),
        (
            {"train_loss": LOSSES, "run_ids": ["a"]},
            ValueError,
            "Expected `run_ids` to have 2 entries, one per run, but got 1.",
        ),
        (
            {"train_loss": LOSSES, "run_ids": ["a", "a"]},
            ValueError,
            "Expected `run_ids` to be unique but got repeated 'a'.",
        ),
        (
            {"train_loss": LOSSES, "checkpoints": [None]},
            ValueError,
            "Expected `checkpoints` to have 2 entries, one per run, but got 1.",
        ),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        LearningCurves(**arguments)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train_loss=np.array([[1.0]]), run_ids=np.array(["a"], dtype=object))
    with pytest.raises(ValueError, match=r"^'run_ids' in '.*x\.npz' cannot be read without pickle"):
        LearningCurves.load(path)


def test_a_pickle_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"^Expected '.*x\.npz' to be an \.npz archive"):
        LearningCurves.load(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    full_table().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^Expected '.*x\.npz' to be an \.npz archive"):
        LearningCurves.load(path)


def test_a_missing_file_and_missing_losses_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file '.*none\.npz'\.$"):
        LearningCurves.load(tmp_path / "none.npz")
    np.savez(tmp_path / "x.npz", loss=np.ones((2, 2)))
    with pytest.raises(
        ValueError, match=r"^Expected '.*x\.npz' to hold 'train_loss' but it holds 'loss'\.$"
    ):
        LearningCurves.load(tmp_path / "x.npz")


def test_wrong_shapes_in_a_file_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_loss=np.ones((2, 2)), final_metric=np.ones(3))
    with pytest.raises(
        ValueError,
        match=r"^'.*x\.npz' does not hold learning curves\. Expected `final_metric` to have the "
        r"shape \(2,\), to match `train_loss`, but got \(3,\)\.$",
    ):
        LearningCurves.load(tmp_path / "x.npz")


def test_unknown_arrays_are_left_out_with_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_loss=np.ones((2, 2)), val_acc=np.ones((2, 2)))
    with pytest.warns(UserWarning, match=r"also holds 'val_acc', which LearningCurves does not"):
        LearningCurves.load(tmp_path / "x.npz")


def test_another_file_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Expected `path` to end in '\.npz' but got '.*x\.dat'"):
        LearningCurves(LOSSES).save(tmp_path / "x.dat")


@needs_shared_data
def test_recorded_tables_load() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = LearningCurves.load(SHARED_DATA / "taskset/imdb_patch32_GRU128_bs128.npz")
    assert curves.train_loss.shape == (1000, 50)
    assert curves.train_loss.dtype == np.float64
    assert (curves.metric_mode, curves.final_mode) == ("min", "min")
