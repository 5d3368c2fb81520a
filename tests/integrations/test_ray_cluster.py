"""Ray Tune on a cluster: a node dies while promoted trials or paused trials train on it."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.ray_sweeps import contiguous

# Ray starts a dozen processes, and each imports torch. This takes minutes on a busy machine.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_cluster_job", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_winners_resume_on_another_node_even_if_it_dies(folder):
    outcome = read(folder / "outcome.json")
    stopped, promoted = outcome["stopped"], outcome["promoted"]
    assert set(stopped) == {"bad", "good", "second-best"}
    assert set(promoted) == {"good", "second-best"}
    lost = read(folder / "lost.json")
    assert lost["name"] in promoted
    assert lost["epochs"] == 3  # the epoch from which the trial resumed on the new node
    for name, trial in promoted.items():
        assert trial["error"] == "None"
        assert trial["promoted_from"] == stopped[name]["trial_id"]
        notes = [read(folder / f"{kind}{name}.json") for kind in ("", "promoted-")]
        assert [note["promoted"] for note in notes] == [False, True]
        assert notes[0]["node"] != notes[1]["node"]
        # Epochs 1 and 2 were reported by the first sweep, 3 and 4 by the second.
        losses = outcome["never_stopped"][name]
        assert stopped[name]["rows"] + trial["rows"] == contiguous(losses)
        assert notes[1]["epoch_losses"] == losses


def test_paused_trials_resume_on_a_new_node_after_their_node_dies(folder):
    outcome = read(folder / "outcome.json")
    trials = outcome["in_turns"]
    assert read(folder / "turns" / "lost.json")["epochs"] == 3
    assert {name: len(trial["rows"]) for name, trial in trials.items()} == {
        "bad": 2,
        "good": 4,
        "second-best": 4,
    }
    for name, trial in trials.items():
        assert trial["error"] == "None"
        whole = contiguous(outcome["never_stopped"][name])
        assert trial["rows"] == whole[: len(trial["rows"])]


def read(path):
    return json.loads(path.read_text())
