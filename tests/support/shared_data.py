"""The folder of recorded curves outside the project, and the mark of tests that need it."""

from __future__ import annotations

import pytest

from tests.support.paths import ROOT

SHARED_DATA = ROOT.parent / "shared" / "data"

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"no shared data of recorded curves at {SHARED_DATA}"
)
