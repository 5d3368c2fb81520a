from __future__ import annotations

import importlib
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from _figures import WORDS, Gap, Part, compare, sentence, stays_ahead
from _networks import Networks, options_of, read_networks
from fig4_rivals import other_trainings
from fig7_three_networks import agreements, examples_of
from fig9_overfitting import within
from regularisation import correlate_within
from scipy.stats import rankdata, spearmanr

from lightning_sotl import LearningCurves
from tests.curves.test_nas_bench_nlp import document
from tests.curves.test_nats_bench import benchmark  # noqa: F401 - a fixture

FIGURES = (
    "fig2_validation_losses",
    "fig3_windows",
    "fig4_rivals",
    "fig7_three_networks",
    "fig8_validation_accuracy",
    "fig9_overfitting",
)
TRAININGS, REPEATED, EPOCHS = 70, 10, 40


def make_curves(runs: int = TRAININGS, seed: int = 0, sign: float = 1.0) -> LearningCurves:
    """Return curves whose training losses rank the networks correctly, or in reverse (sign -1)."""
    generator = np.random.default_rng(seed)
    quality = np.linspace(0, 1, runs)
    epochs = np.arange(1, EPOCHS + 1)
    noise = generator.normal(scale=0.02, size=(3, runs, EPOCHS))
    train = (1.5 - sign * quality)[:, None] / epochs**0.5 + noise[0] / 10
    return LearningCurves(
        train,
        val_loss=train + 0.3 + noise[1],
        val_metric=0.6 + 0.2 * quality[:, None] * (epochs / EPOCHS) + noise[2],
        final_metric=0.6 + 0.2 * quality + generator.normal(scale=0.005, size=runs),
        final_loss=1 - quality + generator.normal(scale=0.1, size=runs),
        features=quality[:, None] + generator.normal(scale=0.3, size=(runs, 2)),
        metric_mode="max",
        run_ids=[f"network {number}" for number in range(runs)],
    )


def save_table(folder: Path, name: str, *, mixed: bool = False) -> Path:
    """Write a table whose last rows are second trainings of its first networks."""
    path = folder / f"{name}.npz"
    make_curves().save(path)
    number = np.arange(TRAININGS)
    repeated = (number >= TRAININGS - REPEATED) & ~np.bool_(mixed)
    settings = np.random.default_rng(1).choice([0.0, 0.1], size=(3, TRAININGS)) * mixed
    np.savez(
        folder / f"{name}_runs.npz",
        cells=np.array(
            [f"cell {place % (TRAININGS - REPEATED * (not mixed))}" for place in number]
        ),
        repeat=repeated.astype(int),
        **dict(zip(("weight_decay", "dropout", "label_smoothing"), settings, strict=True)),
    )
    return path


@pytest.fixture
def networks() -> Networks:
    return Networks(make_curves(30), "made up", resamples=40, seed=7)


def run(name: str, capsys, *options: object) -> list[str]:
    """Run a figure with `--smoke` in this process, and return its printed lines."""
    importlib.import_module(name).main(["--smoke", *map(str, options)])
    return capsys.readouterr().out.strip().splitlines()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_prints_a_table_and_one_sentence_and_saves_a_picture(name, tmp_path, capsys):
    table = save_table(tmp_path, "cells")
    lines = run(name, capsys, "--table", table, "--output", tmp_path / "out")
    assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert lines[-3].startswith("picture in ")
    assert re.search(r"\d\.\d\d\d|\d%", lines[-1])
    assert lines[-1].endswith(".")
    assert "nan" not in lines[-1]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_reads_a_table_with_only_training_losses_and_a_target(name, tmp_path, capsys):
    full, path = make_curves(), tmp_path / "bare.npz"
    LearningCurves(full.train_loss, final_metric=full.final_metric).save(path)
    if name == "fig7_three_networks":
        with pytest.raises(SystemExit, match=r"/bare\.npz' lacks `val_loss` or `val_metric`\.$"):
            run(name, capsys, "--table", path, "--output", tmp_path)
        return
    lines = run(name, capsys, "--table", path, "--output", tmp_path)
    assert "'bare'" in lines[-1]


def test_mixed_recipes_are_ranked_within_groups_and_against_one_recipe(tmp_path, capsys):
    table, control = save_table(tmp_path, "mixed", mixed=True), save_table(tmp_path, "cells")
    options = ["--table", table, "--control", control, "--output", tmp_path]
    lines = run("regularisation", capsys, *options)
    assert (tmp_path / "regularisation.png").read_bytes().startswith(b"\x89PNG")
    counts = [line for line in lines if line.startswith("same networks, one recipe")]
    assert len(counts) == 2
    assert re.fullmatch(
        r"SoTL-E1 on the 40 runs of 'mixed', .*: at T = 10 .*; at T = 40 .*", lines[-1]
    )


