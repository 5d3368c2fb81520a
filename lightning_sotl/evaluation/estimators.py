"""The estimators and baselines of the paper by name, on whole tables of learning curves.

`ESTIMATORS` maps the name of a family ("sotl", "sotl-e", "sovl", ...) to the curve it reads, its
function and the better end of its scores; `named_estimator("sotl-e10")` adds the window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.losses import estimators
from lightning_sotl.losses.families import FAMILIES, Family
from lightning_sotl.stats.ranks import Mode

Curve = Literal["train_loss", "val_loss", "val_metric"]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Estimator:
    """A family of scores: the curve that it reads, its function, and its better end.

    Attributes:
        family: Its name; the parameter follows it, as in `sotl-e10`.
        curve: The field of `LearningCurves` that it reads.
        function: (curve of shape `(runs, epochs)`, parameter, mode) -> scores of the same shape;
            entry `k - 1` is the score after `k` epochs, NaN while it is not available.
        mode: "min" if lower scores are better; None for the table's `metric_mode`.
        default: The parameter of a name without one, or None if it takes no parameter.
        parameter: What the parameter is: "window", "decay" or "threshold".
        reach: The epochs that a score needs: "all" so far, those of its "window" (the last epoch
            if it has no window), or "none" in particular.
    """

    family: str
    curve: Curve
    function: Callable[[Table, float, Mode], Table]
    mode: Mode | None = "min"
    default: float | None = None
    parameter: Literal["window", "decay", "threshold"] | None = None
    reach: Literal["all", "window", "none"] = "window"

    def mode_in(self, curves: LearningCurves) -> Mode:
        """Return the better end of the scores of `curves`."""
        return curves.metric_mode if self.mode is None else self.mode


def _window_sum(values: Table, window: float, mode: Mode) -> Table:
    # A diverged run is `+inf` in a sum if lower is better, otherwise `-inf`.
    sign = 1.0 if mode == "min" else -1.0
    return sign * estimators.sotl_e(sign * values, window=int(window))


def _newest(values: Table, _: float, mode: Mode) -> Table:
    return np.where(np.isfinite(values), values, np.inf if mode == "min" else -np.inf)


def epochs_to_loss(losses: Table, *, threshold: float = 0.1) -> Table:
    r"""Return the number of epochs after which the training loss first reached a threshold.

    .. math:: \min \{ k \le T : L(k - 1) \le \mathrm{threshold} \}

    Lower is better.

    Args:
        losses: L(e) in the loss's own unit, shape `(..., epochs)`.
        threshold: Loss to reach, in the loss's own unit; 0.1 in the paper.

    Returns:
        float64 of the same shape; entry `T - 1` is the number of epochs as known after T of
        them, `+inf` if the threshold was not reached yet. Non-finite losses do not reach it.

    Example:
        >>> epochs_to_loss(np.array([0.5, 0.09, 0.2])).tolist()
        [inf, 2.0, 2.0]

    Source:
        Ru et al., arXiv 2006.04492, sections 3.2 and 4 and appendix B.3; after Jiang et al. 2020,
        who count steps.
    """
    reached = np.isfinite(losses) & (losses <= threshold)
    number = np.where(reached, np.arange(1.0, losses.shape[-1] + 1), np.inf)
    return np.minimum.accumulate(number, axis=-1)


def _of_losses(name: str, curve: Curve, family: Family) -> Estimator:
    return Estimator(
        name,
        curve,
        partial(_family_scores, family),
        default=family.default,
        parameter=family.parameter,
        reach="window" if family.parameter == "window" else "all",
    )


def _family_scores(family: Family, losses: Table, parameter: float, mode: Mode) -> Table:
    return family.function(losses, parameter)


def _epochs_to_loss(losses: Table, threshold: float, mode: Mode) -> Table:
    return epochs_to_loss(losses, threshold=threshold)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        entry.family: entry
        for entry in (
            *(_of_losses(name, "train_loss", family) for name, family in FAMILIES.items()),
            _of_losses("sovl", "val_loss", FAMILIES["sotl"]),
            _of_losses("sovl-e", "val_loss", FAMILIES["sotl-e"]),
            Estimator("sova-e", "val_metric", _window_sum, None, default=1, parameter="window"),
            Estimator("val-metric", "val_metric", _newest, None),
            Estimator(
                "epochs-to-loss", "train_loss", _epochs_to_loss, "min", 0.1, "threshold", "none"
            ),
        )
    }
)
"""Family name -> estimator. Immutable."""

_NAME = re.compile(r"(?P<family>[a-z-]*[a-z])(?P<parameter>[0-9][0-9.e-]*)?")


@dataclass(frozen=True)
class NamedEstimator:
    """An estimator with its parameter, such as `sotl-e10`.

    Attributes:
        name: The name with its parameter written out.
        estimator: The family.
        parameter: The window, decay or threshold; None if the family has none.
    """

    name: str
    estimator: Estimator
    parameter: float | None

    @property
    def first_epoch(self) -> int:
        """The number of epochs after which the score is first available."""
        return int(self.parameter or 1) if self.estimator.parameter == "window" else 1

    def is_in(self, curves: LearningCurves) -> bool:
        """Return whether the curve that the estimator reads is there."""
        return getattr(curves, self.estimator.curve) is not None

    def scores(self, curves: LearningCurves) -> Table:
        """Return the score of each run after each epoch, shape `(runs, epochs)`.

        If no run has a value in an epoch, for example because none was validated, the scores that
        need that epoch are NaN. If only some runs lack the value, they count as diverged.

        Raises:
            ValueError: If the curve that the estimator reads is absent.
        """
        values = getattr(curves, self.estimator.curve)
        if values is None:
            raise ValueError(
                f"'{self.name}' needs `{self.estimator.curve}`, which the curves do not have."
            )
        mode = self.estimator.mode_in(curves)
        scores = self.estimator.function(values, self.parameter or 0.0, mode)
        if self.estimator.reach != "none":
            scores[:, self._missing(values)] = np.nan
        return scores

    def mode_in(self, curves: LearningCurves) -> Mode:
        """Return the better end of the scores of `curves`."""
        return self.estimator.mode_in(curves)

    def _missing(self, values: Table) -> NDArray[np.bool_]:
        """Return after which epochs a score needs an epoch without any value."""
        absent = np.isnan(values).all(axis=0)
        if self.estimator.reach == "all":
            return np.logical_or.accumulate(absent)
        width = min(self.first_epoch, absent.size)
        number = np.cumsum(np.concatenate([np.zeros(width), absent]))
        return number[width:] > number[:-width]


def named_estimator(name: str) -> NamedEstimator:
    """Return the estimator of a name: a family, followed by the parameter if it takes one.

    Args:
        name: For example "sotl", "sotl-e10" (a window), "sotl-ema0.9" (a decay), or
            "epochs-to-loss0.5" (a threshold). A name without a number has the family's default.

    Raises:
        ValueError: If the family does not exist (the message lists the families), if it takes no
            parameter, or if the parameter is out of range.

    Example:
        >>> named_estimator("sotl-e").name, named_estimator("sovl-e10").parameter
        ('sotl-e1', 10)
    """
    family, text = _parts(name)
    estimator = ESTIMATORS.get(family)
    if estimator is None:
        # A monitor logs "sotl_e10", easily confused with the estimator's name.
        meant = name.replace("_", "-")
        is_known = _parts(meant)[0] in ESTIMATORS
        hint = f"did you mean {meant!r}? Available" if is_known else "available"
        raise ValueError(
            f"There is no estimator {name!r}; {hint}: {', '.join(map(repr, ESTIMATORS))}, "
            "where the number of a window stands at the end, as in 'sotl-e10'."
        )
    if text is None:
        value = estimator.default
    elif estimator.parameter is None:
        raise ValueError(f"Expected '{family}' without a number but got {name!r}.")
    else:
        value = _parameter(estimator.parameter, text, name)
    # "sotl-e" and "sotl-e01" become "sotl-e1"; other numbers stay as the user wrote them.
    is_window = estimator.parameter == "window"
    return NamedEstimator(f"{family}{value}" if is_window else name, estimator, value)


def _parts(name: str) -> tuple[str, str | None]:
    """Return a name's family, and its number as text."""
    match = _NAME.fullmatch(name)
    return (match["family"], match["parameter"]) if match else (name, None)


def _parameter(kind: str, text: str, name: str) -> float:
    try:
        if kind == "window":
            return validation.positive_int("window", int(text))
        number = float(text)
        return validation.decay("decay", number) if kind == "decay" else number
    except ValueError:
        allowed = {"window": "a positive integer", "decay": "in (0, 1]", "threshold": "a number"}
        raise ValueError(
            f"Expected the {kind} at the end of the name to be {allowed[kind]} but got {name!r}."
        ) from None
