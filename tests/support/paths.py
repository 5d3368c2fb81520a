"""The folders of the project, and recorded curves outside it that some tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lightning_sotl"
EXAMPLES = ROOT / "examples"
PAPER = EXAMPLES / "paper"
LANGUAGE = EXAMPLES / "language"
SHARED_DATA = ROOT.parent / "shared" / "data"

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"no shared data of recorded curves at {SHARED_DATA}"
)
