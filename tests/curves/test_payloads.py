"""No reader runs code in a file: each format holds a payload that leaves a mark if it runs."""

from __future__ import annotations

import ast
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_sotl import EarlyRankingStopper, LearningCurves, SoTLMonitor, find_winners
from lightning_sotl.cli import main
from lightning_sotl.curves.frames import TableColumns
from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.curves.table_files import read_table_file
from tests.support.helpers import IS_LIGHTNING_2_5, IS_TORCH_2_5, loader, scripted_model, trainer
from tests.support.pages import README, blocks, name_of, pages
from tests.support.run_folders import (
    csv_rows,
    event_rows,
    write_csv_log,
    write_events,
    write_record,
)


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "the payload ran"


def test_the_payloads_would_run(mark: Path) -> None:
    pickle.loads(pickle.dumps(Payload(mark)))  # noqa: S301  # our own
    assert mark.exists()
    mark.unlink()
    yaml.unsafe_load(tagged(mark))
    assert mark.exists()


def tagged(mark: Path) -> str:
    return f"!!python/object/apply:builtins.exec [{json.dumps(Payload(mark).code)}]\n"


def test_reading_a_directory_of_runs_runs_no_code_in_it(
    tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    code = Payload(mark).code
    for place, name in enumerate(("a", "b", "c")):
        folder = runs / name
        losses, acc = [2.0 + place, 1.0 + place], [0.1, 0.9 - place / 10]
        checkpoint = folder / "checkpoints" / "x.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(pickle.dumps({"state_dict": Payload(mark)}))
        hparams = {"__reduce__": ["builtins.exec", code], "py/object": "os.system", "run": place}
        write_record(folder, losses, hparams=hparams, checkpoint=str(checkpoint))
        write_csv_log(folder, csv_rows(losses, acc=acc, **{f"=cmd|' /C {code}'!A0": acc}))
        write_events(folder, event_rows(losses, **{code: acc}))
        (folder / "hparams.yaml").write_text(tagged(mark))
        (folder / "conftest.py").write_text(code)
        (folder / "sotl.pkl").write_bytes(pickle.dumps(Payload(mark)))
    for command in (["rank"], ["rank", "--group-by", "hparams.py/object"], ["evaluate"]):
        target = ["--target", "acc"] if command == ["evaluate"] else []
        assert main([command[0], str(runs), *command[1:], *target]) == 0
    LearningCurves.from_logs(runs, final_metric="acc")
    winners = find_winners(runs, 1)
    assert winners[0].params["__reduce__"] == ["builtins.exec", code]
    assert not mark.exists()
    capsys.readouterr()


def test_reading_a_table_runs_no_code_in_it(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "x.npz"
    objects = np.array([[Payload(mark)]], dtype=object)
    np.savez(path, train_loss=objects)
    with pytest.raises(ValueError, match="cannot be read without pickle"):
        LearningCurves.load(path)
    np.savez(path, train_loss=np.ones((1, 1)), run_ids=objects[0])
    assert main(["rank", str(path)]) == 1
    header = f"{{'descr': __import__('builtins').exec({Payload(mark).code!r}), 'shape': (1,), }}\n"
    code = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    for content in (pickle.dumps(Payload(mark)), code):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train_loss.npy", content)
        with pytest.raises(ValueError, match="cannot be read without pickle"):
            LearningCurves.load(path)
    path.write_bytes(pickle.dumps(Payload(mark)))
    assert main(["evaluate", str(path)]) == 1
    assert not mark.exists()


def test_the_documents_of_a_benchmark_are_read_as_text(tmp_path: Path, mark: Path) -> None:
    losses = {name: [1.0] for name in ("train_losses", "val_losses", "test_losses")}
    keys = {"__reduce__": ["builtins.exec", Payload(mark).code], "status": "OK"}
    for folder in (tmp_path / "zip", tmp_path / "folder"):
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps({**losses, **keys}))
        (folder / "b.json").write_bytes(pickle.dumps(Payload(mark)))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in (tmp_path / "zip").iterdir():
            archive.write(file, file.name)
    for path in (tmp_path / "folder", tmp_path / "x.zip"):
        assert read_nas_bench_nlp(path)[0].run_ids == ("a",)
    assert not mark.exists()


def test_a_formula_in_a_csv_is_read_as_text(tmp_path: Path, mark: Path) -> None:
    formula = f"=cmd|' /C {Payload(mark).code}'!A0"
    path = tmp_path / "x.csv"
    path.write_text(f'run,epoch,train_loss\n"{formula}",0,1\n')
    assert read_table_file(path, TableColumns()).curves.run_ids == (formula,)
    path.write_text(f'run,epoch,train_loss\na,0,"{formula}"\n')
    with pytest.raises(ValueError, match=r"but run 'a' has .* in line 2\.$"):
        read_table_file(path, TableColumns())
    assert not mark.exists()


def test_a_pickled_type_in_a_parquet_file_is_not_unpickled(tmp_path: Path, mark: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    payload = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    fields = [
        pa.field("run", pa.string(), metadata=payload),
        pa.field("epoch", pa.int64(), metadata=payload),
        pa.field("train_loss", pa.float64(), metadata=payload),
    ]
    columns = [pa.array(["a"]), pa.array([0]), pa.array([1.0])]
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table(columns, schema=pa.schema(fields)), path)
    if hasattr(pa, "PyExtensionType"):  # until PyArrow 20, which refuses the file
        with pytest.raises(ValueError, match="pickle-based deserialization"):
            read_table_file(path, TableColumns())
    else:
        curves = read_table_file(path, TableColumns()).curves
        assert (curves.run_ids, curves.train_loss.tolist()) == (("a",), [[1.0]])
    assert not mark.exists()


def test_the_checkpoint_of_a_winner_is_not_unpickled(tmp_path: Path, mark: Path) -> None:
    checkpoint = tmp_path / "a" / "x.ckpt"
    write_record(tmp_path / "a", [1.0], checkpoint=str(checkpoint))
    torch.save({"state_dict": Payload(mark)}, checkpoint)
    (winner,) = find_winners(tmp_path, 1)
    fit = trainer(tmp_path, callbacks=[SoTLMonitor(), EarlyRankingStopper(2, promoted=True)])
    name = "builtins.exec" if IS_TORCH_2_5 else "exec"
    for method, call in (
        ("fit", lambda: winner.fit(fit, scripted_model(), loader(4))),
        ("load", lambda: winner.load(type(scripted_model()))),
    ):
        message = (
            "Expected the checkpoint of run 'a' to hold only tensors and plain values but got "
            f"{name}, which needs pickle. If you trust the source of '{checkpoint}', call `winner."
            f"{method}(..., weights_only=False)`. Loading it then runs any code in the file."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    assert not mark.exists()


def test_a_remote_checkpoint_of_a_winner_is_loaded_with_weights_only(tmp_path: Path) -> None:
    """By default, Lightning loads a remote checkpoint with pickle."""
    write_record(tmp_path / "a", [1.0], checkpoint="https://example.invalid/x.ckpt")
    (winner,) = find_winners(tmp_path, 1)
    fit = trainer(tmp_path, callbacks=[SoTLMonitor(), EarlyRankingStopper(2, promoted=True)])
    passed: dict[str, Any] = {}
    fit.fit = lambda model, *args, **kwargs: passed.update(kwargs)
    if IS_LIGHTNING_2_5:  # it would always load it with pickle
        with pytest.raises(ValueError, match=r"^Expected `fit` of Trainer to accept"):
            winner.fit(fit, scripted_model())
        assert passed == {}
        return
    winner.fit(fit, scripted_model())
    assert passed == {"ckpt_path": "https://example.invalid/x.ckpt", "weights_only": True}
    winner.fit(fit, scripted_model(), weights_only=False)
    assert passed["weights_only"] is False


def test_code_in_the_docs_and_examples_loads_checkpoints_with_weights_only() -> None:
    texts = {
        f"{name_of(page)}:{block.line}": block.text
        for page in pages()
        for block in blocks(page)
        if block.language == "python"
    }
    for path in (README.parent / "examples").rglob("*.py"):
        texts[str(path)] = path.read_text()
    loading = [
        (name, {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for name, text in texts.items()
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call)
        and (
            ast.unparse(call.func).endswith((".load_from_checkpoint", "torch.load"))
            or (
                ast.unparse(call.func).endswith((".fit", ".test", ".validate", ".predict"))
                and any(keyword.arg == "ckpt_path" for keyword in call.keywords)
            )
        )
    ]
    assert len(loading) >= 7
    assert [name for name, given in loading if given.get("weights_only") != "True"] == []
