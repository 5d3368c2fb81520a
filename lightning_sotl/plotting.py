"""Figures: rank correlation against T, ranks over T, and rank regret against cost.

Each figure is made in two steps: one computes plain arrays, the other draws them.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import extras
from lightning_sotl._utils.files import write_whole
from lightning_sotl._utils.text import quote_all, shortened, visible
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import FINAL_LOSS, LCSVR, Evaluation, correlation_curves
from lightning_sotl.losses.names import unit_of
from lightning_sotl.ranking.order import Ranking, shown_names
from lightning_sotl.replay.experiment import Replay, undominated
from lightning_sotl.stats.correlation import Method
from lightning_sotl.stats.ranks import Mode, best_ranks, oriented

_CROWDED = 40  # with more runs, the rank axis is logarithmic
_MOST_DRAWN = 80  # characters of a name
_NAMED = 10  # the number of runs of a bump chart with a color and a name


@dataclass(frozen=True)
class CorrelationLine:
    """One line in the figure of an evaluation.

    Attributes:
        name: The name of the estimator.
        rho: Correlation after `k = 1, 2, ...` epochs, shape `(epochs,)`.
        at: The T's that have an interval, shape `(n,)`.
        low: The lower bounds of the intervals, shape `(n,)`.
        high: The upper bounds of the intervals, shape `(n,)`.
    """

    name: str
    rho: NDArray[np.float64]
    at: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class RankLines:
    """The lines of a bump chart.

    Attributes:
        names: The names of the runs, the best at T first.
        ranks: The rank of each run after `k = 1, ..., T` epochs, shape `(runs, T)`. Ties share
            their lowest rank. NaN if the run has no estimate.
        monitor: The estimate or the logged key that the runs are ranked by.
    """

    names: tuple[str, ...]
    ranks: NDArray[np.float64]
    monitor: str


def correlation_lines(
    curves: LearningCurves, result: Evaluation, *, method: Method = "spearman"
) -> list[CorrelationLine]:
    """Return the lines of `draw_evaluation`: every T, with the intervals in `result`.

    The final test loss is known only at the end. It is a horizontal line, as in the paper's Fig. 2.
    """
    lines = []
    names = [name for name in result.estimators if name not in (FINAL_LOSS, LCSVR)]
    whole = correlation_curves(curves, names, method=method)
    for name, values in result.estimators.items():
        if name == FINAL_LOSS:
            rho = np.full(curves.epochs, next(iter(values.values())).rho)
        elif name == LCSVR:  # fitted at the T's of `result` only
            rho = np.full(curves.epochs, np.nan)
            rho[[epoch - 1 for epoch in values]] = [value.rho for value in values.values()]
        else:
            rho = whole[name]
        at = np.array(list(values), dtype=np.int64)
        low = np.array([value.low for value in values.values()])
        high = np.array([value.high for value in values.values()])
        lines.append(CorrelationLine(name, rho, at, low, high))
    return lines


def draw_evaluation(
    curves: LearningCurves, result: Evaluation, *, method: Method = "spearman"
) -> Any:
    """Draw the rank correlation of each estimator against T, with bands for the intervals.

    Returns:
        A matplotlib `Figure`, for `save`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Source:
        Ru et al., arXiv 2006.04492, Figs. 2 to 4.
    """
    figure, axes = _figure()
    epochs = np.arange(1, curves.epochs + 1)
    for line in correlation_lines(curves, result, method=method):
        if np.isnan(line.rho).all():
            continue
        known = np.isfinite(line.rho)
        style = _style(line.name)
        if line.name == LCSVR or known.sum() == 1:
            style["marker"] = "o"  # a line with one point is invisible
        (drawn,) = axes.plot(epochs[known], line.rho[known], label=line.name, **style)
        if len(line.at) > 1:
            axes.fill_between(
                line.at, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0
            )
    if result.recommended is not None and result.is_advised:
        window, epoch = result.recommended.window, result.recommended.epoch
        axes.axvline(epoch, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(f"{result.runs} runs; recommended E = {window} at T = {epoch}", fontsize=10)
    axes.grid(alpha=0.3)
    _label(axes, "completed epochs T", f"rank correlation with the target ({method})")
    return figure


def rank_lines(ranking: Ranking, *, mode: Mode = "min") -> RankLines:
    """Return the lines of `draw_ranks`: the rank of each run at every T up to the ranking's T."""
    scores = ranking.scores[:, : ranking.at]
    ranks = best_ranks(oriented(scores, mode=mode).T).T.astype(np.float64)
    ranks[np.isnan(scores)] = np.nan
    names = shown_names((run.name, run.run_id) for run in ranking.runs)
    return RankLines(tuple(names), ranks, ranking.monitor)


def draw_ranks(ranking: Ranking, *, mode: Mode = "min") -> Any:
    """Draw a bump chart: the rank of each run over T. The best at T have a color and a name.

    Returns:
        A matplotlib `Figure`, for `save`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    lines = rank_lines(ranking, mode=mode)
    figure, axes = _figure()
    epochs = np.arange(1, ranking.at + 1)
    for place in reversed(range(len(lines.names))):
        if place < _NAMED:
            label = f"{place + 1}. {_drawn(lines.names[place])}"
            axes.plot(epochs, lines.ranks[place], marker="o", markersize=3, label=label)
        else:
            axes.plot(epochs, lines.ranks[place], color="lightgrey", linewidth=0.5, zorder=0)
    if len(lines.names) > _CROWDED:
        axes.set_yscale("log")  # who is first matters more than who is last
    else:
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    x = f"completed {unit_of(lines.monitor)}s T"
    _label(axes, x, f"rank by {_drawn(lines.monitor)}", reverse=True)
    return figure


def draw_replay(result: Replay) -> Any:
    """Draw the rank regret of policies against their cost, with standard errors.

    The cost axis is logarithmic. A line joins the policies that no other dominates. Policies that
    read validation values are squares.

    Returns:
        A matplotlib `Figure`, for `save`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    figure, axes = _figure()
    means = {name: scores.means() for name, scores in result.policies.items()}
    order = sorted(means, key=lambda name: (means[name]["cost"], name))
    for place, name in enumerate(order):
        values = means[name]
        axes.errorbar(
            values["cost"],
            values["rank_regret"],
            xerr=values["cost_se"],
            yerr=values["rank_regret_se"],
            fmt="s" if name.endswith("-val") else "o",
            color=f"C{place % 10}",
            fillstyle="full" if place < 10 else "none",
            capsize=2,
            label=_drawn(name),
        )
    best = [name for name in order if name in undominated(means)]
    frontier = [[means[name][axis] for name in best] for axis in ("cost", "rank_regret")]
    axes.plot(*frontier, color="grey", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xscale("log")
    cheapest = means[order[0]]["cost"]
    shares = [share for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if share >= cheapest / 2]
    axes.set_xticks(shares, labels=map(str, shares))
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.set_title(
        f"{result.runs} runs, {result.workers} workers, {result.repeats} repeats", fontsize=10
    )
    axes.grid(alpha=0.3, which="both")
    _label(axes, "cost as a share of full training", "rank regret of the pick")
    return figure


def figure_format(path: str | Path) -> str:
    """Return the file format that the ending of a file name selects.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If matplotlib does not know the ending, or there is none.
    """
    known = sorted(_matplotlib("backend_bases").FigureCanvasBase.get_supported_filetypes())
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in known:
        raise ValueError(
            f"Expected the figure's file name to end in one of {quote_all(known)} but got '{path}'."
        )
    return ending


def save(figure: Any, path: str | Path) -> None:
    """Write a figure in the format of its file name's ending, and create the folder if needed.

    Raises:
        OSError: If it cannot be written; an older file is then unchanged.
        ValueError: If matplotlib does not know the ending, or there is none.
    """
    path, ending = Path(path), figure_format(path)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the printed ranking shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format=ending, dpi=150, bbox_inches="tight")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    write_whole(path, content.getvalue())


def _drawn(name: str) -> str:
    """Return a name on one line of bounded width, because the longest name widens the figure."""
    return shortened(visible(name), _MOST_DRAWN)


def _label(axes: Any, x: str, y: str, *, reverse: bool = False) -> None:
    """Label the axes and add a legend beside them."""
    axes.set_xlabel(x)
    y_label = axes.set_ylabel(y)
    legend = axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), reverse=reverse)
    for text in (y_label, *legend.get_texts()):
        text.set_parse_math(False)  # a run may be called "$x"


def _style(name: str) -> dict[str, str]:
    """Return a solid line for training losses, and other styles for validation values."""
    if name == FINAL_LOSS:
        return {"color": "black", "linestyle": "--"}
    if name == LCSVR:
        return {"linestyle": ":"}
    curve = named_estimator(name).estimator.curve
    return {"linestyle": "-" if curve == "train_loss" else "-."}


def _matplotlib(module: str) -> Any:
    return extras.require(f"matplotlib.{module}", extra="plot", purpose="draw figures")


def _figure() -> tuple[Any, Any]:
    # Without pyplot: no window, no backend, no figures that stay in memory.
    figure = _matplotlib("figure").Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes
