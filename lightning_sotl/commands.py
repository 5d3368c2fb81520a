"""What the sub-commands share: checks of options, reading PATH, its groups of runs, and JSON."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning_sotl import screen
from lightning_sotl.comparability import comparability_notes, groups_of
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.sources import find_runs, is_directory_of_runs

Result = TypeVar("Result")


class UsageError(Exception):
    """The options contradict each other, or one that is needed is missing."""


def read_runs(options: Namespace, **what: Any) -> FoundRuns:
    """Return the runs of PATH, and print what could not be read of it.

    Args:
        options: The command line's.
        **what: As `find_runs` takes it.

    Raises:
        ValueError: If PATH does not hold what was asked for.
    """
    with warnings.catch_warnings(record=True) as caught, screen.progress() as progress:
        warnings.simplefilter("always")
        found = find_runs(options, progress=progress, **what)
    screen.remarks(found.notes.remarks)
    screen.notes([*(str(entry.message) for entry in caught), *found.notes.warnings])
    return found


def finished_runs(options: Namespace) -> LearningCurves:
    """Return the curves of PATH, and print what has to be said of them.

    Raises:
        ValueError: If the data do not hold what was asked for.
    """
    found = read_runs(options)
    screen.notes(comparability_notes(found.facts))
    return found.curves


def of_each_group(
    options: Namespace,
    found: FoundRuns,
    compute: Callable[[list[int]], tuple[Result, list[str]]],
) -> list[tuple[dict[str, str], Result]]:
    """Return each group's values of the fields of --group-by, and what is computed of its runs.

    A group that allows no result is said and left out. Without --group-by all runs are one group,
    whose values are empty.

    Args:
        options: The command line's.
        found: The runs.
        compute: Rows of `found` -> the result, and what has to be said of it.

    Raises:
        ValueError: If no group allows a result, or if no run has one of the fields.
    """
    results = []
    reasons = []
    for values, rows in groups_of(found.facts, options.group_by).items():
        group = dict(zip(options.group_by, values, strict=True))
        name = screen.group_name(group)
        try:
            result, notes = compute(rows)
        except ValueError as error:
            reasons.append(str(error))
            if group:
                screen.notes([f"Left out the group {name}: {error}"])
            continue
        screen.notes([f"{name}: {note}" for note in notes] if group else notes)
        results.append((group, result))
    if not results:
        raise ValueError(reasons[0])
    return results


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


def needs_target(options: Namespace) -> None:
    """Raise if PATH is a directory of runs and nothing says what they came to.

    Raises:
        UsageError: If --target is missing.
    """
    if is_directory_of_runs(options) and options.target is None and Path(options.path).exists():
        raise UsageError("A directory of runs needs --target, the logged key of the final metric.")


def check_positive(flag: str, values: list[int]) -> None:
    """Raise unless all values of an option are at least 1.

    Raises:
        UsageError: If one is not.
    """
    for value in values:
        if value < 1:
            raise UsageError(f"Expected {flag} to be at least 1 but got {value}.")


def check_seed(options: Namespace) -> None:
    """Raise unless --seed is one.

    Raises:
        UsageError: If it is negative.
    """
    if options.seed < 0:
        raise UsageError(f"Expected --seed to be at least 0 but got {options.seed}.")


def check_one_picture(options: Namespace) -> None:
    """Raise if --plot would have to draw several groups.

    Raises:
        UsageError: If --group-by is given, too.
    """
    if options.plot and options.group_by:
        raise UsageError("--plot draws one group of runs; it does not go with --group-by.")


def check_picture_name(options: Namespace) -> None:
    """Raise if --plot names a picture of a format that cannot be drawn, before anything is read.

    Raises:
        UsageError: If matplotlib does not know the file name's ending.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    if not options.plot:
        return
    from lightning_sotl import plotting

    try:
        plotting.picture_format(options.plot)
    except ValueError as error:
        raise UsageError(str(error)) from None
