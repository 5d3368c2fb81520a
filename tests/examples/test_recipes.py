"""The recipes in examples/recipes, run with the real tools."""

import json
import logging
import re
import runpy
import struct
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.helpers import PACKAGES
from tests.support.hparams_tab import hparams_tab
from tests.support.paths import EXAMPLES

RECIPES = EXAMPLES / "recipes"
pytestmark = [
    # Lightning's advice does not apply to a run of three epochs.
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than"),
]


@pytest.fixture(autouse=True)
def process(monkeypatch, tmp_path):
    """Run each recipe in an empty folder, and restore the global state of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that monkeypatch restores what the recipe sets
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    sys.modules.pop("digits_model", None)
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers[:], root.level
    yield
    torch.set_num_threads(threads)
    sys.modules.pop("digits_model", None)
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def run(monkeypatch, script, *arguments):
    """Run `python script arguments` in this process."""
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")


def stopped_at(folder, epochs):
    """Return L(e) of the only run below a folder, which stopped after `epochs` of 30."""
    (record,) = folder.rglob("sotl.jsonl")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert lines[0]["max_epochs"] == 30
    (status,) = [line for line in lines if "status" in line]
    assert (status["reason"], status["epochs"]) == ("stop_epoch_reached", epochs)
    losses = {line["e"]: line["loss"] for line in lines if "e" in line}
    assert list(losses) == list(range(epochs))
    assert losses[epochs - 1] == status["estimate"]
    assert Path(lines[-1]["checkpoint"]).is_file()
    return list(losses.values())


# --- LightningCLI


# Lightning's own use of jsonargparse.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*(Jsonargparse|in v4):DeprecationWarning")
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("how", ["arguments", "config file"])
def test_the_command_line_reads_callbacks_by_class_path(monkeypatch, tmp_path, package, how):
    for name in ("lightning_cli.py", "lightning_cli.yaml", "digits_model.py"):
        text = (RECIPES / name).read_text()
        if package == "lightning.pytorch":  # the change described in the docstring
            text = text.replace("from pytorch_lightning", "from lightning.pytorch")
            text = text.replace("lightning_sotl.", "lightning_sotl.lightning.")
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    script = tmp_path / "lightning_cli.py"
    if how == "config file":
        arguments = ["fit", "--config", "lightning_cli.yaml"]
    else:
        command = re.search(r"lightning_cli\.py (fit --trainer.*?)\n\n", script.read_text(), re.S)
        arguments = command[1].replace("\\\n", " ").split()
    run(monkeypatch, script, *arguments, "--trainer.enable_progress_bar=false")
    losses = stopped_at(tmp_path / "lightning_logs", 3)
    if how == "config file":
        ((hparams, value),) = hparams_tab(tmp_path / "lightning_logs").values()
        assert hparams["width"] == 64
        assert value == pytest.approx(losses[-1], rel=1e-7)  # TensorBoard keeps float32


# --- Hydra


def test_hydra_jobs_return_their_estimates(monkeypatch, tmp_path):
    script = RECIPES / "hydra_multirun.py"
    run(monkeypatch, script, "--multirun", "width=4,64", "hydra.sweep.dir=sweep")
    for job, width in enumerate((4, 64)):
        folder = tmp_path / "sweep" / str(job)
        (returned,) = re.findall(
            r"return value: (\S+)", (folder / "hydra_multirun.log").read_text()
        )
        assert float(returned) == stopped_at(folder, 3)[-1]
        (hparams,) = folder.rglob("hparams.yaml")
        assert yaml.safe_load(hparams.read_text())["width"] == width


# --- W&B


def history(path):
    """Return the rows of the history in an offline run's file.

    The file is a LevelDB log of protobuf records. After a header of 7 bytes, it has blocks of 32
    KiB with pieces. Each piece has a checksum, a length, and a kind: whole, first, middle or last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, piece, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # too short for a header, so padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        piece += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole or last
            record, piece = Record.FromString(piece), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
    return rows


def test_a_wandb_trial_has_the_estimate_once_per_epoch(monkeypatch, tmp_path):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = yaml.safe_load((RECIPES / "wandb_sweep.yaml").read_text())
    assert sweep["metric"] == {"name": "sotl_e1", "goal": "minimize"}
    values = {
        name: (options.get("values") or [options["min"]])[0]
        for name, options in sweep["parameters"].items()
    }
    # W&B's agent starts a trial with these arguments.
    arguments = [f"--{name}={value}" for name, value in values.items()]
    run(monkeypatch, RECIPES / sweep["program"], *arguments)
    wandb.teardown()
    losses = stopped_at(tmp_path / "lightning-sotl", 3)
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows = [row for row in history(path) if "sotl_e1" in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["sotl_e1"] for row in rows] == pytest.approx(losses, rel=1e-12)


# --- MLflow


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_mlflow_runs_are_finished_and_ranked(monkeypatch, tmp_path, capsys):
    import mlflow  # imported after its switches are set

    run(monkeypatch, RECIPES / "mlflow_runs.py")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("width")]
    estimates = [float(re.fullmatch(r"width \d+: (\S+), FINISHED", line)[1]) for line in lines]
    assert estimates == sorted(estimates)
    runs = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    runs.sort(key=lambda run: run.data.metrics["sotl_e1"])
    assert len(runs) == 3
    for run_, estimate in zip(runs, estimates, strict=True):
        points = mlflow.MlflowClient().get_metric_history(run_.info.run_id, "sotl_e1")
        state = torch.load(run_.data.tags["checkpoint"], weights_only=True)["callbacks"]
        (monitor,) = [state[name] for name in state if "SoTLMonitor" in name]
        losses = [total / steps for total, steps in monitor["history"]["units"].values()]
        assert [point.value for point in points] == pytest.approx(losses, rel=1e-12)
        assert losses[-1] == pytest.approx(estimate, abs=0.005)


# --- Syne Tune


def test_syne_tune_reads_each_epoch_once(monkeypatch, tmp_path, capsys):
    from syne_tune.report import retrieve

    run(monkeypatch, RECIPES / "syne_tune_sweep.py", "--width", "4")
    lines = capsys.readouterr().out.splitlines()
    reports = retrieve(lines)
    assert [report["epoch"] for report in reports] == list(range(1, 9))
    assert [report["sotl_e1"] for report in reports] == stopped_at(tmp_path, 8)
