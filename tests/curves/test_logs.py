from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_sotl import EarlyRankingStopper, LearningCurves, SoTLMonitor
from lightning_sotl.curves.logs import LogKeys, read_logs
from tests.support.helpers import loader, scripted_model, trainer
from tests.support.run_folders import (
    csv_rows,
    event_rows,
    write_csv_log,
    write_events,
    write_record,
)

MISSING = (
    "`tensorboard` is needed to read TensorBoard's event files but is not installed. Run: pip "
    'install "lightning-sotl[tensorboard]"'
)
BESIDE = "Did not read the event files beside a record or CSV log in"


def test_records_come_first_and_logs_fill_in_the_rest(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0])
    write_csv_log(tmp_path / "v0", csv_rows([3.1, 2.1], val_acc=[0.5, 0.6]))
    found = read_logs(tmp_path, LogKeys(val_metric="val_acc", final_metric="val_acc"))
    np.testing.assert_array_equal(found.curves.train_loss, [[3.0, 2.0]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.6]])
    np.testing.assert_array_equal(found.curves.final_metric, [0.6])
    assert found.facts[0]["batch_size"] == 8
    assert found.notes.warnings == []


def test_runs_of_different_lengths_and_depths_are_in_natural_order(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "a/version_10", csv_rows([3.0]))
    write_csv_log(tmp_path / "a/version_9", csv_rows([3.0, 2.0]))
    write_events(tmp_path / "b", event_rows([1.0, 0.5, 0.25]))
    curves = LearningCurves.from_logs(tmp_path)
    assert curves.run_ids == ("a/version_9", "a/version_10", "b")
    assert curves.epochs_completed.tolist() == [2, 1, 3]
    np.testing.assert_array_equal(curves.train_loss[1], [3.0, np.nan, np.nan])


def test_a_run_without_the_estimate_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    write_csv_log(tmp_path / "v1", [{"epoch": 0, "train_loss": 2.0}])
    message = (
        "Left out 1 of 2 runs without L(e): 'v1'. L(e) needs a record with a completed epoch, or "
        "'sotl_e1' in the logs; other logged values do not give it exactly."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert LearningCurves.from_logs(tmp_path).run_ids == ("v0",)


def test_if_no_run_has_the_estimate_the_error_lists_the_logged_keys(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", [{"epoch": 0, "train_loss": 2.0}])
    message = (
        "Found no L(e) in 1 run. L(e) needs a record with a completed epoch, or 'sotl_e1' in the "
        "logs; other logged values do not give it exactly. Logged are: 'train_loss'. `train_loss` "
        "(--train-loss) uses one of them as L(e), unchecked."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path)


@pytest.mark.parametrize(
    ("status", "facts", "counts"),
    [("finished", {}, True), ("stopped", {}, False), ("interrupted", {}, False), (None, {}, False)],
)
def test_the_target_counts_only_for_runs_trained_to_the_end(
    tmp_path: Path, status: str | None, facts: dict[str, object], counts: bool
) -> None:
    write_record(tmp_path / "v0", [3.0], status=status)
    write_csv_log(tmp_path / "v0", [{"epoch": 0, "test_acc": 0.5}])
    found = read_logs(tmp_path, LogKeys(final_metric="test_acc"))
    np.testing.assert_array_equal(found.curves.final_metric, [0.5 if counts else np.nan])
    warning = (
        "The 'test_acc' of 1 run does not count because the training was stopped early or is not "
        "finished: 'v0'."
    )
    assert found.notes.warnings == ([] if counts else [warning])


def test_the_folder_of_a_second_logger_joins_its_run(tmp_path: Path) -> None:
    losses = [1 / 3, 0.1]
    write_record(tmp_path / "csv/v0", losses)
    write_events(tmp_path / "tb/v0", event_rows(losses, val_acc=[0.5, 0.75]))
    found = read_logs(tmp_path, LogKeys(val_metric="val_acc"))
    assert found.curves.run_ids == ("csv/v0",)
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.75]])
    assert found.notes.warnings == []
    assert found.notes.remarks == [
        "Joined 1 folder, probably from a second logger, to the run with the same losses in its "
        "record."
    ]


