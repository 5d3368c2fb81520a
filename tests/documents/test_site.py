"""The site builds without warnings, and shows what users need of the code."""

import subprocess
import sys

from tests.support.paths import ROOT


def test_the_site_builds_without_a_broken_cross_reference(tmp_path):
    """The configuration is strict: each warning fails the build, unless `--quiet` hides it."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
