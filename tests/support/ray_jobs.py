"""Ray Tune trials, in a module that its workers can import."""

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
    """Return our Ray module for a Lightning package, so that a worker imports only that package."""
    name = "ray_lightning" if package == "lightning.pytorch" else "ray"
    return importlib.import_module(f"lightning_sotl.integrations.{name}")


def noisy_model(
    package: str = "pytorch_lightning", *, fails: Any = None, at: int = 1, scale: float = 1.0
) -> Any:
    """Return a module whose losses depend on dropout, shuffling and a ReduceLROnPlateau.

    In epoch `at`, the module calls `fails` before it trains the third batch.
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
    """Return a function that creates the file `marker` and calls `how`, unless it exists."""

    def fail() -> None:
        if not marker.exists():
            marker.touch()
            how()

    return fail


class AtNextCheckpoint(tune.Callback):
    """Calls `act` once in the driver, while the trial waits for Ray to request its next report.

    It is in this module because Ray then pickles only its name.
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


def hooks(package: str, events: list[str]) -> Any:
    """Return a slow callback and a logger that append how the run ended to `events`."""
    pl = lightning(package)

    class Ending(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            time.sleep(1)  # long enough for Ray to kill the worker if nothing prevents it
            events.append("on_train_end")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            events.append(f"on_exception({exception!r})")

    loggers = importlib.import_module(f"{package}.loggers")

    class RecordingLogger(loggers.CSVLogger):
        def finalize(self, status: str) -> None:
            super().finalize(status)
            events.append(status)

    return Ending(), RecordingLogger(".")


def trial(config: dict[str, Any]) -> None:
    """Train like a user's function, and write the results to a file."""
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
    events: list[str] = []
    ending, logger = hooks(package, events)
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
        "seen": events,
        "stopped_by_ray": reporter.stopped_by_ray,
        "reason": str(stopper.stopping_reason),
        "promoted": start.promoted,
        "node": get_runtime_context().get_node_id(),
    }
    kind = "promoted-" if start.promoted else ""
    (folder / f"{kind}{name}.json").write_text(json.dumps(note))


def raise_once_after_promotion(config: dict[str, Any]) -> None:
    """Resume a trial that raises once in epoch 3, and store its config keys."""
    name = f"raises-{config['name']}"
    (Path(config["folder"]) / f"{name}-config.json").write_text(json.dumps(sorted(config)))
    trial({**config, "name": name, "at": 3})


def scenarios(config: dict[str, Any]) -> None:
    """Fit several runs in one trial, because workers are slow to start."""
    quieten()
    folder = Path(config["folder"])
    notes = {
        "blocks": {"batches": fit_partly_reported_runs()},
        "resumed": fit_whole_and_resumed(folder),
    }
    (folder / "scenarios.json").write_text(json.dumps(notes))


def fit_partly_reported_runs() -> int:
    """Fit runs that do not report every epoch, and return the batches of the run in blocks."""
    reporter, ours = ray_door().RayReporter, door()
    # the third epoch is incomplete, so it has no report
    fit(scripted_model(), loader(4), reporter(), ours.SoTLMonitor(), max_steps=10, max_epochs=-1)
    # a window of two epochs
    fit(scripted_model(), loader(4), reporter("sotl_e2"), ours.SoTLMonitor(window=2))
    # blocks: the run stops at the end of the last one
    blocks = ours.SoTLMonitor(every_n_train_batches=2)
    stopper = ours.EarlyRankingStopper(stop_batches=6, monitor="sotl_b2_e1")
    fit(scripted_model(val=True), loader(4), reporter("sotl_b2_e1"), blocks, stopper)
    # a validation metric, logged only every second epoch
    fit(
        scripted_model(val=True),
        loader(4),
        reporter("val_loss", metrics=["sotl_e1", "absent"], checkpoint_every=None),
        ours.SoTLMonitor(),
        check_val_every_n_epoch=2,
        max_epochs=4,
    )
    return int(blocks.batches_completed)


def fit_whole_and_resumed(folder: Path) -> dict[str, Any]:
    """Return the losses and the final learning rates of a whole and of a resumed run.

    The second run resumes from the checkpoint of a report of the first.
    """

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
    """Fit a model, and return its Trainer."""
    run = trainer(".", callbacks=list(callbacks), **options)
    run.fit(model, data, ckpt_path=ckpt_path)
    return run