@pytest.mark.parametrize("inner", ["lightning_logs/version_0", "a/b/c"])
def test_logs_inside_the_folder_of_a_record_join_its_run_without_a_note(
    tmp_path: Path, inner: str
) -> None:
    for run in range(2):  # with equal losses, which alone do not show the run of a log
        write_record(tmp_path / f"run_{run}", [1 / 3, 0.1])
        accuracy = [0.5, 0.5 + run / 4]
        write_events(tmp_path / f"run_{run}" / inner, event_rows([1 / 3, 0.1], val_acc=accuracy))
    write_csv_log(tmp_path / "run_1/second", csv_rows([1 / 3], val_acc=[0.5]))
    found = read_logs(tmp_path, LogKeys(val_metric="val_acc"))
    assert found.curves.run_ids == ("run_0", "run_1")
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.5], [0.5, 0.75]])
    assert found.notes.warnings == found.notes.remarks == []


def test_the_values_of_the_process_that_resumed_a_run_count_without_a_note(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0, 1.5], run_id="a", status=None)
    write_csv_log(tmp_path / "v0", csv_rows([3.0, 2.0, 1.5], val_acc=[0.5, 0.6, 0.7]))
    write_record(tmp_path / "v1", [3.0, 2.0, 1.0], run_id="a")
    write_events(tmp_path / "v1", event_rows([2.0], first=1, val_acc=[0.625]), begun=1)
    write_events(tmp_path / "v1", event_rows([2.0, 1.0], first=1, val_acc=[0.625, 0.75]), begun=2)
    found = read_logs(tmp_path, LogKeys(val_metric="val_acc"))
    np.testing.assert_array_equal(found.curves.train_loss, [[3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(found.curves.val_metric, [[0.5, 0.625, 0.75]])
    assert found.notes.remarks == []
    assert [note for note in found.notes.warnings if "resume" in note] == []


def test_a_copy_of_a_record_gives_a_warning_and_a_run_resumed_elsewhere_does_not(
    tmp_path: Path,
) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0], run_id="a", status="stopped")
    write_record(tmp_path / "v1", [3.0, 2.0, 1.0], run_id="a")
    assert read_logs(tmp_path).notes.warnings == []
    shutil.copytree(tmp_path / "v0", tmp_path / "copy")
    assert read_logs(tmp_path).notes.warnings == [
        "The records of 1 run have copies in other folders, which do not count again: 'copy'."
    ]


def test_the_logs_of_a_folder_with_several_runs_are_left_out(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0], run_id="aaaaaaaaaa")
    write_record(tmp_path / "v0", [4.0], run_id="bbbbbbbbbb")
    write_csv_log(tmp_path / "v0", csv_rows([4.0], val_acc=[0.5]))
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("v0@aaaaaaaa", "v0@bbbbbbbb")
    assert found.notes.warnings == [
        "'v0' holds 2 runs; its logs cannot be distinguished, so only the records count."
    ]


def test_a_folder_with_several_runs_and_no_logs_gives_no_warning(tmp_path: Path) -> None:
    for run_id in (
        "aaaaaaaaaa",
        "bbbbbbbbbb",
    ):  # two runs with the same `SoTLMonitor(directory=...)`
        write_record(tmp_path / "v0", [3.0], run_id=run_id)
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("v0@aaaaaaaa", "v0@bbbbbbbb")
    assert found.notes.warnings == []


def test_runs_in_one_folder_with_similar_ids_have_different_names(tmp_path: Path) -> None:
    for name in ("trial-no-1", "trial-no-2", "another-one"):
        write_record(tmp_path / "v0", [3.0], run_id=name)
    names = {"v0@another-", "v0@trial-no-1", "v0@trial-no-2"}
    assert set(read_logs(tmp_path).curves.names) == names


def test_a_diverged_epoch_is_infinite_and_a_missing_one_is_nan(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, float("nan")])
    write_csv_log(tmp_path / "v1", csv_rows([2.5, float("nan")]))
    write_csv_log(tmp_path / "v2", csv_rows([3.0, 2.0, 1.0])[1:])
    found = read_logs(tmp_path)
    np.testing.assert_array_equal(
        found.curves.train_loss, [[3.0, np.inf, np.nan], [2.5, np.inf, np.nan], [np.nan, 2.0, 1.0]]
    )
    assert found.notes.warnings[0].startswith(
        "L(e) is missing for some epochs of 1 run, because no step returned a loss or a resumed "
    )


