"""`.csv` and `.parquet` tables, against tables written by hand."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lightning_sotl import LearningCurves
from lightning_sotl.curves import table_files
from lightning_sotl.curves.frames import TableColumns
from lightning_sotl.curves.table_files import read_table_file

nan = np.nan
TABLE = """run,epoch,train_loss,val,acc,lr
a,0,2.0,2.5,,0.1
b,0,3.0,,,0.2
a,1,1.0,1.5,0.75,0.1
"""


def write(folder: Path, text: str) -> Path:
    (folder / "runs.csv").write_text(text)
    return folder / "runs.csv"


def read(path: Path, **columns: Any) -> LearningCurves:
    found = read_table_file(path, TableColumns(**columns))
    assert found.notes == []
    return found.curves


def to_parquet(path: Path, **kwargs: Any) -> Path:
    """Write a CSV table as Parquet, as a program that knows nothing of this package would."""
    pd.read_csv(path).to_parquet(path.with_suffix(".parquet"), **kwargs)
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_gives_the_curves(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, TABLE)
    path = path if suffix == "csv" else to_parquet(path)
    curves = read(path, val_loss="val", final_metric="acc")
    np.testing.assert_array_equal(curves.train_loss, [[2.0, 1.0], [3.0, nan]])
    np.testing.assert_array_equal(curves.val_loss, [[2.5, 1.5], [nan, nan]])
    np.testing.assert_array_equal(curves.final_metric, [0.75, nan])
    assert curves.run_ids == ("a", "b")
    assert (curves.metric_mode, curves.final_mode) == ("max", "max")


def test_modes_are_those_that_were_given(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE)
    curves = read_table_file(path, TableColumns(), metric_mode="min", final_mode="max").curves
    assert (curves.metric_mode, curves.final_mode) == ("min", "max")


def test_other_curves_are_read_by_their_column(tmp_path: Path) -> None:
    found = read_table_file(write(tmp_path, TABLE), TableColumns(others=("lr", "val")))
    np.testing.assert_array_equal(found.others["lr"], [[0.1, 0.1], [0.2, nan]])
    np.testing.assert_array_equal(found.others["val"], [[2.5, 1.5], [nan, nan]])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + TABLE, id="byte order mark"),
        pytest.param(TABLE.replace("\n", "\r\n"), id="Windows"),
        pytest.param(TABLE.replace("\n", "\n\n"), id="blank lines"),
        pytest.param(TABLE.replace("a,", '"a",'), id="quotes"),
        pytest.param(TABLE.replace("0,2.0", "0.0, 2"), id="spaces"),
        pytest.param(TABLE.replace(",,", ",NaN,").replace(",,", ",,"), id="NaN"),
    ],
)
def test_other_styles_of_csv_give_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(text.encode())
    curves = read(path, val_loss="val", final_metric="acc")
    np.testing.assert_array_equal(curves.train_loss, [[2.0, 1.0], [3.0, nan]])
    np.testing.assert_array_equal(curves.val_loss, [[2.5, 1.5], [nan, nan]])
    np.testing.assert_array_equal(curves.final_metric, [0.75, nan])


def test_names_of_runs_are_kept_as_they_are(tmp_path: Path) -> None:
    text = "run,epoch,train_loss\n01,0,1\n1,0,2\nNA,0,3\n 1,0,4\n"
    curves = read(write(tmp_path, text))
    assert curves.run_ids == ("01", "1", "NA", " 1")


def full_table() -> LearningCurves:
    rng = np.random.default_rng(0)
    shape = (3, 4)
    curves = LearningCurves(
        rng.random(shape),
        val_loss=rng.random(shape),
        val_metric=rng.random(shape),
        final_metric=rng.random(3),
        final_loss=[1.0, np.inf, nan],
        metric_mode="min",
        final_mode="max",
        run_ids=["a", "ä b", "c"],
    )
    losses = curves.train_loss.copy()
    losses[1, 2:], losses[2, 3] = nan, np.inf
    return dataclasses.replace(curves, train_loss=losses)


@pytest.mark.parametrize("index", [[], ["run"], ["run", "epoch"]])
def test_a_frame_in_parquet_is_read_with_all_its_columns(tmp_path: Path, index: list[str]) -> None:
    curves = full_table()
    frame = curves.to_frame()
    (frame.set_index(index) if index else frame).to_parquet(tmp_path / "x.parquet")
    for found in (
        read(tmp_path / "x.parquet"),
        LearningCurves.from_frame(
            pd.read_parquet(tmp_path / "x.parquet"), metric_mode=curves.metric_mode
        ),
    ):
        for field in dataclasses.fields(LearningCurves):
            np.testing.assert_equal(getattr(found, field.name), getattr(curves, field.name))


def test_a_frame_in_csv_is_read_with_its_columns_and_modes(tmp_path: Path) -> None:
    curves = full_table()
    curves.to_frame().to_csv(tmp_path / "x.csv", index=False)
    names = ("val_loss", "val_metric", "final_metric", "final_loss")
    columns = TableColumns(**{name: name for name in names})
    found = read_table_file(
        tmp_path / "x.csv", columns, metric_mode=curves.metric_mode, final_mode=curves.final_mode
    ).curves
    for field in dataclasses.fields(LearningCurves):
        np.testing.assert_equal(getattr(found, field.name), getattr(curves, field.name))


def test_a_csv_file_needs_no_pandas(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pandas'] = sys.modules['pyarrow'] = None\n"
        "from lightning_sotl.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    path = write(tmp_path, TABLE)
    done = subprocess.run(
        [sys.executable, "-c", program, "rank", str(path), "--at", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [["1", "a"], ["2", "b"]]
    done = subprocess.run(
        [sys.executable, "-c", program, "rank", str(to_parquet(path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "lightning-sotl rank: `pandas` is needed to read a Parquet file but is not installed. Run: "
        'pip install "lightning-sotl[frames]"\n',
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "Expected '{path}' to have the columns 'run', 'epoch', 'train_loss' but it has "
            "nothing.",
        ),
        (
            "run;epoch;train_loss\na;0;1\n",
            "Expected '{path}' to have the columns 'run', 'epoch', 'train_loss' but it has "
            "'run;epoch;train_loss'.",
        ),
        ("run,epoch,train_loss\n", "Expected '{path}' to have at least one row."),
        (
            "run,epoch,train_loss\na,0,low\n",
            "Expected numbers in column 'train_loss' of '{path}' but run 'a' has 'low' in line 2.",
        ),
        (
            "run,epoch,train_loss\n\na,0,1\n\n ,1,2\n",
            "Expected a run in each row of column 'run' of '{path}' but line 5 has none.",
        ),
        (
            "run,epoch,train_loss\na,0,1\na,0,2\n",
            "Expected one value of 'train_loss' for each run and epoch of '{path}' but run 'a' has "
            "1.0 and 2.0 in epoch 0.",
        ),
        (
            "run,epoch,train_loss\na,-1,1\n",
            "Expected column 'epoch' of '{path}' to have whole numbers from 0 on but run 'a' has "
            "-1 in line 2.",
        ),
        (
            "run,epoch,train_loss\na,2,1\na,1,2\nb,1,3\n",
            "Expected column 'epoch' of '{path}' to count from 0 but the smallest epoch is 1; "
            "`first_epoch=1` (--first-epoch 1) reads epochs that count from 1.",
        ),
        (
            "run,epoch,train_loss\na,0\n",
            "Expected line 2 of '{path}' to have 3 cells, as the header has, but got 2.",
        ),
        (
            "run,epoch,epoch,train_loss\na,0,0,1\n",
            "Expected '{path}' to have one column 'epoch' but got 2.",
        ),
    ],
)
def test_what_is_wrong_with_a_csv_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_table_file(path, TableColumns())


def frame_of(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"run": ["a"], "epoch": [0], "train_loss": [1.0], **columns})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            frame_of().drop(columns="run"),
            "Expected '{path}' to have the columns 'run' but it has 'epoch', 'train_loss'.",
        ),
        (
            frame_of(train_loss=[[1.0]]),
            "Expected column 'train_loss' of '{path}' to have numbers or text but got the type "
            "list<element: double>.",
        ),
        (
            frame_of(run=pd.Series(pd.period_range("2026", periods=1, freq="D"))),
            "Expected column 'run' of '{path}' to have numbers or text but got the type "
            "extension<pandas.period<ArrowPeriodType>>.",
        ),
        (
            frame_of(epoch=[True]),
            "Expected numbers in column 'epoch' of '{path}' but run 'a' has True in row 0.",
        ),
        (frame_of().head(0), "Expected '{path}' to have at least one row."),
    ],
)
def test_what_is_wrong_with_a_parquet_table_is_named(
    tmp_path: Path, frame: pd.DataFrame, message: str
) -> None:
    path = tmp_path / "runs.parquet"
    frame.to_parquet(path)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_table_file(path, TableColumns())


@pytest.mark.parametrize(
    "values",
    [
        pd.array([Decimal(1)], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        pd.Categorical([1.0]),
        pd.Categorical(["1"]),
        ["1"],
        np.array([1], dtype=np.float32),
        pd.array([1], dtype="Int8"),
    ],
    ids=lambda values: str(getattr(values, "dtype", "text")),
)
def test_numbers_of_any_type_are_read_from_parquet(tmp_path: Path, values: Any) -> None:
    frame_of(train_loss=values, val=[None]).to_parquet(tmp_path / "x.parquet")
    curves = read(tmp_path / "x.parquet", val_loss="val")
    np.testing.assert_array_equal(curves.train_loss, [[1.0]])
    np.testing.assert_array_equal(curves.val_loss, [[nan]])


@pytest.mark.parametrize("attrs", [{"metric_mode": "up"}, {"metric_mode": {}}, {"final_mode": 1}])
def test_a_mode_that_another_program_stored_is_refused(tmp_path: Path, attrs: Any) -> None:
    frame = frame_of().assign(val_metric=0.5, final_metric=0.5)
    frame.attrs["lightning_sotl"] = attrs
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"^'.*x\.parquet' does not hold learning curves\. Expec"):
        read_table_file(tmp_path / "x.parquet", TableColumns())


@pytest.mark.parametrize("stored", [1, [], "x", None])
def test_an_entry_of_another_form_is_no_mark(tmp_path: Path, stored: Any) -> None:
    frame = frame_of()
    frame.attrs["lightning_sotl"] = stored
    frame.to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").metric_mode == "max"


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(ValueError, match=rf"^'{re.escape(str(path))}' cannot be read as Parquet: "):
        read_table_file(path, TableColumns())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file '.*none\.csv'\.$"):
        read_table_file(tmp_path / "none.csv", TableColumns())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_too_many_cells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(table_files, "MOST_CELLS", 8)
    path = write(tmp_path, TABLE)
    path = path if suffix == "csv" else to_parquet(path)
    message = (
        f"Expected '{path}' to have at most 8 cells in the columns that are read but it has more."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_table_file(path, TableColumns())


def test_a_small_parquet_file_of_a_long_text_takes_little_memory(tmp_path: Path) -> None:
    """The column would take 50 GB as plain text."""
    rows = 100_000
    runs = pd.Categorical.from_codes([0] * rows, ["x" * 500_000])
    frame = pd.DataFrame({"run": runs, "epoch": np.arange(rows), "train_loss": 1.0})
    path = tmp_path / "x.parquet"
    frame.to_parquet(path)
    assert path.stat().st_size < 5_000_000
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))\n"
        "from lightning_sotl.curves.frames import TableColumns\n"
        "from lightning_sotl.curves.table_files import read_table_file\n"
        "print(read_table_file(sys.argv[1], TableColumns()).curves.epochs)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{rows}\n"
