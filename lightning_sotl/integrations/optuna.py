"""Optuna integration for `pytorch_lightning` (extra `optuna`)."""

from __future__ import annotations

from pytorch_lightning import Callback

from lightning_sotl._utils.extras import require, require_lightning

require_lightning("pytorch_lightning")
require("optuna", extra="optuna", purpose="report to a study")

from lightning_sotl.integrations._optuna import reporter  # noqa: E402
from lightning_sotl.integrations._optuna.evolution import RegularizedEvolutionSampler  # noqa: E402
from lightning_sotl.integrations._optuna.promotion import find_winners, promote  # noqa: E402
from lightning_sotl.integrations._optuna.pruner import AdaptivePruner  # noqa: E402
from lightning_sotl.integrations._optuna.restart import requeue_interrupted  # noqa: E402

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
