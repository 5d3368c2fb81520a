"""The callbacks for `lightning.pytorch`."""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_sotl.callbacks.monitor import MonitorLogic
from lightning_sotl.callbacks.stopper import StopperLogic

__all__ = ["EarlyRankingStopper", "SoTLMonitor"]


class SoTLMonitor(MonitorLogic, Callback):
    __doc__ = MonitorLogic.__doc__


class EarlyRankingStopper(StopperLogic, Callback):
    __doc__ = StopperLogic.__doc__
