"""Runs of a scripted model with a stopper."""

from __future__ import annotations

from lightning_sotl import SoTLMonitor
from tests.support.helpers import loader, scripted_model, trainer


def fit(tmp_path, stopper, *callbacks, model=None, batches=4, monitor=None, **options):
    model = model or scripted_model()
    callbacks = [*callbacks, stopper, monitor or SoTLMonitor()]
    run = trainer(tmp_path, callbacks=callbacks, **{"max_epochs": 8, **options})
    run.fit(model, loader(batches))
    return model, run