def test_the_printed_correlation_of_drawn_networks_is_scipys(tmp_path, capsys):
    table = save_table(tmp_path, "cells")
    options = ["--table", table, "--networks", 35, "--seed", 3, "--output", tmp_path]
    lines = run("fig2_validation_losses", capsys, *options)
    curves = make_curves()
    firsts = np.arange(TRAININGS - REPEATED)
    rows = np.sort(np.random.default_rng(3).choice(firsts, 35, replace=False))
    loss, target = -curves.train_loss[rows, 9], curves.final_metric[rows]
    header = next(line for line in lines if line.startswith("estimator")).split()
    row = next(line for line in lines if line.startswith("sotl-e1"))
    cells = re.findall(r"(-?\d\.\d{3}) \[-?\d\.\d{3}, -?\d\.\d{3}\]", row)
    assert cells[header.index("T=10") - 1] == f"{spearmanr(loss, target)[0]:.3f}"
    assert "Over 35 networks of 'cells'" in lines[-1]


def test_a_gap_has_the_interval_of_paired_resamples(networks):
    gap = compare(replace(networks, resamples=4000), "sotl-e1", "val-metric", 2)
    curves = networks.curves
    scores = (-curves.train_loss[:, 1], curves.val_metric[:, 1])
    drawn = np.random.default_rng(1).integers(30, size=(4000, 30))
    target, *ranks = (rankdata(one[drawn], axis=1) for one in (curves.final_metric, *scores))
    samples = [
        [np.corrcoef(*pair)[0, 1] for pair in zip(target, one, strict=True)] for one in ranks
    ]
    expected = np.percentile(np.subtract(*samples), [2.5, 97.5])
    assert (gap.low, gap.high) == pytest.approx(expected, abs=0.03)
    rho = [spearmanr(one, curves.final_metric)[0] for one in scores]
    assert (gap.first, gap.second) == pytest.approx(rho)


def test_a_gap_between_two_epochs_compares_an_estimator_with_itself(networks):
    curves = networks.curves
    gap = compare(networks, "sotl-e2", "sotl-e2", 2, other=40)
    sums = [curves.train_loss[:, end - 2 : end].sum(axis=1) for end in (2, 40)]
    expected = [spearmanr(-values, curves.final_metric)[0] for values in sums]
    assert (gap.first, gap.second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.2, "held"),
        (-0.2, -0.1, "did not hold"),
        (-0.1, 0.1, "undecided"),
        (0.0, 0.1, "undecided"),
        (float("nan"), float("nan"), "undecided"),
    ],
)
def test_the_interval_of_the_difference_decides_a_claim(low, high, expected):
    assert WORDS[Gap(0.5, 0.4, low, high).leads] == expected


def test_the_sentence_counts_the_parts_that_held(networks):
    result = type("Result", (), {"runs": 30})
    parts = [Part("x above y", True, "1"), Part("z", False, "2"), Part("u", None, "3")]
    assert sentence(networks, result, parts) == (
        "Over 30 networks of 'made up', 1 of 3 parts of the paper's claim held: x above y: held "
        "(1); z: did not hold (2); u: undecided (3)."
    )


def test_a_figure_reports_a_claim_that_did_not_hold(tmp_path, capsys):
    path = tmp_path / "reversed.npz"
    make_curves(sign=-1.0).save(path)
    lines = run("fig8_validation_accuracy", capsys, "--table", path, "--output", tmp_path)
    assert "SoTL-E1 above SoVA-E2 at T = 10: did not hold (-" in lines[-1]


def test_only_the_first_training_of_a_network_is_ranked(tmp_path):
    options = options_of("", ["--table", str(save_table(tmp_path, "cells"))])
    found = read_networks(options)
    assert found.curves.runs == TRAININGS - REPEATED
    assert found.trainings.runs == TRAININGS
    assert found.notes == ("10 further trainings of the same networks left out.",)


def test_the_correlations_of_the_committed_table_are_scipys():
    networks = read_networks(options_of("", []))
    gap = compare(replace(networks, resamples=2), "sotl-e1", "val-metric", 10)
    with np.load(options_of("", []).table) as table:
        rows = [row for row, name in enumerate(table["run_ids"]) if name.endswith(" repeat 0")]
        target = table["final_metric"][rows]
        expected = [
            spearmanr(scores[rows, 9], target)[0]
            for scores in (-table["train_loss"], table["val_metric"])
        ]
    assert len(rows) == networks.curves.runs == 600
    assert [gap.first, gap.second] == pytest.approx(expected)
    assert expected == pytest.approx([0.754, 0.478], abs=5e-4)  # as on the page of results


