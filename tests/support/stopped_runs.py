"""Runs of a scripted model that a stopper is to end."""

from __future__ import annotations

from lightning_sotl import SoTLMonitor
from tests.support.helpers import loader, scripted_model, trainer


def fit(tmp_path, stopper, *callbacks, model=None, batches=4, monitor=None, first=True, **options):
    model = model or scripted_model()
    monitor = monitor or SoTLMonitor()
    both = [stopper, monitor] if first else [monitor, stopper]
    run = trainer(tmp_path, callbacks=[*callbacks, *both], **{"max_epochs": 8, **options})
    run.fit(model, loader(batches))
    return model, run
