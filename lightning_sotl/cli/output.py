"""What the sub-commands share: checks of options, reading PATH, its groups of runs, and JSON."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from lightning_sotl._utils.files import is_gone
from lightning_sotl._utils.text import shortened, visible
from lightning_sotl.evaluation.evaluate import FEWEST, Evaluation
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.replay.experiment import Replay, undominated


def print_documents(documents: list[tuple[dict[str, str], dict[str, Any]]]) -> None:
    """Print the JSON of a command that knows groups.

    Args:
        documents: Of each group its values and its document; without --group-by the values are
            empty, and the document of the one group is printed as it is.
    """
    if documents[0][0]:
        print_document([{"group": group, **document} for group, document in documents])
    else:
        print_document(documents[0][1])


def print_document(document: Any) -> None:
    """Print one JSON document on standard output."""
    # Its own escapes are all there is: what it holds comes back as it was.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


_NAME_WIDTH, _INTERVAL_WIDTH = 17, 24


_EVERY = 20  # folders or repeats between two updates of the progress


def out(text: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{_harmless(text, sys.stdout)}\n")


def err(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{_harmless(text, sys.stderr)}\n")


def notes(sentences: Sequence[str]) -> None:
    """Write warnings to standard error."""
    for sentence in sentences:
        err(f"warning: {sentence}")


def remarks(sentences: Sequence[str]) -> None:
    """Write what is as it should be, and may still surprise, to standard error."""
    for sentence in sentences:
        err(f"note: {sentence}")


def _harmless(text: str, stream: TextIO) -> str:
    """Return what stays on its line, whoever named the runs, and can be encoded."""
    encoding = stream.encoding or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def progress(
    sentence: str = "read {} of {} folders",
) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how much is done and how much there is, where someone looks on."""
    shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown
        if sys.stderr.isatty() and total > _EVERY and (done % _EVERY == 0 or done == total):
            sys.stderr.write("\r" + sentence.format(done, total))
            sys.stderr.flush()
            shown = True

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\n")


def group_name(group: Mapping[str, str]) -> str:
    """Return what a group of runs shares, as "batch_size = 32"."""
    return ", ".join(f"{name} = {shortened(value)}" for name, value in group.items())


def _begin_group(group: Mapping[str, str] | None) -> None:
    if group:
        out()
        out(group_name(group))


def show_ranking(document: dict[str, Any], *, group: Mapping[str, str] | None = None) -> None:
    """Print the ranking of a group as a table."""
    _begin_group(group)
    runs = document["runs"]
    with_checkpoints = any(run["checkpoint"] for run in runs)
    headers = ["rank", "run", document["monitor"], "epochs"]
    rows = [
        [str(run["rank"]), run["run_id"], _estimate(run, document), str(run["epochs"])]
        + ([_checkpoint(run["checkpoint"])] if with_checkpoints else [])
        for run in runs
    ]
    table(headers + ["checkpoint"] * with_checkpoints, rows, left={1, 4})
    out(f"Ranked by {document['monitor']} after {document['at']} completed epochs.")
    if "stability" in document:
        value = document["stability"]
        known = "is not known" if value is None else f"is {value:.3f}"
        out(f"Rank correlation of the order at T/2 with that at T {known}.")


