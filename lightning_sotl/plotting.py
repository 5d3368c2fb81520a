"""Pictures: rank correlation against T, ranks over T, and rank regret against cost.

Each picture is made in two steps: what to draw (plain arrays), and drawing it.
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
from lightning_sotl.ranking.order import Ranking
from lightning_sotl.replay.experiment import Replay, undominated
from lightning_sotl.stats.correlation import Method
from lightning_sotl.stats.ranks import Mode, best_ranks, oriented

_LINEAR_RUNS = 40  # with more runs the rank axis is logarithmic
_LONGEST_NAME = 80  # characters
_NAMED_RUNS = 10  # runs of a bump chart with a colour and a name


@dataclass(frozen=True)
class CorrelationLine:
    """One line of the picture of an evaluation.

    Attributes:
        name: Name of the estimator.
        rho: Correlation after `k = 1, 2, ...` epochs, shape `(epochs,)`.
        at: The T's that have an interval, shape `(n,)`.
        low: Their lower bounds, shape `(n,)`.
        high: Their upper bounds, shape `(n,)`.
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
        names: Names of the runs, the best at T first.
        ranks: Rank of each run after `k = 1, ..., T` epochs, ties at the lowest, shape `(runs, T)`;
            NaN without an estimate.
        monitor: The metric that ranks them.
    """

    names: tuple[str, ...]
    ranks: NDArray[np.float64]
    monitor: str


def correlation_lines(
    curves: LearningCurves, result: Evaluation, *, method: Method = "spearman"
) -> list[CorrelationLine]:
    """Return the lines of `draw_evaluation`: every T, with the intervals of `result`.

    The final test loss is known only at the end; its line is level, as in the paper's Fig. 2.
    """
    lines = []
    names = [name for name in result.estimators if name not in (FINAL_LOSS, LCSVR)]
    whole = correlation_curves(curves, names, method=method)
    for name, values in result.estimators.items():
        if name == FINAL_LOSS:
            rho = np.full(curves.epochs, next(iter(values.values())).rho)
        elif name == LCSVR:  # fitted only at the T's of `result`
            rho = np.full(curves.epochs, np.nan)
            rho[[epoch - 1 for epoch in values]] = [value.rho for value in values.values()]
        else:
            rho = whole[name]
        lines.append(
            CorrelationLine(
                name,
                rho,
                np.array(list(values), dtype=np.int64),
                np.array([value.low for value in values.values()]),
                np.array([value.high for value in values.values()]),
            )
        )
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
            style["marker"] = "o"  # a line of one point is invisible
        (drawn,) = axes.plot(epochs[known], line.rho[known], label=line.name, **style)
        if line.name != FINAL_LOSS and len(line.at) > 1:
            axes.fill_between(
                line.at, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0
            )
    if result.recommended is not None and result.is_advised:
        window, epoch = result.recommended.window, result.recommended.epoch
        axes.axvline(epoch, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(f"{result.runs} runs; recommended E = {window} at T = {epoch}", fontsize=10)
    axes.set_xlabel("completed epochs T")
    axes.set_ylabel(f"rank correlation with the target ({method})")
    axes.grid(alpha=0.3)
    _legend(axes)
    return figure


def rank_lines(ranking: Ranking, *, mode: Mode = "min") -> RankLines:
    """Return the lines of `draw_ranks`: the rank of each run at every T up to the ranking's."""
    scores = ranking.scores[:, : ranking.at]
    ranks = best_ranks(oriented(scores, mode=mode).T).T.astype(np.float64)
    ranks[np.isnan(scores)] = np.nan
    return RankLines(tuple(run.run_id for run in ranking.runs), ranks, ranking.monitor)


def draw_ranks(ranking: Ranking, *, mode: Mode = "min") -> Any:
    """Draw the rank of each run over T, a bump chart; the best at T have a colour and a name.

    Returns:
        A matplotlib `Figure`, for `save`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    lines = rank_lines(ranking, mode=mode)
    figure, axes = _figure()
    epochs = np.arange(1, ranking.at + 1)
    for place in reversed(range(len(lines.names))):
        name, ranks = lines.names[place], lines.ranks[place]
        if place < _NAMED_RUNS:
            axes.plot(epochs, ranks, marker="o", markersize=3, label=f"{place + 1}. {_drawn(name)}")
        else:
            axes.plot(epochs, ranks, color="lightgrey", linewidth=0.5, zorder=0)
    if len(lines.names) > _LINEAR_RUNS:
        axes.set_yscale("log")  # the first ranks matter more than the last
    else:
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    axes.set_xlabel("completed epochs T")
    axes.set_ylabel(f"rank by {_drawn(lines.monitor)}", parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    _legend(axes, handles[::-1], labels[::-1])
    return figure


def draw_replay(result: Replay) -> Any:
    """Draw the cost of policies against the rank regret of their picks, with standard errors.

    The cost axis is logarithmic; a line joins the policies that no other dominates. Policies that
    rank by validation values are squares.

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
    axes.set_xlabel("cost as a share of full training")
    axes.set_ylabel("rank regret of the pick")
    axes.grid(alpha=0.3, which="both")
    _legend(axes)
    return figure


def picture_format(path: str | Path) -> str:
    """Return the format of a picture by the ending of its file name.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If matplotlib does not know the ending, or there is none.
    """
    known = sorted(_matplotlib("backend_bases").FigureCanvasBase.get_supported_filetypes())
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in known:
        raise ValueError(
            f"Expected the picture's file name to end in one of {quote_all(known)} but got "
            f"'{path}'."
        )
    return ending


def save(figure: Any, path: str | Path) -> None:
    """Write a figure in the format of its file name, and make the folder if there is none.

    Raises:
        OSError: If it cannot be written; a file that was there before is unchanged.
        ValueError: If matplotlib does not know the ending, or there is none.
    """
    path, ending = Path(path), picture_format(path)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the ranking itself shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format=ending, dpi=150, bbox_inches="tight")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    write_whole(path, content.getvalue())


def _drawn(name: str) -> str:
    """Return a name on one line of bounded width, since the picture grows with it."""
    return shortened(visible(name), _LONGEST_NAME)


def _legend(axes: Any, *entries: Any) -> None:
    """Put the legend right of the axes, with handles and labels if given."""
    legend = axes.legend(*entries, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)  # the name of a run may be "$x"


def _style(name: str) -> dict[str, str]:
    """Return a solid line for training losses, and others for estimators that need a validation."""
    if name == FINAL_LOSS:
        return {"color": "black", "linestyle": "--"}
    if name == LCSVR:
        return {"linestyle": ":"}
    reads_training = named_estimator(name).estimator.curve == "train_loss"
    return {"linestyle": "-" if reads_training else "-."}


def _matplotlib(module: str) -> Any:
    return extras.require(f"matplotlib.{module}", extra="plot", purpose="draw pictures")


def _figure() -> tuple[Any, Any]:
    # Not by pyplot, which opens windows and keeps figures in memory.
    figure = _matplotlib("figure").Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes
