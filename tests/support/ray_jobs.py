"""Trials for Ray Tune, in a module that its workers import."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from ray import get_runtime_context, tune

from tests.support.helpers import door, lightning, loader, scripted_model, trainer

STOP, BUDGET = 2, 4


def ray_door(package: str = "pytorch_lightning") -> Any:
    """Return our module for Ray; a worker imports only the package that it needs."""
    name = "ray_lightning" if package == "lightning.pytorch" else "ray"
    return importlib.import_module(f"lightning_sotl.integrations.{name}")


def noisy_model(
    package: str = "pytorch_lightning", *, fails: Any = None, at: int = 1, scale: float = 1.0
) -> Any:
    """Return a module whose losses depend on dropout, shuffling and a ReduceLROnPlateau.

    In epoch `at`, before its third batch is trained, it calls `fails`.
    """
    pl = lightning(package)

    class NoisyModel(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if fails is not None and (self.trainer.current_epoch, batch_idx) == (at, 2):
                fails()
            loss = scale * self.net(batch).sub(batch.sum(1, keepdim=True)).square().mean()
            self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=0.5, patience=0, threshold=0.5
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "loss"},
            }

    torch.manual_seed(0)
    return NoisyModel()


def noisy_loader() -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.utils.data.DataLoader(
        torch.randn(16, 4, generator=generator), batch_size=4, shuffle=True
    )


def quieten() -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def fail_once(marker: Path, how: Any) -> Any:
    def fail() -> None:
        if not marker.exists():
            marker.touch()
            how()

    return fail


class AtNextCheckpoint(tune.Callback):
    """Calls `act` once, in the driver, while the trial waits for Ray to ask for its next report.

    It stands in this module so that Ray pickles its name, and not what it calls.
    """

    act: ClassVar[Callable[[Any], None] | None] = None

    def on_checkpoint(
        self, iteration: int, trials: Any, trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        kind = type(self)
        if kind.act is not None:
            act, kind.act = kind.act, None
            act(trial)


def raise_error() -> None:
    raise RuntimeError("on purpose")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hooks(package: str, seen: list[str]) -> Any:
    """Return a callback and a logger that note how the run ended, the callback slowly."""
    pl = lightning(package)

    class Ending(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            time.sleep(1)  # Ray would kill the worker within milliseconds
            seen.append("on_train_end")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            seen.append(f"on_exception({exception!r})")

    loggers = importlib.import_module(f"{package}.loggers")

    class NotingLogger(loggers.CSVLogger):
        def finalize(self, status: str) -> None:
            super().finalize(status)
            seen.append(status)

    return Ending(), NotingLogger(".")


def trial(config: dict[str, Any]) -> None:
    """Train as a user's function does, and note in a file of its own what came of it."""
    if config["name"] == "scenarios":
        scenarios(config)
        return
    quieten()
    folder, name = Path(config["folder"]), config["name"]
    package = config.get("package", "pytorch_lightning")
    how = {"killed": kill, "raises": raise_error}.get(name.partition("-")[0])
    fails = fail_once(folder / f"{name}.marker", how) if how else None
    if name == "broken" and not (folder / "repaired").exists():
        fails = raise_error
    scale = math.nan if name == "nan" else config.get("scale", 1.0)
    module = ray_door(package)
    seen: list[str] = []
    ending, logger = hooks(package, seen)
    with module.starting_point() as start:
        monitor = door(package).SoTLMonitor(record=False)
        reporter = module.RayReporter()
        callbacks = [reporter, ending, monitor]
        stopper = door(package).EarlyRankingStopper(
            stop_epoch=config.get("stop_epoch", STOP), promoted=start.promoted
        )
        if config.get("stop", True):
            callbacks.append(stopper)
        if how:
            callbacks.reverse()
        run = trainer(".", package, callbacks=callbacks, logger=logger, max_epochs=BUDGET)
        model = noisy_model(package, fails=fails, at=config.get("at", 1), scale=scale)
        run.fit(model, noisy_loader(), ckpt_path=start.checkpoint_path)
    note = {
        "epoch_losses": monitor.epoch_losses,
        "seen": seen,
        "stopped_by_ray": reporter.stopped_by_ray,
        "reason": str(stopper.stopping_reason),
        "promoted": start.promoted,
        "node": get_runtime_context().get_node_id(),
    }
    kind = "promoted-" if start.promoted else ""
    (folder / f"{kind}{name}.json").write_text(json.dumps(note))


def breaks_once_after_its_promotion(config: dict[str, Any]) -> None:
    """Go on with a trial, which raises in epoch 3 the first time; note what its config has."""
    name = f"raises-{config['name']}"
    (Path(config["folder"]) / f"{name}-config.json").write_text(json.dumps(sorted(config)))
    trial({**config, "name": name, "at": 3})


def scenarios(config: dict[str, Any]) -> None:
    """Fit several runs, one after the other, in one trial: workers are slow to start."""
    quieten()
    folder = Path(config["folder"])
    notes = {
        "blocks": {"batches": fit_what_is_reported_in_part()},
        "resumed": fit_again_from_a_report(folder),
    }
    (folder / "scenarios.json").write_text(json.dumps(notes))


def fit_what_is_reported_in_part() -> int:
    """Fit runs of which not every epoch is reported; return the batches of the run in blocks."""
    reporter, ours = ray_door().RayReporter, door()
    # an epoch that is cut, and one without a report of its own
    fit(scripted_model(), loader(4), reporter(), ours.SoTLMonitor(), max_steps=10, max_epochs=-1)
    # a window of two epochs
    fit(scripted_model(), loader(4), reporter("sotl_e2"), ours.SoTLMonitor(window=2))
    # blocks, the last of them with the stop
    blocks = ours.SoTLMonitor(every_n_train_batches=2)
    stopper = ours.EarlyRankingStopper(stop_batches=6, monitor="sotl_b2_e1")
    fit(scripted_model(val=True), loader(4), reporter("sotl_b2_e1"), blocks, stopper)
    # a metric of validation, which comes every second epoch only
    fit(
        scripted_model(val=True),
        loader(4),
        reporter("val_loss", metrics=["sotl_e1", "absent"], checkpoint_every=None),
        ours.SoTLMonitor(),
        check_val_every_n_epoch=2,
        max_epochs=4,
    )
    return int(blocks.batches_completed)


def fit_again_from_a_report(folder: Path) -> dict[str, Any]:
    """Fit a run whole and from one of its reports; return both runs' losses and last rates."""

    class Keep(lightning().Callback):
        """Copies the newest checkpoint when epoch 2 begins."""

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if (trainer.current_epoch, index) == (2, 0):
                with tune.get_checkpoint().as_directory() as source:
                    shutil.copytree(source, folder / "kept")

    reporter, whole, resumed = ray_door().RayReporter, door().SoTLMonitor(), door().SoTLMonitor()
    path = folder / "kept" / "checkpoint.ckpt"
    first = fit(noisy_model(), noisy_loader(), Keep(), reporter(), whole, max_epochs=4)
    second = fit(noisy_model(), noisy_loader(), resumed, reporter(), max_epochs=4, ckpt_path=path)
    return {
        "whole": whole.epoch_losses,
        "resumed": resumed.epoch_losses,
        "rates": [run.optimizers[0].param_groups[0]["lr"] for run in (first, second)],
    }


def fit(model: Any, data: Any, *callbacks: Any, ckpt_path: Any = None, **options: Any) -> Any:
    """Return the Trainer of a run that has ended."""
    run = trainer(".", callbacks=list(callbacks), **options)
    run.fit(model, data, ckpt_path=ckpt_path)
    return run