def show_evaluation(
    result: Evaluation, *, target: str, mode: str, group: Mapping[str, str] | None = None
) -> None:
    """Print the correlations of a group as a table, one column a T."""
    _begin_group(group)
    better = "higher" if mode == "max" else "lower"
    out(
        f"Rank correlation with '{target}' ({better} is better) of {result.runs} runs, "
        f"{result.left_out} left out, with 95 % intervals:"
    )
    epochs = sorted({epoch for values in result.estimators.values() for epoch in values})
    for begin in range(0, len(epochs), _columns_that_fit()):
        shown = epochs[begin : begin + _columns_that_fit()]
        rows = [
            [name, *(_interval(values.get(epoch)) for epoch in shown)]
            for name, values in result.estimators.items()
            if any(epoch in values for epoch in shown)
        ]
        table(["estimator", *(f"T={epoch}" for epoch in shown)], rows, left={0})
    if result.recommended is not None and result.is_advised:
        window, epoch = result.recommended.window, result.recommended.epoch
        is_last = epoch == epochs[-1] and len(epochs) > 1
        out(
            f"Use E = {window} at T = {epoch}: the cheapest SoTL-E that these runs do not show to "
            f"be worse than the best{' (no smaller T of these is as good)' if is_last else ''}."
        )
    elif result.recommended is not None:
        out(
            f"No E and T are advised: with fewer than {FEWEST} runs the intervals are too narrow "
            "to say which of them are not worse than the best."
        )


def show_replay(result: Replay) -> None:
    """Print policies as a table, the cheapest first."""
    means = {name: scores.means() for name, scores in result.policies.items()}
    best = undominated(means)
    rows = [
        [
            name,
            "*" if name in best else "",
            f"{values['cost']:.4f} +- {values['cost_se']:.4f}",
            f"{values['rank_regret']:.4f} +- {values['rank_regret_se']:.4f}",
            f"{values['metric_regret']:.4g}",
        ]
        for name, values in sorted(means.items(), key=lambda item: item[1]["cost"])
    ]
    table(["policy", "", "cost", "rank regret", "metric regret"], rows, left={0, 1})
    out(
        f"{result.repeats} repeats of {result.runs} runs on {result.workers} workers, "
        f"{result.left_out} left out; cost as a share of full training, +- standard error. "
        "* No other policy is better in cost or rank regret without being worse in the other."
    )


def table(headers: list[str], rows: list[list[str]], *, left: set[int]) -> None:
    """Print a table, by `rich` on a terminal where that is installed and the table fits."""
    headers, *rows = ([_harmless(cell, sys.stdout) for cell in row] for row in [headers, *rows])
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    # `rich` would fold cells where they do not fit, and nobody can copy a path of six lines.
    fits = sum(widths) + 2 * len(widths) <= shutil.get_terminal_size().columns
    if fits and sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _rich_table(headers, rows, left)
        return
    for cells in [headers, *rows]:
        out(
            "  ".join(
                cell.ljust(width) if place in left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
        )


def _rich_table(headers: list[str], rows: list[list[str]], left: set[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    # NO_COLOR is about colours only, but whoever sets it wants no escape sequence at all.
    shown = Table(box=None, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for place, header in enumerate(headers):
        shown.add_column(header, justify="left" if place in left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    # `rich` takes 80 columns for every terminal that it calls dumb, and ":100:" for an emoji.
    width, height = shutil.get_terminal_size()
    console = Console(markup=False, highlight=False, emoji=False, width=width, height=height)
    console.print(shown)


def _columns_that_fit() -> int:
    """Return how many T's stand side by side: all of them where no terminal is."""
    if not sys.stdout.isatty():
        return sys.maxsize
    width = shutil.get_terminal_size().columns - _NAME_WIDTH
    return max(1, width // _INTERVAL_WIDTH)


def _estimate(run: dict[str, Any], document: dict[str, Any]) -> str:
    """Return a run's estimate; one without is diverged only if it was trained to T."""
    if run["estimate"] is not None:
        return f"{run['estimate']:.6g}"
    was_estimated = parse_monitor(document["monitor"]) is not None
    return "diverged" if was_estimated and run["epochs"] >= document["at"] else "-"


def _checkpoint(path: str | None) -> str:
    """Return where a run goes on, with a mark if that is gone, or on another machine."""
    if path is None:
        return "-"
    return f"{path} (not here)" if is_gone(path) else path


def _interval(value: Any) -> str:
    if value is None:
        return ""
    if math.isnan(value.rho):
        return "undefined"
    return f"{value.rho:.3f} [{value.low:.3f}, {value.high:.3f}]"