def test_blocks_are_read_only_from_records_with_that_block_size(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0], unit=7)
    write_record(tmp_path / "v1", [3.0, 2.0], unit="epoch")
    found = read_logs(tmp_path, LogKeys(block=7))
    assert found.curves.run_ids == ("v0",)
    assert found.notes.warnings == [
        "Left out 1 of 2 runs without L(e): 'v1'. L(e) needs a record with a completed block of 7 "
        "batches."
    ]


OTHER_UNIT = (
    "L(e) needs a record with a completed {}. The records have L(e) of {}; pass a name as "
    "`monitor` (--monitor), or its block size as `block`."
)


def test_an_error_names_the_blocks_that_the_records_have(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0], unit=7)
    write_record(tmp_path / "v1", [3.0, 2.0], unit=7)
    needed = "epoch, or 'sotl_e1' in the logs; other logged values do not give it exactly"
    expected = OTHER_UNIT.format(needed, "'sotl_b7_e1'")
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_logs(tmp_path)
    with pytest.raises(
        ValueError, match=re.escape(OTHER_UNIT.format("block of 5 batches", "'sotl_b7_e1'"))
    ):
        read_logs(tmp_path, LogKeys(block=5))
    write_record(tmp_path / "v2", [3.0, 2.0])
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("v2",)
    assert found.notes.warnings == [f"Left out 2 of 3 runs without L(e): 'v0', 'v1'. {expected}"]


def test_logs_by_epoch_give_no_values_of_blocks(tmp_path: Path) -> None:
    """Three blocks in two epochs: the logs have the last block of each epoch."""
    rows = [
        {"epoch": epoch, "step": step, "sotl_b7_e1": loss, "val_acc": 0.9, "test_acc": ""}
        for epoch, step, loss in [(0, 6, 3.0), (0, 13, 2.0), (1, 20, 1.0)]
    ]
    rows.append({"epoch": 2, "step": 21, "sotl_b7_e1": "", "val_acc": "", "test_acc": 0.5})
    write_record(tmp_path / "v0", [3.0, 2.0, 1.5], unit=7)
    write_csv_log(tmp_path / "v1", rows)
    keys = LogKeys(block=7, final_metric="test_acc", others=("sotl_b7_e1",))
    found = read_logs(tmp_path, keys, instead="sotl_b7_e1")
    assert found.curves.run_ids == ("v0",)
    assert found.notes.warnings[0].startswith("Left out 1 of 2 runs without L(e): 'v1'. ")
    # Beside the record of the same run, the logs still have its target.
    write_record(tmp_path / "v1", [3.0, 2.0, 1.0], unit=7)
    found = read_logs(tmp_path, keys)
    np.testing.assert_array_equal(found.curves.train_loss, [[3.0, 2.0, 1.5], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(found.curves.final_metric, [np.nan, 0.5])
    assert found.notes.remarks == []
    with pytest.raises(ValueError, match=r"^Found no 'val_acc' in the records of 2 runs\."):
        read_logs(tmp_path, LogKeys(block=7, val_metric="val_acc"))


def test_logs_of_blocks_in_another_folder_are_joined_to_their_record(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0, 1.5], unit=7)
    write_record(tmp_path / "v1", [3.0, 2.0, 1.0], unit=7)
    rows: list[dict[str, object]] = [
        {"epoch": epoch, "step": 7 * block + 6, "sotl_b7_e1": loss, "test_acc": 0.5}
        for block, (epoch, loss) in enumerate([(0, 3.0), (0, 2.0), (1, 1.0)])
    ]
    write_csv_log(tmp_path / "v1" / "logs", rows)
    found = read_logs(tmp_path, LogKeys(block=7, final_metric="test_acc"))
    assert found.curves.run_ids == ("v0", "v1")
    np.testing.assert_array_equal(found.curves.final_metric, [np.nan, 0.5])
    assert found.notes.warnings == []


@pytest.mark.parametrize("kind", ["csv", "record", "events"])
def test_unreadable_parts_are_counted_and_named(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "v0"
    if kind == "csv":
        write_csv_log(folder, csv_rows([3.0]))
        with (folder / "metrics.csv").open("a") as file:
            file.write("1,2")
    elif kind == "record":
        write_record(folder, [3.0], status=None)
        with (folder / "sotl.jsonl").open("a") as file:
            file.write('{"e": 1, "lo')
    else:
        path = write_events(folder, event_rows([3.0, 2.0]))
        path.write_bytes(path.read_bytes()[:-60])
    found = read_logs(tmp_path)
    assert found.curves.train_loss[0, 0] == 3.0
    assert len(found.notes.warnings) == 1
    assert re.fullmatch(
        r"Left out 1 line or event of 'v0.*' that could not be read\.", found.notes.warnings[0]
    )


def test_the_error_about_a_directory_without_runs_names_the_expected_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    message = (
        f"Expected '{tmp_path}' to hold runs, in files 'sotl.jsonl', 'metrics.csv' or "
        "'events.out.tfevents.*', but found none in its 2 folders."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path)


def test_a_path_that_is_not_a_directory_is_named(tmp_path: Path) -> None:
    message = f"Expected a directory of runs but there is no '{tmp_path / 'none'}'."
    with pytest.raises(NotADirectoryError, match=f"^{re.escape(message)}$"):
        LearningCurves.from_logs(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="to be a directory, or a record or log"):
        LearningCurves.from_logs(tmp_path / "file")


def test_a_single_run_is_named_after_its_folder(tmp_path: Path) -> None:
    write_record(tmp_path / "v0", [3.0])
    assert LearningCurves.from_logs(tmp_path / "v0").run_ids == ("v0",)


def test_progress_counts_folders(tmp_path: Path) -> None:
    for number in range(3):
        write_record(tmp_path / f"v{number}", [3.0 + number])
    seen: list[tuple[int, int]] = []
    read_logs(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_real_runs_give_the_live_losses(tmp_path: Path, logger: str) -> None:
    pytest.importorskip("tensorboard")
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    kind = CSVLogger if logger == "csv" else TensorBoardLogger
    live = []
    for run in range(3):
        monitor = SoTLMonitor(record=run > 0)  # the first can only be read from its logs
        model = scripted_model(
            loss=lambda epoch, batch, run=run: 3.0 / (epoch + 1 + run) + batch / 8, val=True
        )
        trainer(
            tmp_path,
            logger=kind(tmp_path / "logs", name="sweep"),
            callbacks=[monitor, EarlyRankingStopper(stop_epoch=2)],
        ).fit(model, loader(3))
        live.append(list(monitor.epoch_losses.values()))
    found = read_logs(tmp_path / "logs", LogKeys(val_loss="val_loss"))
    assert found.curves.run_ids == tuple(f"sweep/version_{run}" for run in range(3))
    np.testing.assert_array_equal(found.curves.train_loss[1:], live[1:])
    np.testing.assert_allclose(found.curves.train_loss[0], live[0], rtol=1e-7)
    np.testing.assert_array_equal(found.curves.val_loss, np.full((3, 2), 0.5))
    assert found.stopped_at == (None, 2, 2)


def test_a_record_is_read_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0])
    write_events(tmp_path / "v0", event_rows([3.0, 2.0]))
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    found = read_logs(tmp_path)
    np.testing.assert_array_equal(found.curves.train_loss, [[3.0, 2.0]])
    assert found.notes.warnings == [f"{BESIDE} 1 folder. {MISSING}"]
    (tmp_path / "v0" / "sotl.jsonl").unlink()
    with pytest.raises(ModuleNotFoundError, match=r'"lightning-sotl\[tensorboard\]"$'):
        read_logs(tmp_path)


def test_folders_with_event_files_only_are_left_out_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "v0", [3.0, 2.0])
    write_csv_log(tmp_path / "v1", csv_rows([2.5, 1.5]))
    for run in range(4):
        write_events(tmp_path / f"v{run}", event_rows([3.0, 2.0]))
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    found = read_logs(tmp_path)
    assert found.curves.run_ids == ("v0", "v1")
    assert found.notes.left_out == [
        f"Left out 2 folders with event files only: 'v2', 'v3'. {MISSING}"
    ]
    assert found.notes.cautions == [f"{BESIDE} 2 folders. {MISSING}"]
    with pytest.warns(UserWarning, match=r"\[tensorboard\]") as caught:
        LearningCurves.from_logs(tmp_path)
    assert [str(entry.message) for entry in caught] == found.notes.warnings


