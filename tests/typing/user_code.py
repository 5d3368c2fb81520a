"""Typical code of a user, which type checkers have to accept in their strictest mode.

It is checked, not run, and against the wheel: `.ci/run` does it with mypy, CONTRIBUTING.md says how
with pyright. Each `assert_type` is something that a user's editor has to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning_pl
import numpy as np
import optuna
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import ModelCheckpoint
from ray import tune
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type, override

import lightning_sotl
import lightning_sotl.integrations.optuna as sotl_optuna
import lightning_sotl.integrations.ray as sotl_ray
import lightning_sotl.lightning as sotl_lightning
from lightning_sotl import (
    ESTIMATORS,
    AdaptivePolicy,
    EarlyRankingStopper,
    LearningCurves,
    SoTLMonitor,
    StoppingReason,
    SumOfTrainingLosses,
    Winner,
    correlation_curves,
    evaluate,
    find_winners,
    promote,
    rank_correlation,
    rank_correlation_curve,
    rank_correlation_interval,
    selection_regret,
    sotl,
    sotl_e,
    sotl_ema,
    top_k_overlap,
)
from lightning_sotl.evaluation.lcsvr import LcSVR

Batch = tuple[torch.Tensor, ...]
Losses = NDArray[np.float64]


class Net(pl.LightningModule):
    """A module as users write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(64, width)
        self.sum_of_losses = SumOfTrainingLosses(window=2)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.sum_of_losses.update(loss.detach())
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        self.sum_of_losses.close_epoch()
        assert_type(self.sum_of_losses.compute(), torch.Tensor)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # untyped in Lightning
            if isinstance(callback, SoTLMonitor):
                assert_type(callback.estimates, dict[str, float])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def batches() -> DataLoader[Batch]:
    return DataLoader(TensorDataset(torch.zeros(8, 64), torch.zeros(8, dtype=torch.long)), 4)


def quick_start() -> None:
    stoppers = {width: EarlyRankingStopper(stop_epoch=3) for width in (4, 16, 64)}
    for width, stopper in stoppers.items():
        trainer = pl.Trainer(max_epochs=30, callbacks=[SoTLMonitor(), stopper])
        trainer.fit(Net(width), batches())
        assert_type(stopper.estimate, float | None)
        assert_type(stopper.epochs_completed, int | None)
        assert_type(stopper.stopping_reason, StoppingReason)
        assert_type(stopper.checkpoint_path, str | None)
    best = min(stoppers, key=lambda width: stoppers[width].estimate or 0.0)
    promoted = EarlyRankingStopper(stop_epoch=3, promoted=True)
    trainer = pl.Trainer(max_epochs=30, callbacks=[SoTLMonitor(), promoted])
    trainer.fit(Net(best), batches(), ckpt_path=stoppers[best].checkpoint_path)


def lists_without_annotation(trial: optuna.Trial) -> list[pl.Trainer]:
    stopper, reporter = EarlyRankingStopper(stop_epoch=3), sotl_optuna.OptunaReporter(trial)
    two = [SoTLMonitor(), stopper]
    three = [SoTLMonitor(), stopper, reporter]
    four = [sotl_ray.RayReporter(), reporter, stopper, ModelCheckpoint()]
    # pyright wants them annotated, as it does for callbacks of Lightning's own.
    return [
        pl.Trainer(callbacks=two),  # pyright: ignore[reportArgumentType]
        pl.Trainer(callbacks=three),  # pyright: ignore[reportArgumentType]
        pl.Trainer(callbacks=four),  # pyright: ignore[reportArgumentType]
    ]


def callbacks() -> list[pl.Callback]:
    monitor = SoTLMonitor(
        window=(1, 10), ema_decay=0.999, every_n_train_batches=1000, loss_key="nll", prefix="a"
    )
    assert_type(monitor.epoch_losses, dict[int, float])
    assert_type(monitor.estimates, dict[str, float])
    assert_type(monitor.metric_names, tuple[str, ...])
    policy = AdaptivePolicy(max_epochs=30, keep=2, runs=16)
    stopper = EarlyRankingStopper(policy=policy, directory=Path("runs"), hp_metric=True)
    if stopper.stopping_reason is StoppingReason.policy:
        raise RuntimeError(stopper.stopping_reason.value)
    return [monitor, stopper, EarlyRankingStopper(stop_batches=5000, monitor="a_b1000_e1")]


def of_the_other_package() -> list[lightning_pl.Callback]:
    stopper = sotl_lightning.EarlyRankingStopper(stop_epoch=3)
    assert_type(stopper.estimate, float | None)
    trainer = lightning_pl.Trainer(callbacks=[sotl_lightning.SoTLMonitor(prog_bar=True), stopper])
    trainer.fit(lightning_pl.LightningModule())
    return [stopper]


