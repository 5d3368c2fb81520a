"""The output of the commands: notes, tables, JSON documents, progress bars."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from lightning_sotl import plotting
from lightning_sotl._utils.files import is_gone
from lightning_sotl._utils.text import pluralize, quote_few, shortened, visible
from lightning_sotl.cli.options import Output
from lightning_sotl.cli.report import AnyResult, NotedError, Report, group_name
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.evaluation.evaluate import Correlation, Evaluation
from lightning_sotl.losses.names import parse_monitor, unit_of
from lightning_sotl.ranking.fields import leaves, value_key, value_text
from lightning_sotl.replay.experiment import Replay, undominated

_NAME_WIDTH, _INTERVAL_WIDTH = 17, 24  # columns of the evaluation table
_PARAM_WIDTH, _MOST_PARAMS = 30, 1000  # damaged records may have any number of parameters
_DELAY = 0.5  # seconds before a progress bar appears


def show(
    report: Report[AnyResult],
    output: Output,
    *,
    draw: Callable[[AnyResult], Any],
    print_table: Callable[[AnyResult], None],
) -> None:
    """Print the notes of a report, save its figure, and print its tables or its JSON document.

    Args:
        report: The results and notes.
        output: How to show them.
        draw: Returns the figure of a result.
        print_table: Prints a result as a table.

    Raises:
        OSError: If the figure cannot be written.
    """
    show_notes(report.notes)
    if output.plot:
        plotting.save(draw(report.results[0][1]), output.plot)
    if output.json:
        _print_json(report)
        return
    for group, result in report.results:
        if group:
            _print_line()
            _print_line(group_name(group))
        print_table(result)


def show_notes(notes: RunNotes) -> None:
    """Print remarks and warnings on standard error."""
    for remark in notes.remarks:
        show_error(f"note: {remark}")
    show_warnings(notes.warnings)


def show_warnings(sentences: Sequence[str]) -> None:
    """Print warnings on standard error."""
    for sentence in sentences:
        show_error(f"warning: {sentence}")


def show_error(text: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"{_printable(text, sys.stderr)}\n")


def show_failure(command: str, error: Exception) -> None:
    """Print the notes of an error, then the error, on standard error."""
    if isinstance(error, NotedError):
        show_notes(error.notes)
        error = error.error
    reason = "Not enough memory." if isinstance(error, MemoryError) else error
    show_error(f"lightning-sotl {command}: {reason}")


@contextlib.contextmanager
def progress_bar(description: str, *, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """Provide a function that updates a progress bar; None if standard error is no terminal.

    The bar appears after half a second, so quick commands show none.

    Args:
        description: The text before the bar, for example "Reading".
        unit: The unit of progress, for example "folder".
    """
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=description, unit=unit, file=sys.stderr, delay=_DELAY) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def show_ranking(document: dict[str, Any], names: Sequence[str], *, all_params: bool) -> None:
    """Print a ranking as a table.

    Args:
        document: The JSON document of the ranking.
        names: The names of the runs, best first.
        all_params: Whether to show all parameters of the runs. Otherwise, those that differ are
            shown if the table then fits the terminal.
    """
    runs = document["runs"]
    unit = unit_of(document["monitor"])
    headers = ["rank", "run", document["monitor"], f"{unit}s"]
    rows = [
        [str(run["rank"]), name, _estimate(run, document), str(run["epochs"])]
        for name, run in zip(names, runs, strict=False)  # the document may have only the best K
    ]
    params = _param_columns(runs, all_params=all_params)
    left_out = [] if all_params or _fits([headers, *rows], params) else list(params)
    for name in [] if left_out else params:
        headers.append(shortened(name))
        for row, cell in zip(rows, params[name], strict=True):
            row.append(cell)
    left = {1, *range(4, len(headers) + 1)}
    if any(run["checkpoint"] for run in runs):
        headers.append("checkpoint")
        for row, run in zip(rows, runs, strict=True):
            row.append(_checkpoint(run["checkpoint"]))
    show_table(headers, rows, left=left)
    _print_line(
        f"Ranked by {document['monitor']} after {pluralize(document['at'], f'completed {unit}')}."
    )
    if left_out:
        _print_line(f"The runs differ in {quote_few(left_out)}; --params shows all parameters.")
    if "stability" in document:
        value = document["stability"]
        correlation = "undefined" if value is None else f"{value:.3f}"
        _print_line(f"Rank correlation between the orders at T/2 and at T: {correlation}.")


def _param_columns(runs: list[dict[str, Any]], *, all_params: bool) -> dict[str, list[str]]:
    """Return name -> cells of each parameter; without `all_params`, only those that differ.

    A parameter that is null in all runs is omitted.
    """
    values = [{leaf.name: leaf.value for leaf in leaves(run["params"])} for run in runs]
    columns = {}
    names = list(dict.fromkeys(name for params in values for name in params))
    for name in names[:_MOST_PARAMS]:
        column = [params.get(name) for params in values]
        different = set(map(value_key, column))
        if len(different) > 1 or (all_params and different != {value_key(None)}):
            columns[name] = [_param(value) for value in column]
    return columns


def _param(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return shortened(value if isinstance(value, str) else value_text(value), _PARAM_WIDTH)


def _fits(rows: list[list[str]], columns: dict[str, list[str]]) -> bool:
    """Return whether a table with additional columns fits the terminal, without checkpoints."""
    cells = [*zip(*rows, strict=True), *((name, *column) for name, column in columns.items())]
    width = sum(max(map(len, column)) + 2 for column in cells) - 2
    return width <= shutil.get_terminal_size().columns


def show_evaluation(result: Evaluation, *, mode: str) -> None:
    """Print correlations as a table with one column for each T.

    Args:
        result: The correlations.
        mode: "max" if a higher target is better.
    """
    better = "higher" if mode == "max" else "lower"
    _print_line(
        f"Rank correlation with '{result.target}' ({better} is better) and its 95% interval, "
        f"{pluralize(result.runs, 'run')}, {result.left_out} left out:"
    )
    epochs = sorted({epoch for values in result.estimators.values() for epoch in values})
    columns = _columns_that_fit()
    for begin in range(0, len(epochs), columns):
        shown = epochs[begin : begin + columns]
        rows = [
            [name, *(_interval(values.get(epoch)) for epoch in shown)]
            for name, values in result.estimators.items()
            if any(epoch in values for epoch in shown)
        ]
        show_table(["estimator", *(f"T={epoch}" for epoch in shown)], rows, left={0})
    if result.recommended is not None and result.is_advised:
        window, epoch = result.recommended.window, result.recommended.epoch
        is_last = epoch == epochs[-1] and len(epochs) > 1
        _print_line(
            f"Recommended: E = {window} at T = {epoch}, the cheapest SoTL-E that is not "
            f"significantly worse than the best{' (no smaller T is as good)' if is_last else ''}."
        )


def show_replay(result: Replay) -> None:
    """Print policies as a table, cheapest first."""
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
    show_table(["policy", "", "cost", "rank regret", "metric regret"], rows, left={0, 1})
    _print_line(
        f"{result.repeats} repeats of {result.runs} runs on {pluralize(result.workers, 'worker')}, "
        f"{pluralize(result.left_out, 'run')} left out. Cost is a share of full training, "
        "+- is the standard error."
    )
    _print_line(
        "* No other policy is better in cost or rank regret without being worse in the other."
    )


def show_table(headers: list[str], rows: list[list[str]], *, left: set[int]) -> None:
    """Print a table.

    Args:
        headers: The names of the columns.
        rows: The cells, row by row.
        left: The columns to align left; the others are aligned right.
    """
    lines = [[_printable(cell, sys.stdout) for cell in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        aligned = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        _print_line("  ".join(aligned).rstrip())


def _columns_that_fit() -> int:
    """Return how many columns of T fit the terminal; no limit if there is no terminal."""
    if not sys.stdout.isatty():
        return sys.maxsize
    width = shutil.get_terminal_size().columns - _NAME_WIDTH
    return max(1, width // _INTERVAL_WIDTH)


def _estimate(run: dict[str, Any], document: dict[str, Any]) -> str:
    """Return a run's estimate, "diverged" if it has none although it reached T, or "-"."""
    if run["estimate"] is not None:
        return f"{run['estimate']:.6g}"
    is_estimate = parse_monitor(document["monitor"]) is not None
    return "diverged" if is_estimate and run["epochs"] >= document["at"] else "-"


def _checkpoint(path: str | None) -> str:
    """Return a run's checkpoint, with a mark if the file does not exist."""
    if path is None:
        return "-"
    return f"{path} (not found)" if is_gone(path) else path


def _interval(value: Correlation | None) -> str:
    if value is None:
        return ""
    if math.isnan(value.rho):
        return "undefined"
    return f"{value.rho:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _print_json(report: Report[AnyResult]) -> None:
    """Print one JSON document: a list with --group-by, otherwise the single result."""
    document: Any = [{"group": group, **result.to_json()} for group, result in report.results]
    if not report.results[0][0]:
        document = report.results[0][1].to_json()
    # JSON escapes control characters, so names survive unchanged.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _print_line(text: str = "") -> None:
    sys.stdout.write(f"{_printable(text, sys.stdout)}\n")


def _printable(text: str, stream: TextIO) -> str:
    """Return a text without line breaks that the stream can encode."""
    encoding = stream.encoding or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)
