"""The docstrings are Markdown, which the documentation site renders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE

# Directives (`.. math::`), roles (`:class:`) and literals (``x``) of reStructuredText.
RST = re.compile(r"^\s*\.\. \w+::|:(class|func|meth|math):`|``[^`]", re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_docstrings_contain_no_restructured_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("```", "")
    assert [match[0] for match in RST.finditer(text)] == []
