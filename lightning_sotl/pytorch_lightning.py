"""The callbacks for `pytorch_lightning`."""

from __future__ import annotations

from pytorch_lightning import Callback

from lightning_sotl.callbacks import monitor, stopper

__all__ = ["EarlyRankingStopper", "SoTLMonitor"]


class SoTLMonitor(monitor.SoTLMonitor, Callback):
    __doc__ = monitor.SoTLMonitor.__doc__


class EarlyRankingStopper(stopper.EarlyRankingStopper, Callback):
    __doc__ = stopper.EarlyRankingStopper.__doc__
