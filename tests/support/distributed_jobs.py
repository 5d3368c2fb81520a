"""Runs in 2 gloo processes. test_distributed.py starts this module as a script.

    python -m tests.support.distributed_jobs ddp|spawn FOLDER

Each rank writes its results into FOLDER/rank-<r>.json. The parent of spawned ranks writes them into
FOLDER/parent.json.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations.optuna import OptunaReporter
from lightning_sotl.record.writer import RunRecord
from tests.support.helpers import Batches, StatefulLoader, trainer


def rank_loss(rank: int, epoch: int, batch: int) -> float:
    """Return a loss that no binary fraction represents, so that a rounding error is visible."""
    return 3.0 / (epoch + 1) + 0.1 * ((5 * epoch + 3 * batch + 7 * rank) % 11)


class SaveOnException(pl.Callback):
    """Saves when an exception ends the run, as a ModelCheckpoint can since Lightning 2.5.3."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


class RankModel(pl.LightningModule):
    """Returns `rank_loss`, plus noise if requested, and stores each returned loss."""

    def __init__(self, *, noise: float = 0.0, diverges: bool = False, fails_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.noise, self.diverges, self.fails_at = noise, diverges, fails_at
        self.returned: list[tuple[int, int, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == self.fails_at:
            raise ZeroDivisionError("mine")
        epoch, rank = self.trainer.current_epoch, self.global_rank
        value = rank_loss(rank, epoch, batch_idx) + self.noise * float(torch.rand(()))
        if self.diverges and (rank, epoch) == (1, 1):
            value = math.nan
        loss = self.weight * 0 + torch.tensor(value, dtype=torch.float32)
        self.returned.append((epoch, batch_idx, float(loss.detach())))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAtStep(pl.Callback):
    """Saves a checkpoint after the given steps, before the monitor's hook."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"step-{trainer.global_step}.ckpt")


class ReadOnRankZero(pl.Callback):
    """Reads the metrics on rank 0 only, as a progress reporter would."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.read = float(trainer.callback_metrics["sotl_e1"])


def run(
    folder: Path,
    *callbacks: Any,
    model: RankModel | None = None,
    monitor: SoTLMonitor | None = None,
    checkpoint: str | Path | None = None,
    data: Any = None,
    strategy: str = "ddp",
    **options: Any,
) -> dict[str, Any]:
    """Fit on 2 ranks and return the results of this rank."""
    model, monitor = model or RankModel(), monitor or SoTLMonitor(window=(1, 2))
    fit = trainer(
        folder,
        callbacks=[*callbacks, monitor],
        strategy=strategy,
        devices=2,
        enable_checkpointing=True,
        **options,
    )
    fit.fit(model, data or DataLoader(Batches(8), batch_size=1), ckpt_path=checkpoint)
    stoppers = [cb for cb in callbacks if isinstance(cb, EarlyRankingStopper)]
    return {
        "returned": model.returned,
        "losses": list(monitor.epoch_losses.items()),
        "estimates": monitor.estimates,
        "metrics": {name: float(v) for name, v in fit.callback_metrics.items()},
        "stopper": [
            (cb.estimate, cb.epochs_completed, str(cb.stopping_reason), cb.checkpoint_path)
            for cb in stoppers
        ],
    }


def ddp_jobs(folder: Path) -> dict[str, Any]:
    """Run all jobs, one after another, in the same 2 processes."""
    jobs: dict[str, Any] = {}
    logger = pl.loggers.CSVLogger(folder, version=0)
    stopper = EarlyRankingStopper(stop_epoch=3)
    jobs["plain"] = run(
        folder,
        ReadOnRankZero(),
        SaveAtStep(folder, (2, 4, 6)),
        stopper,
        max_epochs=5,
        logger=logger,
    )
    for step in (2, 4, 6):
        path = folder / f"step-{step}.ckpt"
        jobs[f"resumed at {step}"] = run(folder, checkpoint=path)
    jobs["from one rank"] = run(folder, checkpoint=folder / "one-rank.ckpt")
    jobs["accumulation"] = run(folder, accumulate_grad_batches=2)
    jobs["diverged"] = run(
        folder, EarlyRankingStopper(stop_epoch=2), model=RankModel(diverges=True), max_epochs=5
    )
    blocks = EarlyRankingStopper(stop_batches=6, monitor="sotl_b3_e1")
    jobs["blocks"] = run(folder, blocks, monitor=SoTLMonitor(every_n_train_batches=3))
    jobs["stopped"], jobs["promoted"], jobs["whole"] = promoted_jobs(folder)
    jobs["pruned"] = pruned_job(folder)
    jobs["by policy"] = policy_job(folder)
    shown = EarlyRankingStopper(stop_epoch=2, hp_metric=True)
    jobs["hp_metric"] = run(
        folder, shown, logger=pl.loggers.TensorBoardLogger(folder, version="hp")
    )
    try:
        run(folder, SaveOnException(folder / "raised.ckpt"), model=RankModel(fails_at=6))
    except ZeroDivisionError:
        jobs["raised"] = [path.name for path in folder.glob("raised*.ckpt")]
    return jobs


def pruned_job(folder: Path) -> dict[str, Any]:
    """Report from rank 0 to a study in SQLite. Its pruner ends the run at the second report."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial = None
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        pruner = optuna.pruners.ThresholdPruner(lower=9.0, n_warmup_steps=1)
        study = optuna.create_study(storage=f"sqlite:///{folder}/study.db", pruner=pruner)
        trial = study.ask()
    reporter = OptunaReporter(trial)
    result = run(folder, reporter, max_epochs=6)
    try:
        result["finish"] = reporter.finish()
    except optuna.TrialPruned as pruned:
        result["finish"] = str(pruned)
    if trial is not None:
        result["stored"] = list(study.trials[0].intermediate_values.items())
    return result


def policy_job(folder: Path) -> dict[str, Any]:
    """Train a run that its policy stops, since the directory has the record of a better run."""
    sweep = folder / "policy"
    rival = RunRecord(sweep / "rival" / "sotl.jsonl")
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        rival.header("rival", unit="epoch")
        for epoch in range(6):
            rival.unit(epoch, 0.0, 8)
    policy = AdaptivePolicy(max_epochs=6, keep=0.3, first=2)
    stopper = EarlyRankingStopper(policy=policy, directory=sweep)
    return run(folder, stopper, max_epochs=6, logger=pl.loggers.CSVLogger(sweep))


def promoted_jobs(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a stopped run, its promotion, and an uninterrupted run. Each rank draws its noise."""

    def noisy(*callbacks: Any, seed: int = 0, checkpoint: str | None = None) -> dict[str, Any]:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        torch.manual_seed(100 * seed + rank)
        return run(
            folder,
            *callbacks,
            model=RankModel(noise=1.0),
            checkpoint=checkpoint,
            data=DataLoader(Batches(8), batch_size=1, shuffle=True),
        )

    whole = noisy()
    stopper = EarlyRankingStopper(stop_epoch=2)
    stopped = noisy(stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    return stopped, noisy(promoted, seed=9, checkpoint=stopper.checkpoint_path), whole


def spawn_job(folder: Path) -> dict[str, Any]:
    """Fit in spawned processes; return the results that reach the parent."""
    stopper = EarlyRankingStopper(stop_epoch=2, hp_metric=True)
    monitor = SoTLMonitor(window=(1, 2))
    # The callbacks already have results, which must not be mistaken for those of the new run.
    fit = trainer(folder, callbacks=[stopper, monitor], max_epochs=1, logger=False)
    fit.fit(RankModel(), DataLoader(Batches(4), batch_size=1))
    assert list(monitor.epoch_losses) == [0]  # only tests run this script
    # A study in memory is the hardest case: the child reports to a copy of it.
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    reporter = OptunaReporter(trial)
    result = run(
        folder,
        stopper,
        reporter,
        monitor=monitor,
        strategy="ddp_spawn",
        logger=pl.loggers.TensorBoardLogger(folder, version="hp"),
        data=StatefulLoader(4),
        use_distributed_sampler=False,
    )
    result["finish"] = reporter.finish()
    result["stored"] = list(study.trials[0].intermediate_values.items())
    result["promoted from"] = study.trials[0].user_attrs["lightning_sotl:checkpoint_path"]
    return result


if __name__ == "__main__":
    job, target = sys.argv[1], Path(sys.argv[2])
    if job == "ddp":
        result, name = ddp_jobs(target), f"rank-{os.environ.get('LOCAL_RANK', 0)}"
    else:
        result, name = spawn_job(target), "parent"
    (target / f"{name}.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():  # otherwise its threads may abort the process at exit
        torch.distributed.destroy_process_group()