def test_a_table_without_a_target_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    LearningCurves([[1.0], [2.0]]).save(path)
    with pytest.raises(
        ValueError, match=r"^Expected '.*x\.npz' to have `final_metric` but it is absent\.$"
    ):
        read_networks(options_of("", ["--table", str(path)]))


def test_files_of_nas_bench_nlp_are_ranked_by_their_loss(tmp_path, capsys):
    for number in range(5):
        losses = [3.0 + number, 2.0 + number]
        (tmp_path / f"log_{number}.json").write_text(document(losses))
    lines = run(
        "fig8_validation_accuracy", capsys, "--table", tmp_path, "--output", tmp_path / "out"
    )
    assert "'final_metric' (lower is better) and its 95% interval, 5 runs" in "\n".join(lines)
    assert lines[-1].endswith("; the validation metric of this table is its validation loss.")


def test_one_data_set_of_a_nats_bench_file_is_read(request):
    path = request.getfixturevalue("benchmark") / "simple"
    found = read_networks(
        options_of("", ["--table", str(path), "--dataset", "cifar100", "--trust"])
    )
    assert (found.name, found.curves.runs, found.columns) == ("simple cifar100", 3, {})


def test_windows_of_the_paper_are_scaled_to_the_table(networks):
    assert [networks.window(paper) for paper in (1, 10, 20, 70)] == [1, 2, 4, 14]


@pytest.mark.parametrize(
    ("ahead", "behind", "expected"),
    [
        ([1, 1, 1], [0, 0, 0], 1),
        ([1, 0, 1], [0, 1, 1], 3),
        ([1, 1, 0], [0, 0, 1], None),
        ([np.nan, 1, 1], [0, 0, 0], 2),
    ],
)
def test_the_first_epoch_from_which_one_correlation_stays_ahead(ahead, behind, expected):
    assert stays_ahead(np.array(ahead), np.array(behind)) == expected


def test_the_other_trainings_are_the_target_of_the_first(tmp_path):
    networks = read_networks(options_of("", ["--table", str(save_table(tmp_path, "cells"))]))
    first = other_trainings(networks)
    curves = make_curves()
    assert first.curves.names == tuple(f"network {number}" for number in range(REPEATED))
    np.testing.assert_array_equal(first.curves.final_metric, curves.final_metric[-REPEATED:])
    np.testing.assert_array_equal(first.curves.train_loss, curves.train_loss[:REPEATED])


def test_the_three_examples_are_the_middle_networks_of_the_thirds():
    oriented = np.array([5.0, 1, 9, 2, 8, 3, 7, 4, 6])
    assert oriented[examples_of(oriented)].tolist() == [2, 5, 8]


def test_agreements_of_triples_are_those_counted_by_hand():
    oriented, losses = np.array([0.0, 1, 2, 3]), np.array([0.5, 0.6, 0.4, 0.7])
    triples = np.array(list(permutations(range(4), 3)))
    # Of {0,1,2}, {0,1,3}, {0,2,3}, {1,2,3}, one has its losses in order and none in reverse.
    assert agreements(oriented, losses, triples) == (0.25, 0.0)
    assert agreements(oriented, -losses, triples) == (0.0, 0.25)


def test_the_correlation_below_the_threshold_is_scipys(networks):
    curves = make_curves(60)
    low = replace(curves, train_loss=curves.train_loss - np.quantile(curves.train_loss[:, -1], 0.5))
    low = replace(low, train_loss=low.train_loss + 0.1)
    count, rho = within(replace(networks, curves=low), below=True)
    rows = low.train_loss[:, -1] < 0.1
    assert count == rows.sum() == 30
    assert rho == pytest.approx(spearmanr(-low.train_loss[rows, -1], low.final_metric[rows])[0])


def test_the_correlation_within_groups_is_the_mean_weighted_by_size(networks):
    groups = [range(5), range(5, 20), range(20, 24)]  # the last is too small
    curves = networks.curves
    found = correlate_within(networks, groups, "val-metric", 3)
    parts = [
        spearmanr(curves.val_metric[list(group), 2], curves.final_metric[list(group)])[0]
        for group in groups[:2]
    ]
    assert found.rho == pytest.approx((5 * parts[0] + 15 * parts[1]) / 20)
    assert (found.groups, found.runs) == (2, 20)
    assert found.low <= found.rho <= found.high
