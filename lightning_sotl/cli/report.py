"""What a command found: results by group of runs, and the notes that belong to them."""

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
        results: For each group of runs, the values of the fields of --group-by and the result.
            Without --group-by there is one group, without values.
        notes: What a reader should know of the runs and of the results.
    """

    results: list[tuple[dict[str, str], AnyResult]]
    notes: RunNotes


class NotedError(Exception):
    """An error after reading.

    Attributes:
        error: The error itself.
        notes: The notes so far, which are shown before it.
    """

    def __init__(self, error: Exception, notes: RunNotes) -> None:
        super().__init__(str(error))
        self.error = error
        self.notes = notes


@contextlib.contextmanager
def noted_errors(notes: RunNotes) -> Iterator[None]:
    """Have errors carry notes, so that these are not lost.

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
    """Return the result of each group of runs; a group that allows none gets a note.

    Args:
        found: The runs.
        fields: The fields of --group-by.
        compute: Rows of `found` -> their result and its notes.

    Raises:
        NotedError: If no group allows a result, or if no run has one of the fields.
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
    """Return what the runs of a group share.

    Example:
        >>> group_name({"batch_size": "32", "hparams.dropout": "0.1"})
        'batch_size = 32, hparams.dropout = 0.1'
    """
    return ", ".join(f"{name} = {shortened(value)}" for name, value in group.items())
