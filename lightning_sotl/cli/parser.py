"""Parses the command-line arguments into typed options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_sotl import __version__
from lightning_sotl._utils.text import visible

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from lightning_sotl.cli.options import EvaluateOptions, RankOptions, ReplayOptions


# For an option that accepts several values and may be repeated.
_SEVERAL: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print the help or the version. Unlike argparse, raise if printing fails."""
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Print the error with its control characters escaped."""
        super().error(visible(message))


def parse_options(
    arguments: Sequence[str] | None = None,
) -> RankOptions | EvaluateOptions | ReplayOptions:
    """Return the options of the requested command.

    Args:
        arguments: The arguments after the program's name; None for `sys.argv[1:]`.

    Raises:
        SystemExit: If the arguments are wrong, or request the help or the version. argparse has
            printed the message by then.
    """
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help(sys.stderr)
        sys.stderr.write("\nlightning-sotl: error: a COMMAND is missing\n")
        raise SystemExit(2)
    return _typed(parsed)


def _typed(parsed: argparse.Namespace) -> RankOptions | EvaluateOptions | ReplayOptions:
    # Imported here to keep `--help` fast.
    from dataclasses import fields
    from pathlib import Path

    from lightning_sotl.cli import options

    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(parsed).items()
    }
    values["paths"] = tuple(map(Path, parsed.paths))

    def fill(kind: type[Any], **parts: Any) -> Any:
        names = values.keys() & {field.name for field in fields(kind)}
        return kind(**parts, **{name: values[name] for name in names})

    kinds: dict[str, type[Any]] = {
        "rank": options.RankOptions,
        "evaluate": options.EvaluateOptions,
        "replay": options.ReplayOptions,
    }
    typed: RankOptions | EvaluateOptions | ReplayOptions = fill(
        kinds[parsed.command], query=fill(options.Query), output=fill(options.Output)
    )
    return typed


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="lightning-sotl",
        description="Rank training runs early by the sum of their training losses (SoTL-E).",
        epilog="Exit codes: 0 success, 1 unsuitable data, 2 wrong usage, 130 interrupted. "
        "Run `lightning-sotl COMMAND --help` to see the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"lightning-sotl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    rank = commands.add_parser("rank", help="rank runs early and list their checkpoints")
    evaluate = commands.add_parser(
        "evaluate", help="measure how well early estimates agree with the final results"
    )
    replay = commands.add_parser(
        "replay", help="compare what stopping policies would have cost and picked"
    )
    _add_rank(rank)
    _add_evaluate(evaluate)
    _add_replay(replay)
    return parser


def _add_rank(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Rank the runs by an early estimate, best first, and list the checkpoint from which each "
        "run can resume."
    )
    _add_source(parser, "; required if --monitor is a logged key, to which it then applies")
    parser.add_argument(
        "--monitor",
        default="sotl_e1",
        help="estimate or logged key to rank by (default: sotl_e1); a logged key requires "
        "--metric-mode",
    )
    parser.add_argument(
        "--at",
        type=int,
        metavar="T",
        help="compare the runs after T completed epochs (default: the smallest T at which a "
        "stopper ended runs; if only a policy or a pruner ended runs or a sweep paused some, the "
        "epochs of the longest run; otherwise the largest T that three quarters of the runs have "
        "reached)",
    )
    parser.add_argument("--top", type=int, metavar="K", help="print only the best K runs")
    _add_groups(parser)
    parser.add_argument(
        "--params",
        action="store_true",
        help="show all parameters of the runs (default: only those that differ, if they fit)",
    )
    parser.add_argument(
        "--stability",
        action="store_true",
        help="also print the rank correlation between the orders at T/2 and at T",
    )
    _add_output(parser, "rank of each run over the epochs")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the rank correlation of each estimator with the target at each T, with 95% "
        "bootstrap intervals. +1 means that the estimator ranks the runs exactly as the target "
        "does. Then recommend the cheapest window E and T of SoTL-E that are not significantly "
        "worse than the best."
    )
    _add_source(parser)
    _add_estimate(parser)
    parser.add_argument(
        "--at",
        type=int,
        metavar="T",
        help="evaluate after T completed epochs (default: up to eight values, from a fortieth of "
        "the epochs to all of them)",
        **_SEVERAL,
    )
    parser.add_argument(
        "--estimator",
        dest="estimators",
        metavar="NAME",
        help="estimators to evaluate, for example sotl-e10, val-metric, final-loss or lcsvr "
        "(default: a standard set of those that the data allow, without lcsvr)",
        **_SEVERAL,
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="add SoTL-E with the windows E = 1, 2, 5, 10, 20, ..., 70; without --estimator, "
        "evaluate only these",
    )
    parser.add_argument(
        "--method",
        choices=["spearman", "kendall", "weighted-tau"],
        default="spearman",
        help="rank correlation (default: spearman)",
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="number of bootstrap resamples (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the bootstrap and of lcsvr (default: 0)"
    )
    _add_groups(parser)
    _add_output(parser, "rank correlation against T")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replay stopping policies on the curves of finished runs, in simulated time. Print what "
        "each policy would have cost, as a share of full training, and how good its pick is. Rank "
        "regret is (place - 1) / (N - 1), where place is the pick's rank by the target among the N "
        "runs: 0 for the best run, 1 for the worst. Metric regret is the difference between the "
        "targets of the best run and of the pick. Both are means over the repeats; lower is better."
    )
    _add_source(parser)
    _add_estimate(parser)
    parser.add_argument(
        "--policy",
        dest="policies",
        metavar="NAME",
        help="policies to replay, for example adaptive, adaptive-pause (runs take turns), "
        "adaptive-keep2, fixed-t10-top5, halving, asha-promote, optuna-median or ray-hyperband; "
        "add -val to a name to use validation values instead of training losses, or -both to an "
        "adaptive policy to use both (default: one policy of each kind that is installed)",
        **_SEVERAL,
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=81,
        metavar="N",
        help="runs drawn in each repeat (default: 81, or all if there are fewer)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=200,
        metavar="R",
        help="number of repeats; all policies see the same draws (default: 200)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="W", help="runs that train at the same time (default: all N)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the draws (default: 0)"
    )
    parser.add_argument(
        "--validation-cost",
        type=float,
        default=0.0,
        metavar="C",
        help="cost of a validation pass, as a share of a training epoch (default: 0); a policy "
        "that reads only training losses pays it for the last epoch of full training only, an "
        "adaptive policy for the last three",
    )
    _add_output(parser, "rank regret against cost")


def _add_source(parser: argparse.ArgumentParser, mode_note: str = "") -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="directories or files of runs (records, or logs of CSVLogger or TensorBoardLogger), "
        "one .npz file of LearningCurves, or one .csv or .parquet table with a row for each run "
        "and epoch",
    )
    parser.add_argument(
        "--format",
        choices=["auto", "nas-bench-nlp"],
        default="auto",
        help="format of PATH: auto for runs, .npz files and tables (default), nas-bench-nlp for "
        "the zip or the folder of that benchmark",
    )
    keys = parser.add_argument_group(
        "logged values", "KEY is a logged key, or the name of a column of a table."
    )
    keys.add_argument("--val-loss", metavar="KEY", help="key of the validation loss")
    keys.add_argument("--val-metric", metavar="KEY", help="key of the validation metric")
    keys.add_argument(
        "--target", metavar="KEY", help="key of the final metric, which decides which run is best"
    )
    keys.add_argument("--final-loss", metavar="KEY", help="key of the final test loss")
    keys.add_argument(
        "--train-loss",
        metavar="KEY",
        help="key of the epoch training loss, for runs with neither a record nor sotl_e1, and for "
        "a table (default there: train_loss)",
    )
    keys.add_argument(
        "--metric-mode",
        choices=["min", "max"],
        help="min if a lower validation metric is better, max if a higher one is (default: max, or "
        f"the mode stored in the file){mode_note}",
    )
    keys.add_argument(
        "--target-mode",
        choices=["min", "max"],
        help="the same for the target (default: the value of --metric-mode)",
    )
    table = parser.add_argument_group("tables", "For a .csv or .parquet table.")
    table.add_argument(
        "--run-column", metavar="NAME", help="column with the name of the run (default: run)"
    )
    table.add_argument(
        "--epoch-column", metavar="NAME", help="column with the epoch (default: epoch)"
    )
    table.add_argument(
        "--first-epoch",
        type=int,
        choices=[0, 1],
        help="number of the first epoch (default: 0)",
    )


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--monitor",
        metavar="NAME",
        default="sotl_e1",
        help="estimate that the runs log; its name has the prefix and the unit, so sotl_b1000_e1 "
        "reads blocks of 1000 batches (default: sotl_e1)",
    )


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-by",
        nargs="+",
        metavar="FIELD",
        default=[],
        help="compare only runs whose records agree in these fields, for example batch_size, "
        "hparams.model.dropout or params.loss; prints one result per group",
    )


def _add_output(parser: argparse.ArgumentParser, figure: str) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of tables"
    )
    parser.add_argument("--plot", metavar="FILE", help=f"save a figure to FILE: {figure}")
