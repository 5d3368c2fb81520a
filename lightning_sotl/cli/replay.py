"""What `lightning-sotl replay` does: read curves, replay policies on them, show what came out."""

from __future__ import annotations

import math
from argparse import Namespace

from lightning_sotl.cli import output
from lightning_sotl.cli.inputs import (
    UsageError,
    check_picture_name,
    check_positive,
    check_seed,
    finished_runs,
    needs_target,
)
from lightning_sotl.cli.output import print_document
from lightning_sotl.replay.experiment import replay as replay_policies
from lightning_sotl.replay.policies import default_names, named_policy
from lightning_sotl.replay.policy import Policy
from lightning_sotl.replay.recorded import replayable


def replay(options: Namespace) -> None:
    """Print what stopping policies would have cost and picked on the runs of PATH.

    Raises:
        UsageError: If an option is missing or out of range.
        ValueError: If the data do not allow a replay, or not by a policy that was asked for.
        ModuleNotFoundError: If a policy needs a package that is not installed.
    """
    _check(options)
    named = [_policy(name) for name in dict.fromkeys(options.policy or [])]
    curves = finished_runs(options)
    if not named:
        has_validation = replayable(curves).validation is not None
        names = default_names(curves.epochs, has_validation=has_validation)
        named = [named_policy(name) for name in names]
    with output.progress("replayed {} of {} repeats") as progress:
        result = replay_policies(
            curves,
            named,
            runs=options.runs,
            repeats=options.repeats,
            workers=options.workers,
            seed=options.seed,
            validation_cost=options.validation_cost,
            progress=progress,
        )
    output.notes(result.notes)
    if options.plot:
        from lightning_sotl import plotting

        plotting.save(plotting.draw_replay(result), options.plot)
    if options.json:
        print_document(result.to_json())
    else:
        output.show_replay(result)


def _check(options: Namespace) -> None:
    check_positive("--workers", [] if options.workers is None else [options.workers])
    for flag, value in (("--runs", options.runs), ("--repeats", options.repeats)):
        if value < 2:
            raise UsageError(f"Expected {flag} to be at least 2 but got {value}.")
    check_seed(options)
    check_picture_name(options)
    if not (math.isfinite(options.validation_cost) and options.validation_cost >= 0):
        raise UsageError(
            "Expected --validation-cost to be a share of an epoch, at least 0, but got "
            f"{options.validation_cost}."
        )
    needs_target(options)


def _policy(name: str) -> Policy:
    try:
        return named_policy(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
