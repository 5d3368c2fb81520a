"""Early ranking of PyTorch Lightning runs by the sum of their training losses (SoTL-E).

`import lightning_sotl` is fast: torch and Lightning are imported only when a name is first used
that needs them. The callbacks here are for `pytorch_lightning`. Import those for
`lightning.pytorch` from `lightning_sotl.lightning`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022  # in the order of `sorted`
    "AdaptivePolicy",
    "ESTIMATORS",
    "EarlyRankingStopper",
    "LearningCurves",
    "SoTLMonitor",
    "StoppingReason",
    "SumOfTrainingLosses",
    "Sweep",
    "Winner",
    "correlation_curves",
    "evaluate",
    "find_winners",
    "promote",
    "rank_correlation",
    "rank_correlation_curve",
    "rank_correlation_interval",
    "selection_regret",
    "sotl",
    "sotl_e",
    "sotl_ema",
    "top_k_overlap",
]

_HOMES = {
    "AdaptivePolicy": "lightning_sotl.policies.adaptive",
    "ESTIMATORS": "lightning_sotl.evaluation.estimators",
    "EarlyRankingStopper": "lightning_sotl.pytorch_lightning",
    "LearningCurves": "lightning_sotl.curves.table",
    "SoTLMonitor": "lightning_sotl.pytorch_lightning",
    "StoppingReason": "lightning_sotl.policies.stopping",
    "SumOfTrainingLosses": "lightning_sotl.metric",
    "Sweep": "lightning_sotl.pytorch_lightning",
    "Winner": "lightning_sotl.sweep.promotion",
    "correlation_curves": "lightning_sotl.evaluation.evaluate",
    "evaluate": "lightning_sotl.evaluation.evaluate",
    "find_winners": "lightning_sotl.sweep.promotion",
    "promote": "lightning_sotl.sweep.promotion",
    "rank_correlation": "lightning_sotl.stats.correlation",
    "rank_correlation_curve": "lightning_sotl.stats.correlation",
    "rank_correlation_interval": "lightning_sotl.stats.intervals",
    "selection_regret": "lightning_sotl.stats.correlation",
    "sotl": "lightning_sotl.losses.estimators",
    "sotl_e": "lightning_sotl.losses.estimators",
    "sotl_ema": "lightning_sotl.losses.estimators",
    "top_k_overlap": "lightning_sotl.stats.correlation",
}

if TYPE_CHECKING:
    from lightning_sotl.curves.table import LearningCurves
    from lightning_sotl.evaluation.estimators import ESTIMATORS
    from lightning_sotl.evaluation.evaluate import correlation_curves, evaluate
    from lightning_sotl.losses.estimators import sotl, sotl_e, sotl_ema
    from lightning_sotl.metric import SumOfTrainingLosses
    from lightning_sotl.policies.adaptive import AdaptivePolicy
    from lightning_sotl.policies.stopping import StoppingReason
    from lightning_sotl.pytorch_lightning import EarlyRankingStopper, SoTLMonitor, Sweep
    from lightning_sotl.stats.correlation import (
        rank_correlation,
        rank_correlation_curve,
        selection_regret,
        top_k_overlap,
    )
    from lightning_sotl.stats.intervals import rank_correlation_interval
    from lightning_sotl.sweep.promotion import Winner, find_winners, promote


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    other_door = f"{__name__}.lightning"
    if (
        _HOMES[name] == f"{__name__}.pytorch_lightning"
        and other_door in sys.modules
        and "pytorch_lightning" not in sys.modules
    ):
        # jsonargparse first looks up every class in this module, even with `lightning.pytorch`.
        raise AttributeError(
            f"`{__name__}.{name}` is for `pytorch_lightning`, but this process uses "
            f"`lightning.pytorch`. Import it from `{other_door}`."
        )
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
