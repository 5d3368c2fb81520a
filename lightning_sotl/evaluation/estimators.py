"""The estimators and baselines of the paper by name, on whole tables of learning curves.

`ESTIMATORS` maps the name of a family ("sotl", "sotl-e", "sovl", ...) to its curve, its function
and the direction of its scores. `named_estimator("sotl-e10")` adds the window.
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
    """A family of early estimates: its curve, its function and its direction.

    Attributes:
        family: The name of the family. A parameter follows it, as in "sotl-e10".
        curve: The field of `LearningCurves` that it reads.
        function: (curve of shape `(runs, epochs)`, parameter, mode) -> scores of the same shape.
            Column `k - 1` is the score after `k` epochs; NaN before the score exists.
        mode: "min" if lower scores are better; None for the `metric_mode` of the table.
        default: The parameter if the name has none; None if the family has no parameter.
        parameter: The kind of parameter: "window", "decay" or "threshold"; None if there is none.
        reach: The epochs that must have a value: "all" completed epochs, those of the "window"
            (the last epoch if there is no window), or "none".
    """

    family: str
    curve: Curve
    function: Callable[[Table, float, Mode], Table]
    mode: Mode | None = "min"
    default: float | None = None
    parameter: Literal["window", "decay", "threshold"] | None = None
    reach: Literal["all", "window", "none"] = "window"

    def mode_in(self, curves: LearningCurves) -> Mode:
        """Return the better direction of the scores of `curves`, "min" or "max"."""
        return curves.metric_mode if self.mode is None else self.mode


def _window_sum(values: Table, window: float, mode: Mode) -> Table:
    # A diverged run gets the worst sum: `+inf` if lower is better, otherwise `-inf`.
    sign = 1.0 if mode == "min" else -1.0
    return sign * estimators.sotl_e(sign * values, window=int(window))


def _newest(values: Table, _: float, mode: Mode) -> Table:
    return np.where(np.isfinite(values), values, np.inf if mode == "min" else -np.inf)


def epochs_to_loss(losses: Table, *, threshold: float = 0.1) -> Table:
    """Return the number of epochs after which the training loss first reached a threshold.

    It is the smallest k with `L(k-1) <= threshold`. Lower is better.

    Args:
        losses: L(e) in the loss's own unit, shape `(..., epochs)`.
        threshold: The loss to reach, in the loss's own unit; 0.1 in the paper.

    Returns:
        float64 array of the same shape. Entry `T - 1` is the result after T epochs, or `+inf` if no
        loss has reached the threshold yet. Non-finite losses never reach it.

    Examples:
        >>> epochs_to_loss(np.array([0.5, 0.09, 0.2])).tolist()
        [inf, 2.0, 2.0]

    Source:
        Ru et al., arXiv 2006.04492, sections 3.2 and 4 and appendix B.3, after Jiang et al. 2020,
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
"""The estimators and baselines of the paper: family name -> `Estimator`. Read-only.

All families read one curve of `LearningCurves`. Lower scores are better, except for "sova-e" and
"val-metric", whose direction is the `metric_mode` of the curves.

- "sotl", "sotl-e", "sotl-ema": sums of the training loss (E follows "sotl-e", as in "sotl-e10";
  the decay follows "sotl-ema").
- "sovl", "sovl-e": the same sums of the validation loss.
- "sova-e": sum of the validation metric over the last E epochs.
- "val-metric": the validation metric of the last epoch.
- "epochs-to-loss": the number of epochs until the training loss reaches a threshold.

Examples:
    >>> losses = np.array([[3.0, 1.0], [3.5, 2.0]])
    >>> ESTIMATORS["sotl-e"].function(losses, 2, "min").tolist()
    [[nan, 4.0], [nan, 5.5]]
"""

_NAME = re.compile(r"(?P<family>[a-z-]*[a-z])(?P<parameter>[0-9][0-9.e-]*)?")


@dataclass(frozen=True)
class NamedEstimator:
    """An estimator with its parameter, such as "sotl-e10".

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
        """The number of epochs after which the score first exists."""
        return int(self.parameter or 1) if self.estimator.parameter == "window" else 1

    def is_in(self, curves: LearningCurves) -> bool:
        """Return whether `curves` contain the curve that the estimator reads."""
        return getattr(curves, self.estimator.curve) is not None

    def scores(self, curves: LearningCurves) -> Table:
        """Return the score of each run after each epoch, shape `(runs, epochs)`.

        If no run has a value in an epoch, for example because there was no validation, the scores
        that need this epoch are NaN. If only some runs lack the value, they count as diverged.

        Raises:
            ValueError: If the curve that the estimator reads is absent.
        """
        values = getattr(curves, self.estimator.curve)
        if values is None:
            raise ValueError(
                f"'{self.name}' requires `{self.estimator.curve}`, but the curves have none."
            )
        mode = self.estimator.mode_in(curves)
        scores = self.estimator.function(values, self.parameter or 0.0, mode)
        if self.estimator.reach != "none":
            scores[:, self._missing(values)] = np.nan
        return scores

    def mode_in(self, curves: LearningCurves) -> Mode:
        """Return the better direction of the scores of `curves`, "min" or "max"."""
        return self.estimator.mode_in(curves)

    def _missing(self, values: Table) -> NDArray[np.bool_]:
        """Return the columns whose scores need an epoch in which no run has a value."""
        absent = np.isnan(values).all(axis=0)
        if self.estimator.reach == "all":
            return np.logical_or.accumulate(absent)
        width = min(self.first_epoch, absent.size)
        number = np.cumsum(np.concatenate([np.zeros(width), absent]))
        return number[width:] > number[:-width]


def named_estimator(name: str) -> NamedEstimator:
    """Return the estimator with a name: a family of `ESTIMATORS`, followed by its parameter.

    Args:
        name: For example "sotl", "sotl-e10" (window), "sotl-ema0.9" (decay) or
            "epochs-to-loss0.5" (threshold). Without a number, the family's default applies.

    Raises:
        ValueError: If the family does not exist (the message lists the families), if it accepts no
            parameter but got one, or if the parameter is out of range.

    Examples:
        >>> named_estimator("sotl-e").name, named_estimator("sovl-e10").parameter
        ('sotl-e1', 10)
    """
    family, text = _parts(name)
    estimator = ESTIMATORS.get(family)
    if estimator is None:
        # A monitor logs "sotl_e10", which is easily confused with "sotl-e10".
        meant = name.replace("_", "-")
        is_known = _parts(meant)[0] in ESTIMATORS
        hint = f"did you mean {meant!r}? Available" if is_known else "available"
        raise ValueError(
            f"There is no estimator {name!r}; {hint}: {', '.join(map(repr, ESTIMATORS))}. "
            "A window is a number at the end, as in 'sotl-e10'."
        )
    if text is None:
        value = estimator.default
    elif estimator.parameter is None:
        raise ValueError(f"Expected '{family}' without a number but got {name!r}.")
    else:
        value = _parameter(estimator.parameter, text, name)
    # "sotl-e" and "sotl-e01" become "sotl-e1"; other numbers stay as written.
    is_window = estimator.parameter == "window"
    return NamedEstimator(f"{family}{value}" if is_window else name, estimator, value)


def _parts(name: str) -> tuple[str, str | None]:
    """Return the family of a name, and its number as text."""
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
