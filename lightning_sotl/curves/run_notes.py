"""`RunNotes`: what to know about the runs of a directory before trusting the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunNotes:
    """Sentences on the runs of a directory.

    Attributes:
        left_out: What was not read or does not count; it might have been the best.
        cautions: What else makes the numbers less certain.
        remarks: What is in order but may surprise, for example a second logger.

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
        """What was left out and the cautions, each once."""
        return list(dict.fromkeys([*self.left_out, *self.cautions]))
