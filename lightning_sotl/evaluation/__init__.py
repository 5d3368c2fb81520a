"""Evaluation of estimators on finished runs, and `LcSVR`, the trained baseline."""

from lightning_sotl.evaluation.lcsvr import LcSVR

__all__ = ["LcSVR"]
