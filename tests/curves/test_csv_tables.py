from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_sotl.curves.csv_tables import read_long_csv, read_wide_csv


def write(folder: Path, text: str) -> Path:
    (folder / "x.csv").write_text(text)
    return folder / "x.csv"


LONG = """run,epoch,train_loss,val,acc,lr
a,0,2.0,2.5,,0.1
b,0,3.0,,,0.2
a,1,1.0,1.5,0.75,0.1
"""
WIDE = """run,train_loss_1,train_loss_2,acc,lr
a,2.0,1.0,0.75,0.1
b,3.0,,,0.2
"""


def test_long_and_wide_say_the_same(tmp_path: Path) -> None:
    options = {"final_metric": "acc", "features": ["lr"]}
    tables = [
        read_long_csv(write(tmp_path, LONG), val_loss="val", **options),
        read_wide_csv(write(tmp_path, WIDE), **options),
    ]
    for curves in tables:
        np.testing.assert_array_equal(curves.train_loss, [[2.0, 1.0], [3.0, np.nan]])
        np.testing.assert_array_equal(curves.final_metric, [0.75, np.nan])
        np.testing.assert_array_equal(curves.features, [[0.1], [0.2]])
        assert curves.run_ids == ("a", "b")
    np.testing.assert_array_equal(tables[0].val_loss, [[2.5, 1.5], [np.nan, np.nan]])


@settings(max_examples=25, deadline=None)
@given(
    losses=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5),
        elements=st.floats(allow_nan=False),
    ),
    first=st.integers(0, 1),
)
def test_any_losses_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, losses: np.ndarray, first: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    epochs = range(first, first + losses.shape[1])
    header = ",".join(["run", *(f"train_loss_{epoch}" for epoch in epochs)])
    rows = [",".join([f"r{i}", *map(repr, row.tolist())]) for i, row in enumerate(losses)]
    wide = read_wide_csv(write(folder, "\n".join([header, *rows])))
    np.testing.assert_array_equal(wide.train_loss, losses)
    lines = [
        f"r{i},{epoch},{value!r}"
        for i, row in enumerate(losses.tolist())
        for epoch, value in zip(epochs, row, strict=True)
    ]
    text = "\n".join(["run,epoch,train_loss", *lines])
    long = read_long_csv(write(folder, text), first_epoch=first)
    np.testing.assert_array_equal(long.train_loss, losses)


def test_runs_can_be_numbered(tmp_path: Path) -> None:
    curves = read_wide_csv(write(tmp_path, "l0,l1\n2,1\n3,2\n"), run=None, train_loss="l{epoch}")
    assert curves.run_ids == ("0", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run,epoch,loss\na,0,1\n",
            "Expected '{path}' to have the columns 'train_loss' but it has 'run', 'epoch', 'loss'.",
        ),
        (
            "run,epoch,train_loss\na,0,low\n",
            "Expected a number in line 2, column 'train_loss' of '{path}' but got 'low'.",
        ),
        (
            "run,epoch,train_loss\na,0,1\na,0,2\n",
            "Expected '{path}' to have each epoch of a run once, but line 3 has epoch 0 of run 'a' "
            "again.",
        ),
        (
            "run,epoch,train_loss\na,first,1\n",
            "Expected an epoch from 0 on in line 2 of '{path}' but got 'first'.",
        ),
        (
            "run,epoch,train_loss\na,-1,1\n",
            "Expected an epoch from 0 on in line 2 of '{path}' but got '-1'.",
        ),
        (
            "run,epoch,train_loss\na,0\n",
            "Expected line 2 of '{path}' to have 3 cells, as the header has, but got 2.",
        ),
        (
            "run,epoch,train_loss\n",
            "Expected '{path}' to have at least one row below the header.",
        ),
        (
            "run,epoch,epoch,train_loss\na,0,0,1\n",
            "Expected '{path}' to have no column twice but got 'epoch'.",
        ),
    ],
)
def test_what_is_wrong_with_a_long_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_long_csv(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run,train_loss_0,train_loss_2\na,1,2\n",
            "Expected '{path}' to have columns 'train_loss_{{epoch}}' for epochs without a gap but "
            "it has 0, 2 of them, in columns 'run', 'train_loss_0', 'train_loss_2'.",
        ),
        (
            "run,train_loss_5\na,1\n",
            "Expected the columns 'train_loss_{{epoch}}' of '{path}' to begin with epoch 0 or 1 "
            "but got 5.",
        ),
        (
            "run,train_loss_0\na,1\na,2\n",
            "'{path}' does not hold learning curves. Expected `run_ids` to be unique but got "
            "repeated 'a'.",
        ),
    ],
)
def test_what_is_wrong_with_a_wide_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_wide_csv(path)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file '.*none\.csv'\.$"):
        read_long_csv(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"to contain '\{epoch\}' but got 'train_loss'\.$"):
        read_wide_csv(write(tmp_path, WIDE), train_loss="train_loss")
    with pytest.raises(ValueError, match=r"^Expected `first_epoch` to be 0 or 1 but got 2\.$"):
        read_long_csv(write(tmp_path, LONG), first_epoch=2)
    for mode in ({"metric_mode": "up"}, {"final_mode": "up"}):
        for read in (read_long_csv, read_wide_csv):
            with pytest.raises(
                ValueError, match=r"^Expected `\w+` to be 'min' or 'max' but got 'u"
            ):
                read(tmp_path / "none.csv", **mode)


def test_a_table_whose_epochs_count_from_one_is_refused_with_the_argument(tmp_path: Path) -> None:
    path = write(tmp_path, "run,epoch,train_loss\na,2,1\na,1,2\nb,1,3\n")
    message = (
        f"Expected the epochs in column 'epoch' of '{path}' to count from 0 but the smallest is 1; "
        "`first_epoch=1` reads epochs that count from 1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_long_csv(path)
    np.testing.assert_array_equal(
        read_long_csv(path, first_epoch=1).train_loss, [[2.0, 1.0], [3.0, np.nan]]
    )


def test_a_run_without_its_first_epoch_beside_one_with_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "run,epoch,train_loss\na,0,2\nb,1,3\n")
    np.testing.assert_array_equal(read_long_csv(path).train_loss, [[2.0, np.nan], [np.nan, 3.0]])
