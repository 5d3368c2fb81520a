"""The typed options of the three commands, and the checks that argparse cannot make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lightning_sotl import plotting
from lightning_sotl.curves.logs import is_run_file
from lightning_sotl.curves.table_files import SUFFIXES
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import FINAL_LOSS, LCSVR
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.replay.policies import named_policy
from lightning_sotl.stats.correlation import Method
from lightning_sotl.stats.ranks import Mode


@dataclass(frozen=True)
class Query:
    """PATH and the names of the logged values to read.

    Attributes:
        paths: Directories or files of runs, one `.npz` of `LearningCurves`, one table, or a
            benchmark's file.
        format: "auto" for runs, `.npz` files and tables, otherwise the name of the benchmark.
        val_loss: The key of the validation loss.
        val_metric: The key of the validation metric.
        target: The key of the final metric.
        final_loss: The key of the final test loss.
        train_loss: The key of the epoch loss, for runs without a record and without `sotl_e1`.
        metric_mode: "max" if higher is better for the validation metric; None if not given.
        target_mode: The same for the final metric.
        run_column: The column of a table with the run's name; None for the default.
        epoch_column: The column with the epoch; None for the default.
        first_epoch: The number of the first epoch in a table; None for the default.
        monitor: The estimate (or for `rank`, the logged key) of the runs to read. Its name contains
            the prefix and the block size.
    """

    paths: tuple[Path, ...]
    format: str = "auto"
    val_loss: str | None = None
    val_metric: str | None = None
    target: str | None = None
    final_loss: str | None = None
    train_loss: str | None = None
    metric_mode: Mode | None = None
    target_mode: Mode | None = None
    run_column: str | None = None
    epoch_column: str | None = None
    first_epoch: int | None = None
    monitor: str = "sotl_e1"

    @property
    def is_of_runs(self) -> bool:
        """Whether PATH contains runs, as opposed to one file with a table of curves."""
        path = self.paths[0]
        is_table = len(self.paths) == 1 and path.is_file() and not is_run_file(path)
        return self.format == "auto" and not is_table and not self.is_table

    @property
    def is_table(self) -> bool:
        """Whether PATH is a CSV or Parquet file with a row for each run and epoch."""
        path = self.paths[0]
        if self.format != "auto" or len(self.paths) > 1 or not path.is_file():
            return False
        # Lightning's own "metrics.csv" has one run, and no column with its name.
        has_suffix = path.suffix.lower() in SUFFIXES
        return has_suffix and (bool(self.table_options) or not is_run_file(path))

    @property
    def table_options(self) -> list[str]:
        """The given options that only a table accepts."""
        values = {
            "--run-column": self.run_column,
            "--epoch-column": self.epoch_column,
            "--first-epoch": self.first_epoch,
        }
        return [flag for flag, value in values.items() if value is not None]


@dataclass(frozen=True)
class Output:
    """How to show the result.

    Attributes:
        json: Whether to print one JSON document instead of tables.
        plot: The file to save a figure to, or None.
    """

    json: bool = False
    plot: str | None = None


@dataclass(frozen=True)
class RankOptions:
    """The options of `lightning-sotl rank`; its `--help` explains each."""

    command: ClassVar[str] = "rank"
    query: Query
    output: Output
    at: int | None  # None for the default
    top: int | None  # None for all
    group_by: tuple[str, ...]
    params: bool
    stability: bool

    def check(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is out of range or missing, or if two contradict each other.
            ModuleNotFoundError: If --plot is given and matplotlib is not installed.
        """
        _check_at_least("--top", 1, self.top)
        _check_at_least("--at", 1, self.at)
        _check_figure(self.output, self.group_by)
        _check_monitor_mode(self.query)


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `lightning-sotl evaluate`; its `--help` explains each."""

    command: ClassVar[str] = "evaluate"
    query: Query
    output: Output
    at: tuple[int, ...]  # empty for the default
    estimators: tuple[str, ...]  # empty for the default
    grid: bool
    method: Method
    resamples: int
    seed: int
    group_by: tuple[str, ...]

    def check(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is out of range or missing, or if two contradict each other.
            ModuleNotFoundError: If --plot is given and matplotlib is not installed.
        """
        _check_at_least("--at", 1, *self.at)
        _check_at_least("--resamples", 1, self.resamples)
        _check_at_least("--seed", 0, self.seed)
        _check_figure(self.output, self.group_by)
        for name in self.estimators:
            if name not in (FINAL_LOSS, LCSVR):
                named_estimator(name)
        _check_target(self.query)
        _check_estimate(self.query)


