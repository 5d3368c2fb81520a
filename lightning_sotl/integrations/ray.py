"""Ray Tune integration for `pytorch_lightning` (extra `ray`)."""

from __future__ import annotations

from pytorch_lightning import Callback

from lightning_sotl._utils.extras import require, require_lightning

require_lightning("pytorch_lightning")
require("ray.tune", extra="ray", purpose="report to Ray Tune")

from lightning_sotl.integrations._ray import reporter  # noqa: E402
from lightning_sotl.integrations._ray.promotion import find_winners, promote  # noqa: E402
from lightning_sotl.integrations._ray.scheduler import AdaptiveScheduler  # noqa: E402
from lightning_sotl.integrations._ray.starting_point import StartingPoint, starting_point  # noqa: E402

__all__ = [
    "AdaptiveScheduler",
    "RayReporter",
    "StartingPoint",
    "find_winners",
    "promote",
    "starting_point",
]


class RayReporter(reporter.RayReporter, Callback):
    __doc__ = reporter.RayReporter.__doc__
