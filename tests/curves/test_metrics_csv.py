from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sotl.curves._metrics_csv import read_csv_log
from tests.support.run_folders import csv_rows, write_csv_log


def write(folder: Path, text: str) -> Path:
    (folder / "metrics.csv").write_text(text)
    return folder / "metrics.csv"


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.floats(allow_nan=False), min_size=1, max_size=6))
def test_values_are_read_by_epoch(
    tmp_path_factory: pytest.TempPathFactory, losses: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_csv_log(folder, csv_rows(losses))
    logged = read_csv_log(folder / "metrics.csv", {"sotl_e1"})
    assert logged.by_epoch == {"sotl_e1": dict(enumerate(losses))}
    assert logged.unreadable == 0


def test_blank_cells_have_no_value_and_the_last_value_of_an_epoch_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "epoch,step,a,b\n0,1,,2.0\n0,3,1.0,\n1,5,1.5,\n1,6,1.25,\n")
    logged = read_csv_log(path, {"a"})
    assert logged.by_epoch == {"a": {0: 1.0, 1: 1.25}}
    assert logged.last == {"a": 1.25}
    assert logged.keys == {"a", "b"}


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    # The number may be 0.1234, cut off after 0.1.
    logged = read_csv_log(write(tmp_path, "epoch,a\n0,1.0\n1,0.1"), {"a"})
    assert logged.by_epoch == {"a": {0: 1.0}}
    assert logged.unreadable == 1


@pytest.mark.parametrize("row", ["1", "1,2,3", "1,low"])
def test_a_row_that_does_not_fit_the_header_is_counted(tmp_path: Path, row: str) -> None:
    logged = read_csv_log(write(tmp_path, f"epoch,a\n0,1.0\n{row}\n"), {"a"})
    assert logged.by_epoch == {"a": {0: 1.0}}
    assert logged.unreadable == 1


def test_a_value_without_an_epoch_can_be_a_final_value(tmp_path: Path) -> None:
    logged = read_csv_log(write(tmp_path, "step,test_acc\n9,0.75\n"), {"test_acc"})
    assert logged.by_epoch == {}
    assert logged.last == {"test_acc": 0.75}


def test_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    logged = read_csv_log(write(tmp_path, "epoch,a\n0,nan\n1,inf\n"), {"a"})
    assert np.isnan(logged.by_epoch["a"][0])
    assert logged.by_epoch["a"][1] == np.inf


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    assert read_csv_log(write(tmp_path, ""), {"a"}).keys == set()


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "epoch,a,a\n0,1,2\n")
    with pytest.raises(ValueError, match=re.escape("to be unique but got 'a' twice.")):
        read_csv_log(path, {"a"})


def test_blank_lines_are_not_counted_as_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path, "\nepoch,step,a\n\n0,3,1.0\n\n\n1,7,0.5\n\n")
    logged = read_csv_log(path, {"a"})
    assert (logged.by_epoch, logged.unreadable) == ({"a": {0: 1.0, 1: 0.5}}, 0)