@dataclass(frozen=True)
class ReplayOptions:
    """The options of `lightning-sotl replay`; its `--help` explains each."""

    command: ClassVar[str] = "replay"
    query: Query
    output: Output
    policies: tuple[str, ...]  # empty for the default
    runs: int
    repeats: int
    workers: int | None  # None for one per run
    seed: int
    validation_cost: float

    def check(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is out of range or missing.
            ModuleNotFoundError: If a policy or the figure needs a package that is not installed.
        """
        _check_at_least("--workers", 1, self.workers)
        _check_at_least("--runs", 2, self.runs)
        _check_at_least("--repeats", 2, self.repeats)
        _check_at_least("--seed", 0, self.seed)
        _check_figure(self.output)
        if not (math.isfinite(self.validation_cost) and self.validation_cost >= 0):
            raise ValueError(
                "Expected --validation-cost to be a finite number of at least 0 but got "
                f"{self.validation_cost}."
            )
        _check_target(self.query)
        _check_estimate(self.query)
        for name in self.policies:
            named_policy(name)


def _check_at_least(flag: str, least: int, *values: int | None) -> None:
    for value in values:
        if value is not None and value < least:
            raise ValueError(f"Expected {flag} to be at least {least} but got {value}.")


def _check_figure(output: Output, group_by: tuple[str, ...] = ()) -> None:
    """Raise if --plot is combined with --group-by, or if matplotlib lacks the file format."""
    if not output.plot:
        return
    if group_by:
        raise ValueError("--plot draws one group of runs and cannot be combined with --group-by.")
    plotting.figure_format(output.plot)


def _check_target(query: Query) -> None:
    """Raise if PATH is a directory of runs or a CSV file, and --target is missing."""
    exists = all(path.exists() for path in query.paths)
    if query.is_of_runs and query.target is None and exists:
        raise ValueError("A directory of runs needs --target, the logged key of the final metric.")
    # Unlike CSV, Parquet may store which column is the target.
    if query.is_table and query.target is None and query.paths[0].suffix.lower() == ".csv":
        raise ValueError("A CSV table needs --target, the column of the final metric.")


def _check_estimate(query: Query) -> None:
    """Raise if --monitor is not the name of an estimate."""
    if parse_monitor(query.monitor) is None:
        raise ValueError(
            "Expected --monitor to be an estimate's name such as 'sotl_e1' or 'sotl_b1000_e1' but "
            f"got '{query.monitor}'."
        )


def _check_monitor_mode(query: Query) -> None:
    """Raise if --metric-mode is missing for a logged key or wrong for an estimate."""
    monitor = query.monitor
    if parse_monitor(monitor) is not None:
        # With --val-metric, --metric-mode applies to that metric.
        if query.metric_mode == "max" and not query.val_metric:
            raise ValueError(
                f"Expected --metric-mode to be 'min' for --monitor {monitor}, because a lower "
                "estimate is better, but got 'max'."
            )
    elif query.metric_mode is None:
        alternative = monitor.replace("-", "_")  # `evaluate` writes "sotl-e2"
        if parse_monitor(alternative) is not None:
            raise ValueError(
                f"There is no estimate '{monitor}'; did you mean '{alternative}'? If it is a "
                "logged key, add --metric-mode min (lower is better) or max (higher is better)."
            )
        raise ValueError(
            f"--monitor {monitor} is not an estimate. If it is a logged key, add --metric-mode min "
            "(lower is better) or max (higher is better)."
        )
