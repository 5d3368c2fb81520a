"""`LearningCurves.from_frame` and `to_frame`, against tables written by hand."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_sotl import LearningCurves

nan, inf = np.nan, np.inf
FIELDS = (
    *("train_loss", "val_loss", "val_metric", "final_metric", "final_loss"),
    *("metric_mode", "final_mode", "run_ids"),
)


def table(**columns: Any) -> pd.DataFrame:
    """Return a frame whose three usual columns have defaults: runs a, a, b."""
    usual = {"run": ["a", "a", "b"], "epoch": [0, 1, 0], "train_loss": [2.0, 1.0, 3.0]}
    return pd.DataFrame({**usual, **columns})


def refused(message: str) -> Any:
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def assert_equal(found: LearningCurves, expected: LearningCurves) -> None:
    for name in FIELDS:
        np.testing.assert_equal(getattr(found, name), getattr(expected, name), err_msg=name)


# --- tables that are read


def test_a_row_per_run_and_epoch_gives_the_curves() -> None:
    frame = pd.DataFrame(
        {
            "Name": ["a", "b", "a", "b", "a"],
            "step": [1, 0, 0, 1, 2],
            "loss": [1.0, 3.0, 2.0, 2.5, 0.5],
            "val": [1.5, nan, 2.5, 2.75, nan],
            "acc": [0.5, 0.25, 0.4, 0.3, 0.75],
            "test acc": [0.7, 0.3, 0.7, 0.3, 0.7],
            "test loss": [1.1, inf, 1.1, inf, 1.1],
        }
    )
    curves = LearningCurves.from_frame(
        frame,
        run="Name",
        epoch="step",
        train_loss="loss",
        val_loss="val",
        val_metric="acc",
        final_metric="test acc",
        final_loss="test loss",
        metric_mode="min",
        final_mode="max",
    )
    expected = LearningCurves(
        [[2.0, 1.0, 0.5], [3.0, 2.5, nan]],
        val_loss=[[2.5, 1.5, nan], [nan, 2.75, nan]],
        val_metric=[[0.4, 0.5, 0.75], [0.25, 0.3, nan]],
        final_metric=[0.7, 0.3],
        final_loss=[1.1, inf],
        metric_mode="min",
        final_mode="max",
        run_ids=["a", "b"],
    )
    assert_equal(curves, expected)


def test_only_named_columns_are_read() -> None:
    curves = LearningCurves.from_frame(table(val_loss=["no", "number", "here"]))
    assert_equal(curves, LearningCurves([[2.0, 1.0], [3.0, nan]], run_ids=["a", "b"]))


CURVES = LearningCurves([[2.0, 1.0], [3.0, nan]], run_ids=["a", "b"])


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(table().iloc[[2, 1, 0]].iloc[::-1], id="unsorted"),
        pytest.param(table().set_index(["run", "epoch"]), id="multi-index"),
        pytest.param(table().set_index("epoch"), id="epoch-index"),
        pytest.param(table().set_index("run", drop=False), id="index-and-column"),
        pytest.param(table().set_index(pd.Index([7, 7, 7])), id="repeated-index"),
        pytest.param(table(run=pd.Categorical(["a", "a", "b"], ["b", "c", "a"])), id="categories"),
        pytest.param(table(epoch=pd.array([0, 1, 0], dtype="Int64")), id="Int64"),
        pytest.param(table(epoch=[0.0, 1.0, 0.0]), id="float epochs"),
        pytest.param(table(epoch=["0", "1.0", " 0 "]), id="epochs as text"),
        pytest.param(table(epoch=np.array([0, 1, 0], dtype=np.uint8)), id="uint8"),
        pytest.param(table(train_loss=["2.0", "1e0", 3]), id="mixed types"),
        pytest.param(table(train_loss=pd.array(["2", "1", "3"], dtype="string")), id="string"),
        pytest.param(table(train_loss=pd.array([2, 1, 3], dtype="Float64")), id="Float64"),
        pytest.param(table(train_loss=pd.array([2, 1, 3], dtype="double[pyarrow]")), id="arrow"),
        pytest.param(table(train_loss=pd.Categorical(["2", "1", "3"])), id="text categories"),
        pytest.param(table(train_loss=[Decimal(2), np.float32(1), np.int8(3)]), id="scalars"),
        pytest.param(table(train_loss=pd.arrays.SparseArray([2.0, 1.0, 3.0])), id="sparse"),
        pytest.param(pd.concat([table(), table().head(2)]), id="repeated rows"),
    ],
)
def test_the_same_table_in_another_form_is_the_same(frame: pd.DataFrame) -> None:
    assert_equal(LearningCurves.from_frame(frame), CURVES)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pd.array([1.0, None, 2.0], dtype="Float64"), id="Float64"),
        pytest.param(pd.array([1, None, 2], dtype="Int64"), id="Int64"),
        pytest.param(pd.array([1, None, 2], dtype="int32[pyarrow]"), id="arrow"),
        pytest.param([1.0, None, 2.0], id="None"),
        pytest.param([1.0, pd.NA, "2"], id="NA"),
        pytest.param(["1", "", "2"], id="empty text"),
        pytest.param(["1", " NaN ", "2"], id="NaN"),
        pytest.param(["1", "NA", "2"], id="text NA"),
        pytest.param(["1", "<NA>", "2"], id="text <NA>"),
        pytest.param(["1", "None", "2"], id="text None"),
    ],
)
def test_a_missing_value_is_nan(values: Any) -> None:
    curves = LearningCurves.from_frame(table(val=values), val_loss="val")
    np.testing.assert_array_equal(curves.val_loss, [[1.0, nan], [2.0, nan]])


def test_infinity_is_a_value_also_as_text() -> None:
    frame = table(train_loss=[2.0, inf, 3.0], val=["-inf", "Infinity", "inf"])
    curves = LearningCurves.from_frame(frame, val_loss="val")
    np.testing.assert_array_equal(curves.train_loss, [[2.0, inf], [3.0, nan]])
    np.testing.assert_array_equal(curves.val_loss, [[-inf, inf], [inf, nan]])


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([3, 3, 12], ("3", "12")),
        (["01", "01", "1"], ("01", "1")),
        ([1, "1", 2], ("1", "2")),
        (pd.array([3, 3, 12], dtype="Int64"), ("3", "12")),
        ([0.1, 0.1, 1e-5], ("0.1", "1e-05")),
        (["", "", "nan"], ("", "nan")),
        (["a\udcff", "a\udcff", "ä b"], ("a\udcff", "ä b")),
        (pd.to_datetime(["2026-01-01", "2026-01-01", "2026-01-02"]), None),
    ],
)
def test_runs_are_named_by_their_text(runs: Any, names: tuple[str, ...] | None) -> None:
    if any(name == "a\udcff" for name in runs):
        runs = pd.Series(runs, dtype=object)
    curves = LearningCurves.from_frame(table(run=runs))
    np.testing.assert_array_equal(curves.train_loss, CURVES.train_loss)
    assert curves.run_ids == (names or ("2026-01-01 00:00:00", "2026-01-02 00:00:00"))


def test_rows_of_one_epoch_are_merged_if_trackers_log_values_at_different_steps() -> None:
    frame = pd.DataFrame(
        [
            {"run": "a", "epoch": 0, "train_loss": 2.0},
            {"run": "a", "epoch": 0, "val": 2.5},
            {"run": "a", "lr": 0.1},  # a step without an epoch
            {"run": "a", "epoch": 0.5, "lr": 0.1},
            {"run": "a", "epoch": 1, "train_loss": 1.0},
            {"run": "a", "epoch": 1, "val": 1.5},
            {"run": "a", "epoch": 1, "train_loss": 1.0},
            {"run": "a", "epoch": 2, "acc": 0.75},  # a test after the training, in Lightning
            {"run": "b", "acc": 0.5},
            {"run": "b", "epoch": 0, "train_loss": 3.0},
        ]
    )
    curves = LearningCurves.from_frame(frame, val_loss="val", final_metric="acc")
    expected = LearningCurves(
        [[2.0, 1.0], [3.0, nan]],
        val_loss=[[2.5, 1.5], [nan, nan]],
        final_metric=[0.75, 0.5],
        run_ids=["a", "b"],
    )
    assert_equal(curves, expected)


def test_a_run_without_a_loss_has_no_epochs() -> None:
    curves = LearningCurves.from_frame(table(train_loss=[2.0, 1.0, None]))
    assert curves.run_ids == ("a", "b")
    assert curves.epochs_completed.tolist() == [2, 0]


def test_epochs_that_count_from_one_are_read_on_demand() -> None:
    frame = table(epoch=[1, 2, 1])
    assert_equal(LearningCurves.from_frame(frame, first_epoch=1), CURVES)


# --- gaps and late values


def test_a_missing_epoch_is_nan_and_a_warning_names_the_run() -> None:
    frame = table(epoch=[0, 2, 0])
    message = (
        "1 run without 'train_loss' in some epochs before the last, such as epoch 1 of 'a'; "
        "estimates that need those epochs put them last: 'a'."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        curves = LearningCurves.from_frame(frame)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(curves.train_loss, [[2.0, nan, 1.0], [3.0, nan, nan]])


def test_a_missing_loss_in_a_row_is_a_gap_too() -> None:
    frame = table(epoch=[0, 1, 1], run=["a", "a", "b"], train_loss=[None, 1.0, 3.0])
    with pytest.warns(UserWarning, match="^2 runs .* such as epoch 0 of 'a'; .*: 'a', 'b'[.]$"):
        curves = LearningCurves.from_frame(frame)
    np.testing.assert_array_equal(curves.train_loss, [[nan, 1.0], [nan, 3.0]])


def test_values_after_the_last_loss_are_left_out_with_a_warning() -> None:
    frame = table(run=["a", "a", "a"], epoch=[1, 2, 3], train_loss=[2.0, 1.0, nan], val=[4, 5, 6])
    message = "Left out 'val' of 1 run after epoch 2, the last with 'train_loss': 'a'."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        curves = LearningCurves.from_frame(frame, val_loss="val", first_epoch=1)
    np.testing.assert_array_equal(curves.val_loss, [[4.0, 5.0]])


# --- tables that are refused


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            table().rename(columns={"train_loss": "loss"}),
            "Expected `frame` to have the columns 'train_loss' but it has 'run', 'epoch', 'loss'.",
        ),
        (
            table().rename(columns={"train_loss": "epoch"}).assign(train_loss=1.0),
            "Expected `frame` to have one column 'epoch' but got 2.",
        ),
        (table().head(0), "Expected `frame` to have at least one row."),
        (
            table(train_loss=None),
            "Expected column 'train_loss' of `frame` to have a number but it has none.",
        ),
        (
            table(run=["a", None, "b"]),
            "Expected a run in each row of column 'run' of `frame` but row 1 has none.",
        ),
        (
            table(run=[1, nan, 2]),
            "Expected a run in each row of column 'run' of `frame` but row 1 has none.",
        ),
        (
            table(epoch=[0, None, 0]),
            "Expected column 'epoch' of `frame` to have the epoch of each value but run 'a' has "
            "none in row 1, where 'train_loss' is 1.0.",
        ),
        (
            table(epoch=[0, 2.5, 0]),
            "Expected column 'epoch' of `frame` to have whole numbers from 0 on but run 'a' has "
            "2.5 in row 1.",
        ),
        (
            table(epoch=[0, 1, -1]),
            "Expected column 'epoch' of `frame` to have whole numbers from 0 on but run 'b' has "
            "-1 in row 2.",
        ),
        (
            table(epoch=[0, inf, 0]),
            "Expected column 'epoch' of `frame` to have whole numbers from 0 on but run 'a' has "
            "inf in row 1.",
        ),
        (
            table(epoch=["0", "first", "0"]),
            "Expected numbers in column 'epoch' of `frame` but run 'a' has 'first' in row 1.",
        ),
        (
            table(epoch=[False, True, False]),
            "Expected numbers in column 'epoch' of `frame` but run 'a' has False in row 0.",
        ),
        (
            table(epoch=pd.to_datetime(["2026-01-01"] * 3)),
            "Expected numbers in column 'epoch' of `frame` but run 'a' has "
            "Timestamp('2026-01-01 00:00:00') in row 0.",
        ),
        (
            table(epoch=[1, 2, 1]),
            "Expected column 'epoch' of `frame` to count from 0 but the smallest epoch is 1; "
            "`first_epoch=1` (--first-epoch 1) reads epochs that count from 1.",
        ),
        (
            table(epoch=[0, 10**15, 0]),
            "Expected 'frame' to hold at most 50,000,000 losses but got 2,000,000,000,000,002: 2 "
            "runs with up to 1,000,000,000,000,001 epochs ('a').",
        ),
        (
            table(train_loss=["2", "0,31", "3"]),
            "Expected numbers in column 'train_loss' of `frame` but run 'a' has '0,31' in row 1.",
        ),
        (
            table(train_loss=[2, 1j, 3]),
            "Expected numbers in column 'train_loss' of `frame` but run 'a' has (2+0j) in row 0.",
        ),
        (
            table(train_loss=pd.Series([2, 10**400, 3], dtype=object)),
            "Expected numbers in column 'train_loss' of `frame` but run 'a' has "
            f"{'1' + '0' * 199}... in row 1.",
        ),
        (
            table(train_loss=[2, [1.0], 3]),
            "Expected numbers in column 'train_loss' of `frame` but run 'a' has [1.0] in row 1.",
        ),
        (
            table(epoch=[0, 0, 0]),
            "Expected one value of 'train_loss' for each run and epoch of `frame` but run 'a' has "
            "2.0 and 1.0 in epoch 0.",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_named(frame: pd.DataFrame, message: str) -> None:
    with refused(message):
        LearningCurves.from_frame(frame)


def test_an_epoch_in_a_message_is_that_of_the_table() -> None:
    frame = table(epoch=[1, 1, 1])
    with refused(
        "Expected one value of 'train_loss' for each run and epoch of `frame` but run 'a' has "
        "2.0 and 1.0 in epoch 1."
    ):
        LearningCurves.from_frame(frame, first_epoch=1)
    with refused(
        "Expected column 'epoch' of `frame` to have whole numbers from 1 on but run 'b' has 0 in "
        "row 2."
    ):
        LearningCurves.from_frame(table(epoch=[1, 2, 0]), first_epoch=1)


def test_a_final_value_that_varies_within_a_run_is_refused() -> None:
    with refused(
        "Expected one value of 'acc' for each run of `frame` but run 'a' has 0.5 and 0.6."
    ):
        LearningCurves.from_frame(table(acc=[0.5, 0.6, 0.7]), final_metric="acc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_epoch": 2}, "Expected `first_epoch` to be 0 or 1 but got 2."),
        ({"metric_mode": "up"}, "Expected `metric_mode` to be 'min' or 'max' but got 'up'."),
        ({"final_mode": "up"}, "Expected `final_mode` to be 'min' or 'max' but got 'up'."),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with refused(message):
        LearningCurves.from_frame(table(), **options)


class ForeignFrame:
    def to_pandas(self) -> pd.DataFrame:
        return table()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            ForeignFrame(),
            "Expected `frame` to be a pandas DataFrame but got ForeignFrame; its method "
            "`to_pandas` returns one.",
        ),
        ({"run": ["a"]}, "Expected `frame` to be a pandas DataFrame but got dict."),
        ("runs.csv", "Expected `frame` to be a pandas DataFrame but got str."),
    ],
)
def test_only_a_data_frame_is_accepted(frame: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_frame(frame)


# --- to_frame


def full_table() -> LearningCurves:
    return LearningCurves(
        [[2.0, 1.0, 0.5], [3.0, nan, nan]],
        val_loss=[[nan, 1.5, 1.25], [3.5, 2.5, nan]],
        final_metric=[0.3, nan],
        features=[[1.0], [2.0]],
        epoch_seconds=[1.0, 2.0],
        metric_mode="max",
        final_mode="min",
        run_ids=["first", "second"],
        checkpoints=["a.ckpt", None],
    )


def test_a_frame_has_a_row_per_run_and_epoch() -> None:
    expected = pd.DataFrame(
        {
            "run": ["first", "first", "first", "second", "second"],
            "epoch": [0, 1, 2, 0, 1],
            "train_loss": [2.0, 1.0, 0.5, 3.0, nan],
            "val_loss": [nan, 1.5, 1.25, 3.5, 2.5],
            "final_metric": [0.3, 0.3, 0.3, nan, nan],
        }
    )
    found = full_table().to_frame()
    pd.testing.assert_frame_equal(found, expected.astype({"run": object}))


numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), shape=st.tuples(st.integers(1, 4), st.integers(1, 5)))
def test_curves_survive_a_frame_bit_for_bit(data: st.DataObject, shape: tuple[int, int]) -> None:
    def array(size: tuple[int, ...]) -> Any:
        return data.draw(hnp.arrays(np.float64, size, elements=numbers | st.just(nan)))

    def optional(size: tuple[int, ...]) -> Any:
        return array(size) if data.draw(st.booleans()) else None

    names = st.text(st.characters(), max_size=5)
    curves = LearningCurves(
        array(shape),
        val_loss=optional(shape),
        val_metric=optional(shape),
        final_metric=optional(shape[:1]),
        final_loss=optional(shape[:1]),
        metric_mode=data.draw(st.sampled_from(["min", "max"])),
        final_mode=data.draw(st.sampled_from(["min", "max"])),
        run_ids=data.draw(st.lists(names, min_size=shape[0], max_size=shape[0], unique=True)),
    )
    found = LearningCurves.from_frame(
        curves.to_frame(), metric_mode=curves.metric_mode, final_mode=curves.final_mode
    )
    assert_equal(found, curves)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_rows_give_the_curves_of_a_plain_loop(data: st.DataObject) -> None:
    """Rows are in any order, some repeat, and some lack a value."""
    losses = data.draw(
        st.dictionaries(
            st.tuples(st.sampled_from("abc"), st.integers(0, 4)), st.floats(-9, 9), min_size=1
        )
    )
    rows = data.draw(
        st.lists(st.sampled_from(sorted(losses)), max_size=9).map(lambda r: [*r, *losses])
    )
    rows = data.draw(st.permutations(rows))
    empty = [data.draw(st.booleans()) for _ in rows]
    values = [nan if is_empty else losses[row] for row, is_empty in zip(rows, empty, strict=True)]
    frame = pd.DataFrame(rows, columns=["run", "epoch"]).assign(train_loss=values)
    kept = {row: value for row, value in zip(rows, values, strict=True) if not np.isnan(value)}
    if not kept or min(epoch for _, epoch in rows) == 1:
        with pytest.raises(ValueError, match=r"a number but it has none|smallest epoch is 1"):
            LearningCurves.from_frame(frame)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves = LearningCurves.from_frame(frame)
    names = list(dict.fromkeys(run for run, _ in rows))
    epochs = max(epoch for _, epoch in kept) + 1
    assert curves.names == tuple(names)
    expected = [[kept.get((run, epoch), nan) for epoch in range(epochs)] for run in names]
    np.testing.assert_array_equal(curves.train_loss, expected)


def test_what_a_frame_cannot_hold_is_left_out() -> None:
    curves = LearningCurves.from_frame(full_table().to_frame())
    assert curves.features is None
    assert curves.epoch_seconds is None
    assert curves.checkpoints == (None, None)


def test_another_mode_than_the_stored_one_is_refused_if_it_matters() -> None:
    frame = full_table().to_frame()
    with pytest.raises(
        ValueError,
        match=r"^Expected `final_mode` to be 'min', as `to_frame` stored it in the table, but got "
        r"'max'\.$",
    ):
        LearningCurves.from_frame(frame, final_mode="max")
    lower_is_better = LearningCurves([[2.0]], val_metric=[[0.5]], metric_mode="min").to_frame()
    with pytest.raises(
        ValueError,
        match=r"^Expected `metric_mode` to be 'min', as `to_frame` stored it in the table, but got "
        r"'max'\.$",
    ):
        LearningCurves.from_frame(lower_is_better)
    assert LearningCurves.from_frame(lower_is_better, metric_mode="min").metric_mode == "min"


def test_a_stored_mode_does_not_apply_to_a_column_that_was_added() -> None:
    curves = LearningCurves(
        [[2.0, 1.0], [3.0, 2.0]], val_metric=[[0.1, 0.2], [0.3, 0.4]], final_metric=[0.1, 0.2]
    )
    frame = curves.to_frame().assign(error=[0.9, 0.8, 0.7, 0.6], test_loss=[0.1, 0.1, 0.9, 0.9])
    read = LearningCurves.from_frame(
        frame, val_metric="error", final_metric="test_loss", metric_mode="min"
    )
    assert (read.metric_mode, read.final_mode) == ("min", "min")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_loss": None}, "Expected `train_loss` to be the name of a column but got None."),
        ({"run": 3}, "Expected `run` to be the name of a column but got 3."),
    ],
)
def test_a_column_that_is_not_text_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_frame(table(), **arguments)


def test_text_with_an_underscore_is_not_a_number() -> None:
    with pytest.raises(ValueError, match=r"^Expected numbers in column 'train_loss' .* '2_5'"):
        LearningCurves.from_frame(table(train_loss=["2_5", "1", "3"]))


def test_a_dropped_column_is_absent_and_a_dropped_row_is_a_gap() -> None:
    frame = full_table().to_frame()
    assert LearningCurves.from_frame(frame.drop(columns="val_loss")).val_loss is None
    assert LearningCurves.from_frame(frame[frame["epoch"] < 1]).epochs == 1
    with pytest.warns(UserWarning, match="^1 run without 'train_loss' .* epoch 0 of 'first'; "):
        curves = LearningCurves.from_frame(frame.drop(index=0))
    np.testing.assert_array_equal(curves.train_loss, [[nan, 1.0, 0.5], [3.0, nan, nan]])


# --- the extra


def test_pandas_is_loaded_only_by_a_frame() -> None:
    program = (
        "import sys; from lightning_sotl import LearningCurves; curves = LearningCurves([[1.0]]); "
        "import lightning_sotl.cli.inputs; print('pandas' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_a_missing_pandas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, curves = table(), full_table()
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    uses = {
        "read a data frame": lambda: LearningCurves.from_frame(frame),
        "make a data frame": curves.to_frame,
    }
    for purpose, use in uses.items():
        message = (
            f"`pandas` is needed to {purpose} but is not installed. Run: pip install "
            '"lightning-sotl[frames]"'
        )
        with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
            use()
