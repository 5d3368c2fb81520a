"""The results of a command by group of runs, and the notes on them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lightning_sotl._utils.text import shortened
from lightning_sotl.curves.logs import FoundRuns
from lightning_sotl.curves.run_notes import RunNotes
from lightning_sotl.ranking.comparability import groups_of


class Result(Protocol):
    """A result that can be printed as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""


AnyResult = TypeVar("AnyResult", bound=Result)


@dataclass(frozen=True)
class Report(Generic[AnyResult]):
    """The results of a command.

    Attributes:
        results: For each group of runs, the values of the --group-by fields and the result.
            Without --group-by there is one group, and it has no values.
        notes: Notes on the runs and the results.
    """

    results: list[tuple[dict[str, str], AnyResult]]
    notes: RunNotes


class NotedError(Exception):
    """An error that occurred after the runs were read.

    Attributes:
        error: The original error.
        notes: The notes so far, to be shown before the error.
    """

    def __init__(self, error: Exception, notes: RunNotes) -> None:
        super().__init__(str(error))
        self.error = error
        self.notes = notes


@contextlib.contextmanager
def noted_errors(notes: RunNotes) -> Iterator[None]:
    """Attach notes to errors, so that the notes are not lost.

    Raises:
        NotedError: If the block raises an error that the command line reports.
    """
    try:
        yield
    except (ValueError, ModuleNotFoundError, MemoryError) as error:
        raise NotedError(error, notes) from error


def report_groups(
    found: FoundRuns,
    fields: Sequence[str],
    compute: Callable[[list[int]], tuple[AnyResult, list[str]]],
) -> Report[AnyResult]:
    """Return the result of each group of runs, and a note for each group without a result.

    Args:
        found: The runs.
        fields: The --group-by fields.
        compute: Returns the result and its notes, given row numbers of `found`.

    Raises:
        NotedError: If no group has a result, or if a field is missing in all runs.
    """
    notes = dataclasses.replace(found.notes, cautions=[*found.notes.cautions])
    results = []
    with noted_errors(notes):
        reasons = []
        for values, rows in groups_of(found.facts, fields).items():
            group = dict(zip(fields, values, strict=True))
            name = group_name(group)
            try:
                result, cautions = compute(rows)
            except ValueError as error:
                if not group:
                    raise
                reasons.append(error)
                notes.cautions.append(f"Left out the group {name}: {error}")
                continue
            notes.cautions.extend(f"{name}: {note}" if group else note for note in cautions)
            results.append((group, result))
        if not results:
            raise reasons[0]
    return Report(results, notes)


def group_name(group: dict[str, str]) -> str:
    """Return the name of a group: the fields and values that its runs share.

    Examples:
        >>> group_name({"batch_size": "32", "hparams.dropout": "0.1"})
        'batch_size = 32, hparams.dropout = 0.1'
    """
    return ", ".join(f"{name} = {shortened(value)}" for name, value in group.items())
