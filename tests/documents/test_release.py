"""The version and the date of the newest release, which three files state."""

import re

from lightning_sotl import __version__
from tests.support.paths import ROOT


def test_the_changelog_and_the_citation_state_the_version_and_the_same_date() -> None:
    changelog, citation = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    released = re.search(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    cited = re.search(r"^version: (.+)\ndate-released: (.+)$", citation, re.MULTILINE)
    assert released
    assert cited
    assert released.groups() == cited.groups()
    assert released[1] == __version__