def promotion_of_a_directory() -> None:
    def train(winner: Winner) -> float:
        callbacks: list[pl.Callback] = [
            SoTLMonitor(),
            EarlyRankingStopper(promoted=True, stop_epoch=3),
        ]
        trainer = pl.Trainer(max_epochs=10, callbacks=callbacks)
        winner.fit(trainer, assert_type(winner.load(Net), Net), batches())
        return trainer.callback_metrics["val_acc"].item()

    for winner, accuracy in promote("lightning_logs", 3, train):
        assert_type(winner, Winner)
        assert_type(accuracy, float)
        assert_type(winner.run_id, str)
        assert_type(winner.estimate, float)
        assert_type(winner.checkpoint_path, str)
        assert_type(winner.final_estimate, float | None)
    assert_type(promote("lightning_logs", 3, train, retrain=True), list[tuple[Winner, float]])
    assert_type(find_winners(Path("lightning_logs"), 3, at=5), list[Winner])


def arrays() -> None:
    losses = np.ones((4, 10))
    assert_type(sotl(losses), Losses)
    assert_type(sotl_e([[3.0, 2.0], [1.0, 0.5]], window=2), Losses)
    assert_type(sotl_ema(losses, decay=0.9), Losses)
    target = [0.1, 0.2, 0.3, 0.4]
    assert_type(rank_correlation(losses[:, -1], target, method="kendall", mode="min"), float)
    assert_type(rank_correlation_curve(losses, target, target_mode="max"), Losses)
    assert_type(rank_correlation_interval(losses, target), tuple[Losses, Losses])
    assert_type(top_k_overlap(losses[:, 0], target, k=2), Losses)
    assert_type(selection_regret(losses[:, 0], target, k=1), Losses)


def tables() -> None:
    curves = LearningCurves.from_logs("lightning_logs", final_metric="test_acc")
    assert_type(curves, LearningCurves)
    curves.save("curves.npz")
    curves = LearningCurves.load(Path("curves.npz")).select([0, 1, 2])
    assert_type(curves.train_loss, Losses)
    assert_type(curves.final_metric, Losses | None)
    assert_type(LearningCurves([[2.0, 1.0]], run_ids=["a"], metric_mode="min").runs, int)
    assert_type(LearningCurves.from_frame(curves.to_frame(), run="Name"), LearningCurves)
    result = evaluate(curves, at=[1, 5], estimators=["sotl-e1", "sovl"], method="spearman")
    assert_type(result.estimators["sotl-e1"][5].rho, float)
    assert_type(result.to_json(), dict[str, Any])
    if result.recommended is not None:
        assert_type(result.recommended.window, int)
        assert_type(result.recommended.epoch, int)
    for name, values in correlation_curves(curves, ["sotl-e1"]).items():
        assert_type(name, str)
        assert_type(values, Losses)
    estimator = ESTIMATORS["sotl-e"]
    scores = estimator.function(curves.train_loss, 1, estimator.mode_in(curves))
    assert_type(scores, Losses)
    assert_type(LcSVR().fit(curves, at=5).predict(curves, at=5), Losses)
    assert_type(lightning_sotl.__version__, str)


def objective(trial: optuna.Trial) -> float:
    reporter = sotl_optuna.OptunaReporter(trial, monitor="sotl_e1")
    callbacks: list[pl.Callback] = [SoTLMonitor(), EarlyRankingStopper(stop_epoch=3), reporter]
    model = Net(trial.suggest_int("width", 4, 64, log=True))
    pl.Trainer(max_epochs=10, callbacks=callbacks).fit(model, batches())
    return assert_type(reporter.finish(), float)


def optuna_study() -> None:
    study = optuna.create_study(
        sampler=sotl_optuna.RegularizedEvolutionSampler(seed=0),
        pruner=sotl_optuna.AdaptivePruner(AdaptivePolicy(max_epochs=10)),
    )
    sotl_optuna.requeue_interrupted(study)
    study.optimize(objective, n_trials=8)
    assert_type(sotl_optuna.find_winners(study, 2), list[Winner])
    for winner, epochs in sotl_optuna.promote(study, 2, lambda winner: len(winner.params)):
        assert_type(winner, Winner)
        assert_type(epochs, int)


def ray_trial(config: Mapping[str, int]) -> None:
    with sotl_ray.starting_point() as start:
        stopper = EarlyRankingStopper(stop_epoch=3, promoted=assert_type(start.promoted, bool))
        reporter = sotl_ray.RayReporter(metrics=["val_acc"])
        callbacks: list[pl.Callback] = [SoTLMonitor(), stopper, reporter]
        trainer = pl.Trainer(max_epochs=10, callbacks=callbacks, enable_checkpointing=False)
        trainer.fit(Net(config["width"]), batches(), ckpt_path=start.checkpoint_path)


def ray_sweep() -> None:
    scheduler = sotl_ray.AdaptiveScheduler(AdaptivePolicy(max_epochs=10), metric="sotl_e1")
    tuner = tune.Tuner(
        ray_trial,
        param_space={"width": tune.grid_search([4, 16])},  # pyright: ignore[reportUnknownMemberType]
        tune_config=tune.TuneConfig(scheduler=scheduler),
    )
    stopped = tuner.fit()
    assert_type(sotl_ray.find_winners(stopped, 2), list[Winner])
    assert_type(sotl_ray.promote(stopped, 2, ray_trial), tune.ResultGrid)
