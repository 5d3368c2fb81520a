"""What a sweep with Optuna needs, for `lightning.pytorch` (extra `optuna`)."""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_sotl._extras import require

require("optuna", extra="optuna", purpose="report to a study")

from lightning_sotl.integrations.optuna_evolution import (  # noqa: E402
    RegularizedEvolutionSampler,
)
from lightning_sotl.integrations.optuna_promotion import find_winners, promote  # noqa: E402
from lightning_sotl.integrations.optuna_pruner import AdaptivePruner  # noqa: E402
from lightning_sotl.integrations.optuna_reporter import ReporterLogic  # noqa: E402
from lightning_sotl.integrations.optuna_restart import requeue_interrupted  # noqa: E402

__all__ = [
    "AdaptivePruner",
    "OptunaReporter",
    "RegularizedEvolutionSampler",
    "find_winners",
    "promote",
    "requeue_interrupted",
]


class OptunaReporter(ReporterLogic, Callback):
    __doc__ = ReporterLogic.__doc__
