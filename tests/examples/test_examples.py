import json
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from scipy.stats import spearmanr

from tests.support.paths import EXAMPLES

COST = re.compile(
    r"Stopping (\d+) runs after (\d+) of (\d+) epochs and training the best (\d+) to the end took "
    r"(\d+) of the (\d+) epochs of full training \((\d+)%\) and picked (\S+) with a test accuracy "
    r"of (\d+\.\d+)%"
)
VERIFIED = re.compile(
    r", number (\d+) of (\d+) by test accuracy \(the best has (\S+)%\), where the Spearman "
    r"correlation with the final test accuracy is (\S+) for sotl_e1 at epoch (\d+)"
)


def run_example(name: str, output: Path, *options: str) -> list[str]:
    """Run an example with `--smoke`, and return what it printed, line by line."""
    command = [sys.executable, EXAMPLES / f"{name}.py", "--smoke", "--output", output, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (output / f"{Path(name).name}.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout.strip().splitlines()


def table(lines: list[str]) -> list[list[str]]:
    """Return the cells of the rows, which begin with a number."""
    return [line.split() for line in lines if re.match(r" +\d+ ", line)]


@pytest.mark.slow
def test_sweep_trains_the_first_of_its_ranking_and_tests_the_pick_only(tmp_path):
    lines = run_example("digits_sweep", tmp_path)
    rows = table(lines)
    losses = [float(row[3]) for row in rows]
    assert losses == sorted(losses)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[5] == "-" for row in rows] == [False, False, False, True]
    (pick,) = [row for row in rows if row[6] != "-"]
    assert pick[7:] == ["<-", "pick"]
    assert float(pick[5]) == max(float(row[5]) for row in rows[:3])

    cost = COST.fullmatch(lines[-1].rstrip("."))
    assert cost is not None, lines[-1]
    runs, stop, budget, best, spent, full, percent = map(int, cost.groups()[:7])
    assert (runs, best) == (4, 3)
    assert (spent, full) == (runs * stop + best * (budget - stop), runs * budget)
    assert percent == round(100 * spent / full)
    assert cost.groups()[7:] == (pick[1], pick[6])

    for row in rows:  # each run has a folder, with its record in float64
        record = (tmp_path / "digits_sweep" / "sweep_0" / row[1] / "sotl.jsonl").read_text()
        curve = {
            line["e"]: line["loss"] for line in map(json.loads, record.splitlines()) if "e" in line
        }
        assert f"{curve[stop - 1]:.4f}" == row[3]
        assert len(curve) == (stop if row[5] == "-" else budget)


@pytest.mark.slow
def test_sweep_verifies_its_pick_against_all_runs(tmp_path):
    lines = run_example("digits_sweep", tmp_path, "--verify")
    rows = table(lines)
    losses, tests = ([float(row[column]) for row in rows] for column in (3, 6))
    (pick,) = [float(row[6]) for row in rows if row[-1] == "pick"]
    verified = VERIFIED.search(lines[-1])
    assert verified is not None, lines[-1]
    standing, runs, best, correlation, stop = map(float, verified.groups())
    assert standing == 1 + sum(test > pick for test in tests)
    assert (runs, best, stop) == (4, max(tests), 2)
    # Oriented: +1 where the lower loss has the higher accuracy.
    assert correlation == pytest.approx(spearmanr([-loss for loss in losses], tests)[0], abs=0.005)


@pytest.mark.slow
def test_optuna_sweep_counts_the_epochs_that_its_study_has(tmp_path):
    lines = run_example("optuna_sweep", tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(
        str(tmp_path / "optuna_sweep" / "sweep_0" / "study.log")
    )
    storage = optuna.storages.JournalStorage(backend)
    trials = optuna.load_study(study_name="digits", storage=storage).trials
    rows = table(lines)
    assert len(rows) == len(trials) == 5
    promoted = [row for row in rows if row[6] != "-"]
    assert len([row for row in promoted if row[-1] == "pick"]) == 1
    for row in rows:
        values = trials[int(row[1])].intermediate_values
        assert float(row[5]) == pytest.approx(values[max(values)], abs=5e-5)
        assert int(row[4]) == (5 if row in promoted else len(values))
    spent = sum(int(row[4]) for row in rows)
    assert f"took {spent} of the 25 epochs of full training ({spent / 25:.0%})" in lines[-1]


@pytest.mark.slow
def test_fabric_loop_has_the_same_right_value_on_two_ranks(tmp_path):
    lines = run_example("fabric_loop", tmp_path, "--devices", "2")
    rows = [row[2:] for row in table(lines)]
    assert rows[0] == ["-"] * 4  # one epoch, while the window is two
    assert len(rows) == 3
    for rank_0, rank_1, raw, difference in rows[1:]:
        assert rank_0 == rank_1
        assert float(rank_0) == pytest.approx(float(raw), rel=1e-12)
        assert float(difference) <= 1e-12
    assert "differ by at most 0 nats" in lines[-1]


@pytest.mark.slow
def test_the_same_sweep_under_four_policies_costs_and_picks_what_the_table_says(tmp_path):
    lines = run_example("adaptive_sweep", tmp_path)
    rows = {line[:20].strip(): line[20:].split() for line in lines[:-1] if "%" in line[:40]}
    assert list(rows) == ["fixed T", "ASHA", "adaptive, Optuna", "adaptive, directory"]
    # 8 networks to epoch 2 of 5, and 3 of them to the end.
    assert rows["fixed T"][:4] == [str(8 * 2 + 3 * 3), f"{25 / 40:.0%}", "5", "3"]
    # One after the other both see the same runs; all go on to epoch 3, where decisions begin.
    assert rows["adaptive, Optuna"][:5] == rows["adaptive, directory"][:5]
    epochs, ended = int(rows["adaptive, Optuna"][0]), int(rows["adaptive, Optuna"][2])
    assert 8 * 3 <= epochs <= 8 * 5 - ended
    records = list((tmp_path / "adaptive_sweep/sweep_0/directory").rglob("sotl.jsonl"))
    assert len(records) == 8
    assert sum('"reason": "policy"' in record.read_text() for record in records) == ended


def test_selection_compares_policies_on_tables(tmp_path):
    command = [sys.executable, EXAMPLES / "benchmarks" / "selection.py", "--smoke"]
    options = ["--policy", "full", "halving", "halving-val", "--output", tmp_path]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("===")] == [
        f"=== 8 workers, a validation pass costs {cost} epochs ===" for cost in ("0", "0.1")
    ]
    names = ["cells", "regularised", "average of 2 tables"]
    assert [line for line in lines if line in names] == names * 2
    # 27 runs of 40 epochs: 27 * 3 + 9 * 6 + 3 * 18 + 13 of 1,080, with a validation after the end.
    costs = [re.search(r"0\.\d{4}", line)[0] for line in lines if line.startswith("halving ")]
    assert costs == ["0.1870"] * 3 + [f"{(202 + 0.1) / (1080 * 1.1):.4f}"] * 3
    assert (tmp_path / "selection_8_workers.png").read_bytes().startswith(b"\x89PNG")
    assert lines[-1].startswith("With 8 workers no policy dominates halving")
    # All epochs and no validation, in each of the tables.
    blind = [line for line in lines if line.startswith("full, picked by training loss ")]
    assert [re.search(r"\d\.\d{4}", line)[0] for line in blind] == ["1.0000"] * 3 + ["0.9091"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deciding", "evolution", "overhead", "ranking", "reporting"])
def test_a_benchmark_ends_in_a_sentence_with_numbers(name):
    command = [sys.executable, EXAMPLES / "benchmarks" / f"{name}.py", "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d.*\.$", done.stdout.splitlines()[-1])
