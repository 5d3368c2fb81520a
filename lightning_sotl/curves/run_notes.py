"""`RunNotes`: what to know about the runs of a directory before you trust the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunNotes:
    """Sentences about the runs of a directory.

    Attributes:
        left_out: What was not read or does not count. It may include the best run.
        cautions: What else makes the numbers less certain.
        remarks: What is normal but may surprise, for example a second logger.

    Examples:
        >>> notes = RunNotes(cautions=["b", "b"])
        >>> notes.left_out.append("a")
        >>> notes.warnings
        ['a', 'b']
    """

    left_out: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What was left out and the cautions, without repeats."""
        return list(dict.fromkeys([*self.left_out, *self.cautions]))
