"""The callbacks and `Sweep` for `pytorch_lightning`."""

from __future__ import annotations

from pytorch_lightning import Callback

from lightning_sotl._utils.extras import require_lightning
from lightning_sotl.callbacks import monitor, stopper
from lightning_sotl.sweep import sweep

require_lightning("pytorch_lightning")

__all__ = ["EarlyRankingStopper", "SoTLMonitor", "Sweep"]


class SoTLMonitor(monitor.SoTLMonitor, Callback):
    __doc__ = monitor.SoTLMonitor.__doc__


class EarlyRankingStopper(stopper.EarlyRankingStopper, Callback):
    __doc__ = stopper.EarlyRankingStopper.__doc__


class Sweep(sweep.Sweep):
    __doc__ = sweep.Sweep.__doc__
    _monitor_class = SoTLMonitor
    _stopper_class = EarlyRankingStopper
