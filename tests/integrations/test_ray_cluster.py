"""Ray Tune on a cluster: trials are stopped on one node and promoted on another, which dies."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

# Ray starts a dozen processes, each of which imports torch: on a busy machine that takes minutes.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def test_winners_go_on_from_the_storage_on_another_node_also_when_that_dies(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_cluster_job", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    outcome = json.loads((tmp_path / "outcome.json").read_text())
    stopped, promoted = outcome["stopped"], outcome["promoted"]
    assert set(stopped) == {"bad", "good", "second-best"}
    assert set(promoted) == {"good", "second-best"}
    lost = json.loads((tmp_path / "lost.json").read_text())
    assert lost["name"] in promoted
    assert lost["epochs"] == 3  # it went on from there, on the node that came instead
    for name, trial in promoted.items():
        assert trial["error"] == "None"
        assert trial["promoted_from"] == stopped[name]["trial_id"]
        notes = [json.loads((tmp_path / f"{p}{name}.json").read_text()) for p in ("", "promoted-")]
        assert [note["promoted"] for note in notes] == [False, True]
        assert notes[0]["node"] != notes[1]["node"]
        # Epochs 1 and 2 were reported by the first sweep, 3 and 4 by the second.
        losses = outcome["never_stopped"][name]
        reports = [[losses[str(e - 1)], e, e] for e in (1, 2, 3, 4)]
        assert stopped[name]["rows"] + trial["rows"] == reports
        assert notes[1]["epoch_losses"] == losses
