"""From the command line's arguments to typed options."""

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


# For an option with one or more values that may be given repeatedly.
_SEVERAL: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print the help or the version; unlike argparse, raise if that fails."""
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the arguments, with control characters written out."""
        super().error(visible(message))


def parse_options(
    arguments: Sequence[str] | None = None,
) -> RankOptions | EvaluateOptions | ReplayOptions:
    """Return the options of the command that the arguments name.

    Args:
        arguments: The arguments after the program's name; None for the process's own.

    Raises:
        SystemExit: If the arguments are wrong, or ask for the help or the version; argparse has
            then printed why.
    """
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help(sys.stderr)
        sys.stderr.write("\nlightning-sotl: error: a COMMAND is missing\n")
        raise SystemExit(2)
    return _typed(parsed)


def _typed(parsed: argparse.Namespace) -> RankOptions | EvaluateOptions | ReplayOptions:
    # Imported here, so that `--help` answers at once.
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
        description="Early ranking of training runs by the sum of their training losses (SoTL-E).",
        epilog="Exit codes: 0 done, 1 the data do not allow it, 2 wrong usage. "
        "`lightning-sotl COMMAND --help` has the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"lightning-sotl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    rank = commands.add_parser("rank", help="the runs in order, with the checkpoint to resume from")
    evaluate = commands.add_parser(
        "evaluate", help="how well each estimator at each T agrees with the final results"
    )
    replay = commands.add_parser(
        "replay", help="what each stopping policy would have cost and picked on these runs"
    )
    _add_rank(rank)
    _add_evaluate(evaluate)
    _add_replay(replay)
    return parser


def _add_rank(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the runs in order of an early estimate, the best first."
    _add_source(parser, "; required if --monitor is a logged key")
    parser.add_argument(
        "--monitor",
        default="sotl_e1",
        help="estimate to rank by (sotl_e1), or a logged key, which needs --metric-mode",
    )
    parser.add_argument(
        "--at",
        type=int,
        metavar="T",
        help="completed epochs to compare at; by default where a stopper has ended the runs, "
        "otherwise the most that three quarters of them have completed",
    )
    parser.add_argument("--top", type=int, metavar="K", help="print the best K only")
    _add_groups(parser)
    parser.add_argument(
        "--params",
        action="store_true",
        help="show all parameters of the runs; by default those that differ, if they fit",
    )
    parser.add_argument(
        "--stability",
        action="store_true",
        help="also print how the order at T/2 agrees with that at T",
    )
    _add_output(parser, "ranks of the runs over the epochs")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the oriented rank correlation of each estimator with the target at each T, with "
        "95 % bootstrap intervals, and the cheapest (E, T) that is not worse than the best."
    )
    _add_source(parser)
    parser.add_argument("--at", type=int, metavar="T", help="completed epochs", **_SEVERAL)
    names = "sotl-e10, val-metric and so on"
    parser.add_argument("--estimator", dest="estimators", metavar="NAME", help=names, **_SEVERAL)
    parser.add_argument(
        "--grid", action="store_true", help="evaluate SoTL-E for a grid of windows E"
    )
    parser.add_argument(
        "--method", choices=["spearman", "kendall", "weighted-tau"], default="spearman"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    _add_groups(parser)
    _add_output(parser, "rank correlation against T")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replay stopping policies on the curves of finished runs, in simulated time, and print "
        "what each would have cost, as a share of full training, and how good its pick is. Rank "
        "regret is (place - 1) / (N - 1), where place is the pick's rank by the target among the N "
        "runs: 0 for the best run, 1 for the worst. Metric regret is how far the pick's target "
        "is from the best run's. Both are means over the repeats, and lower is better."
    )
    _add_source(parser)
    parser.add_argument(
        "--policy",
        dest="policies",
        metavar="NAME",
        help="adaptive, adaptive-pause (runs that take turns), adaptive-keep2, fixed-t10-top5, "
        "halving, asha-promote, optuna-median, ray-hyperband and so on, with the ending -val by "
        "validation values in place of training losses, adaptive with -both by both; by default "
        "one of each kind that is built in or installed",
        **_SEVERAL,
    )
    parser.add_argument(
        "--runs", type=int, default=81, metavar="N", help="that a repeat draws (81)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=200,
        metavar="R",
        help="draws, the same for each policy (200)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="W", help="runs trained at a time; by default all N"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (0)")
    parser.add_argument(
        "--validation-cost",
        type=float,
        default=0.0,
        metavar="C",
        help="of a validation pass, as a share of a training epoch (0); policies that read only "
        "training losses pay it only after the last epoch, the adaptive ones after the last three",
    )
    _add_output(parser, "rank regret against cost")


def _add_source(parser: argparse.ArgumentParser, monitor: str = "") -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="directories or files of runs (records, CSVLogger, TensorBoardLogger), or an .npz of "
        "LearningCurves",
    )
    parser.add_argument(
        "--format",
        choices=["auto", "nas-bench-nlp"],
        default="auto",
        help="what PATH is, if it is neither of these",
    )
    keys = parser.add_argument_group("what the logs call it")
    keys.add_argument("--val-loss", metavar="KEY", help="validation loss")
    keys.add_argument("--val-metric", metavar="KEY", help="validation metric")
    keys.add_argument("--target", metavar="KEY", help="final metric that runs are ranked for")
    keys.add_argument("--final-loss", metavar="KEY", help="final test loss")
    keys.add_argument(
        "--train-loss",
        metavar="KEY",
        help="to take for the epoch loss of runs that have neither a record nor sotl_e1",
    )
    keys.add_argument(
        "--metric-mode",
        choices=["min", "max"],
        help="whether a lower or a higher validation metric is better; by default max, or as in "
        f"the .npz file{monitor}",
    )
    keys.add_argument(
        "--target-mode",
        choices=["min", "max"],
        help="the same for the target; by default as --metric-mode",
    )


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-by",
        nargs="+",
        metavar="FIELD",
        default=[],
        help="compare only runs that share a field of their records, for example batch_size, "
        "hparams.model.dropout or params.loss, group by group",
    )


def _add_output(parser: argparse.ArgumentParser, picture: str) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document and nothing else"
    )
    parser.add_argument("--plot", metavar="FILE", help=f"save a picture: {picture}")
