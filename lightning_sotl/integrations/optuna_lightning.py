"""What a sweep with Optuna needs, for `lightning.pytorch` (extra `optuna`)."""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_sotl.integrations._optuna import reporter
from lightning_sotl.integrations._optuna.evolution import RegularizedEvolutionSampler
from lightning_sotl.integrations._optuna.promotion import find_winners, promote
from lightning_sotl.integrations._optuna.pruner import AdaptivePruner
from lightning_sotl.integrations._optuna.restart import requeue_interrupted

__all__ = [
    "AdaptivePruner",
    "OptunaReporter",
    "RegularizedEvolutionSampler",
    "find_winners",
    "promote",
    "requeue_interrupted",
]


class OptunaReporter(reporter.OptunaReporter, Callback):
    __doc__ = reporter.OptunaReporter.__doc__
