from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.support.run_folders import event_rows, write_events

pytest.importorskip("tensorboard")

from lightning_sotl.curves._tensorboard import read_event_files


def test_values_have_the_epoch_that_was_logged_with_them(tmp_path: Path) -> None:
    path = write_events(tmp_path, event_rows([2.0, 1.0], val_loss=[2.5, 1.5]))
    logged = read_event_files([path], {"sotl_e1"})
    assert logged.by_epoch == {"sotl_e1": {0: 2.0, 1: 1.0}}
    assert logged.keys == {"sotl_e1", "val_loss"}
    assert logged.unreadable == 0


def test_all_of_many_points_are_read(tmp_path: Path) -> None:
    losses = [float(np.float32(1 / (1 + epoch))) for epoch in range(12_000)]
    logged = read_event_files([write_events(tmp_path, event_rows(losses))], {"sotl_e1"})
    assert list(logged.by_epoch["sotl_e1"].values()) == losses


def test_a_resumed_run_replaces_the_values_that_it_logs_again(tmp_path: Path) -> None:
    old = write_events(tmp_path, event_rows([4.0, 3.0, 2.0]), begun=99)
    new = write_events(tmp_path, event_rows([3.5], first=1), begun=100)
    logged = read_event_files([new, old], {"sotl_e1"})
    assert logged.by_epoch == {"sotl_e1": {0: 4.0, 1: 3.5}}


def test_a_resumed_run_keeps_the_values_that_it_does_not_log_again(tmp_path: Path) -> None:
    old = write_events(tmp_path, event_rows([4.0, 3.0]), begun=1)
    new = write_events(tmp_path, event_rows([2.0], first=2), begun=2)
    logged = read_event_files([old, new], {"sotl_e1"})
    assert logged.by_epoch == {"sotl_e1": {0: 4.0, 1: 3.0, 2: 2.0}}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_truncated_file_is_read_up_to_the_cut(tmp_path: Path, cut: int) -> None:
    path = write_events(tmp_path, event_rows([4.0, 3.0]))
    path.write_bytes(path.read_bytes()[:-cut])
    logged = read_event_files([path], {"sotl_e1"})
    assert logged.by_epoch["sotl_e1"][0] == 4.0
    assert logged.unreadable == 1


def test_a_damaged_value_is_left_out(tmp_path: Path) -> None:
    path = write_events(tmp_path, event_rows([4.0, 3.0]))
    content = bytearray(path.read_bytes())
    at = content.index(np.float32(3.0).tobytes())
    content[at + 3] ^= 1
    path.write_bytes(bytes(content))
    logged = read_event_files([path], {"sotl_e1"})
    assert logged.by_epoch == {"sotl_e1": {0: 4.0}}
    assert logged.unreadable == 1


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(b"")
    assert read_event_files([path], {"sotl_e1"}).keys == set()


def test_both_styles_of_torchs_writer_are_read(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from protobuf and NumPy
        writer = tensorboard.SummaryWriter(tmp_path)
        for new_style in (False, True):
            writer.add_scalar(f"a_{new_style}", 0.5, 7, new_style=new_style)
        writer.add_scalar("epoch", 3, 7)
        writer.close()
    logged = read_event_files(list(tmp_path.iterdir()), {"a_False", "a_True"})
    assert logged.by_epoch == {"a_False": {3: 0.5}, "a_True": {3: 0.5}}


def test_files_of_one_second_are_read_in_the_order_of_their_count(tmp_path: Path) -> None:
    paths = []
    for count in (9, 10):
        path = write_events(tmp_path, event_rows([float(count)], first=1))
        paths.append(path.rename(tmp_path / f"events.out.tfevents.1.host.1.{count}"))
    assert read_event_files(paths, {"sotl_e1"}).by_epoch == {"sotl_e1": {1: 10.0}}