def test_a_run_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    write_csv_log(tmp_path / "v1", csv_rows([3.0]))
    (tmp_path / "v1/metrics.csv").write_text("epoch,sotl_e1,sotl_e1\n0,1,2\n")
    (note,) = read_logs(tmp_path).notes.warnings
    assert note.startswith("Left out files that cannot be read in 'v1': Expected the columns of '")


def test_the_last_values_of_a_shorter_run_without_a_record_count_with_a_warning(
    tmp_path: Path,
) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0, 2.0], acc=[0.5, 0.6]))
    write_csv_log(tmp_path / "v1", csv_rows([3.0], acc=[0.5]))
    found = read_logs(tmp_path, LogKeys(final_metric="acc"))
    np.testing.assert_array_equal(found.curves.final_metric, [0.6, 0.5])
    assert found.notes.warnings == [
        "The last values of 1 run without a record count as final, although other runs trained "
        "longer; logs do not show whether a run was trained to the end: 'v1'."
    ]


def test_a_link_to_a_run_does_not_count_it_twice(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    (tmp_path / "latest").symlink_to(tmp_path / "v0", target_is_directory=True)
    assert LearningCurves.from_logs(tmp_path).run_ids == ("v0",)


def test_several_unreadable_lines_are_counted_in_the_plural(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    with (tmp_path / "v0/metrics.csv").open("a") as file:
        file.write("1\n2\n")
    note = "Left out 2 lines or events of 'v0' that could not be read."
    assert read_logs(tmp_path).notes.left_out == [note]


@pytest.mark.parametrize("name", ["metrics.csv", "events.out.tfevents.1.host.1.0", "sotl.jsonl"])
def test_a_git_lfs_pointer_is_named_as_the_cause(tmp_path: Path, name: str) -> None:
    write_csv_log(tmp_path / "v0", csv_rows([3.0]))
    (tmp_path / "v1").mkdir()
    path = tmp_path / "v1" / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 1234\n")
    message = (
        f"'v1': Expected '{path}' to be the file itself but it is a Git LFS pointer; `git lfs "
        "pull` fetches the file."
    )
    assert f"Left out files that cannot be read in {message}" in read_logs(tmp_path).notes.left_out
    with pytest.raises(ValueError, match=re.escape(message)):
        read_logs(tmp_path / "v1")


@pytest.mark.parametrize(
    "written",
    [
        r"C:\runs\v0\checkpoints\stopped-epoch=3.ckpt",
        r"\\server\runs\v0\checkpoints\stopped-epoch=3.ckpt",
        r"C:\runs\v0\checkpoints/stopped-epoch=3.ckpt",
        "C:/runs/v0/checkpoints/stopped-epoch=3.ckpt",
        "/gone/runs/v0/checkpoints/stopped-epoch=3.ckpt",
        "/gone/runs/v0/stopped-epoch=3.ckpt",
    ],
)
@pytest.mark.parametrize("place", ["checkpoints", "."])
def test_a_checkpoint_that_was_moved_with_its_run_is_found(tmp_path, written, place):
    now = tmp_path / "v0" / place / "stopped-epoch=3.ckpt"
    now.parent.mkdir(parents=True)
    now.touch()
    write_record(tmp_path / "v0", [2.0, 1.0], checkpoint=written)
    assert LearningCurves.from_logs(tmp_path).checkpoints == (str(now),)


@pytest.mark.parametrize(
    "written", [r"C:\runs\v0\checkpoints\a.ckpt", "s3://bucket/v0/a.ckpt", ".."]
)
def test_a_checkpoint_that_is_not_found_keeps_the_path_in_the_record(tmp_path, written):
    write_record(tmp_path / "v0", [2.0, 1.0], checkpoint=written)
    assert LearningCurves.from_logs(tmp_path).checkpoints == (written,)
