import json
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from scipy.stats import spearmanr

from tests.support.paths import EXAMPLES

COST = (
    r" to the end took (\d+) of the (\d+) epochs of full training \((\d+)%\) and picked (\S+) "
    r"with a test accuracy of (\d+\.\d+)%"
)
TURNS = re.compile(r"Pausing (\d+) runs at (\d+) rungs and training (\d+)" + COST)
FIXED = re.compile(
    r"Stopping (\d+) runs after (\d+) of 5 epochs and training the best (\d+)" + COST
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
    """Return the cells of the rows, which start with a number."""
    return [line.split() for line in lines if re.match(r" +\d+ ", line)]


def sweep_rows(lines: list[str]) -> list[list[str]]:
    """Return the rows of a digits sweep, and check their order: longest first, then by loss."""
    rows = table(lines)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    order = [(-int(row[3]), float(row[4])) for row in rows]
    assert order == sorted(order)
    return rows


def check_cost(rows: list[list[str]], sentence: re.Match) -> None:
    """Check the sentence of a sweep against its table."""
    runs, _, finished, spent, full, percent = map(int, sentence.groups()[:6])
    assert (runs, full) == (4, 20)
    assert finished == sum(row[3] == "5" for row in rows)
    assert spent == sum(int(row[3]) for row in rows)
    assert percent == round(100 * spent / full)
    (pick,) = [row for row in rows if row[-1] == "pick"]
    assert sentence.groups()[6:] == (pick[1], pick[6])
    assert pick[3] == "5"


def check_verified(lines: list[str], *, stop: int) -> None:
    """Check the rank of the pick against the test accuracies of the table."""
    tests = {row[1]: float(row[6]) for row in table(lines)}
    verified = VERIFIED.search(lines[-1])
    assert verified is not None, lines[-1]
    place, runs, best, _, at = map(float, verified.groups())
    (pick,) = [row[1] for row in table(lines) if row[-1] == "pick"]
    assert place == 1 + sum(test > tests[pick] for test in tests.values())
    assert (runs, best, at) == (4, max(tests.values()), stop)


def record_of(folder: Path) -> tuple[list[float], list[float | None]]:
    """Return the losses and the validation accuracies in a run's record."""
    lines = [json.loads(line) for line in (folder / "sotl.jsonl").read_text().splitlines()]
    losses = {line["e"]: line["loss"] for line in lines if "loss" in line}
    accuracies = {line["e"]: line["metrics"]["val_acc"] for line in lines if "metrics" in line}
    assert sorted(losses) == list(range(len(losses)))
    return [losses[e] for e in sorted(losses)], [accuracies.get(e) for e in sorted(losses)]


@pytest.mark.slow
def test_a_sweep_pauses_runs_at_rungs_and_trains_nothing_when_started_again(tmp_path):
    lines = run_example("digits_sweep", tmp_path)
    rows = sweep_rows(lines)
    sentence = TURNS.fullmatch(lines[-1].rstrip("."))
    assert sentence is not None, lines[-1]
    assert sentence[2] == "2"  # rungs at epochs 3 and 4 of 5
    check_cost(rows, sentence)
    assert [row[6] != "-" for row in rows] == [row[-1] == "pick" for row in rows]

    folder = tmp_path / "digits_sweep" / "seed_0_smoke"
    records = dict(zip(("linear", "mlp-32-32", "conv-4", "conv-32-64"), range(4), strict=True))
    means = {}
    for row in rows:
        losses, accuracies = record_of(folder / f"run_{records[row[1]]:03d}")
        assert len(losses) == int(row[3])
        assert f"{losses[-1]:.4f}" == row[4]
        assert f"{100 * accuracies[-1]:.2f}" == row[5]
        if len(losses) == 5:
            means[row[1]] = sum(accuracies[-3:]) / 3
    assert means[sentence[7]] == max(means.values())

    before = {path: path.read_bytes() for path in folder.rglob("sotl.jsonl")}
    verified = run_example("digits_sweep", tmp_path, "--verify")  # no run trains again
    assert {path: path.read_bytes() for path in folder.rglob("sotl.jsonl")} == before
    assert [row[:6] for row in sweep_rows(verified)] == [row[:6] for row in rows]
    check_verified(verified, stop=3)


@pytest.mark.slow
def test_a_sweep_with_a_fixed_stop_epoch_promotes_the_best_three(tmp_path):
    lines = run_example("digits_sweep", tmp_path, "--stop-at", "2", "--verify")
    rows = sweep_rows(lines)
    sentence = FIXED.match(lines[-1])
    assert sentence is not None, lines[-1]
    assert (sentence[2], sentence[3]) == ("2", "3")
    check_cost(rows, sentence)
    assert [row[3] for row in rows] == ["5", "5", "5", "2"]

    folder = tmp_path / "digits_sweep" / "stop_at_2" / "sweep_0"
    losses = {row[1]: record_of(folder / row[1])[0] for row in rows}
    for row in rows:
        assert len(losses[row[1]]) == int(row[3])
        assert f"{losses[row[1]][-1]:.4f}" == row[4]
    at_stop = [losses[row[1]][1] for row in rows]
    assert max(at_stop[:3]) < at_stop[3]
    finished = {row[1]: float(row[5]) for row in rows[:3]}
    assert finished[sentence[7]] == max(finished.values())
    tests = {row[1]: row[6] for row in rows}
    check_verified(lines, stop=2)
    # Oriented: +1 if lower losses have higher accuracies.
    expected = spearmanr([-loss for loss in at_stop], [float(test) for test in tests.values()])[0]
    assert float(VERIFIED.search(lines[-1])[4]) == pytest.approx(expected, abs=0.005)


@pytest.mark.slow
def test_the_optuna_sweep_counts_the_epochs_of_its_study(tmp_path):
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
def test_the_fabric_loop_computes_the_same_correct_value_on_two_ranks(tmp_path):
    lines = run_example("fabric_loop", tmp_path, "--devices", "2")
    rows = [row[2:] for row in table(lines)]
    assert rows[0] == ["-"] * 4  # one epoch is less than the window of two
    assert len(rows) == 3
    for rank_0, rank_1, raw, difference in rows[1:]:
        assert rank_0 == rank_1
        assert float(rank_0) == pytest.approx(float(raw), rel=1e-12)
        assert float(difference) <= 1e-12
    assert "differ by at most 0 nats" in lines[-1]


@pytest.mark.slow
def test_the_table_of_four_policies_has_the_epochs_of_their_runs(tmp_path):
    lines = run_example("adaptive_sweep", tmp_path)
    rows = {line[:20].strip(): line[20:].split() for line in lines[:-1] if "%" in line[:40]}
    assert list(rows) == ["fixed T", "ASHA", "adaptive, Optuna", "adaptive, directory"]
    # 8 networks train to epoch 2 of 5, and 3 of them to the end.
    assert rows["fixed T"][:4] == [str(8 * 2 + 3 * 3), f"{25 / 40:.0%}", "5", "3"]
    # One run after another, both see the same runs. The first decisions are at epoch 3.
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
    # 27 runs of 40 epochs: 27 * 3 + 9 * 6 + 3 * 18 + 13 of 1,080, and one validation at the end.
    costs = [re.search(r"0\.\d{4}", line)[0] for line in lines if line.startswith("halving ")]
    assert costs == ["0.1870"] * 3 + [f"{(202 + 0.1) / (1080 * 1.1):.4f}"] * 3
    assert (tmp_path / "selection_8_workers.png").read_bytes().startswith(b"\x89PNG")
    assert lines[-1].startswith("With 8 workers no policy dominates halving")
    # All epochs and no validation, in each table.
    rows = [line for line in lines if line.startswith("full, picked by training loss ")]
    assert [re.search(r"\d\.\d{4}", line)[0] for line in rows] == ["1.0000"] * 3 + ["0.9091"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["deciding", "evolution", "overhead", "ranking", "reporting", "turns"]
)
def test_a_benchmark_ends_in_a_sentence_with_numbers(name):
    command = [sys.executable, EXAMPLES / "benchmarks" / f"{name}.py", "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d.*\.$", done.stdout.splitlines()[-1])
