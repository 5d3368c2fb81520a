from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats

from lightning_sotl.curves.nas_bench_nlp import read_nas_bench_nlp
from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.evaluate import (
    correlation_curves,
    default_epochs,
    evaluate,
    notes,
    selection_notes,
)
from tests.support.paths import SHARED_DATA, needs_shared_data


def noisy_table(runs: int = 60, epochs: int = 12, seed: int = 0) -> LearningCurves:
    """Return runs with curves that follow a hidden quality more closely the longer they train."""
    generator = np.random.default_rng(seed)
    quality = generator.uniform(size=(runs, 1))
    noise = generator.normal(size=(runs, epochs)) / np.arange(1, epochs + 1)
    losses = 3 - quality + noise
    return LearningCurves(
        losses,
        val_loss=losses + 0.1,
        val_metric=-losses,
        final_metric=quality[:, 0],
        final_loss=1 - quality[:, 0],
    )


def test_the_correlations_are_those_of_scipy() -> None:
    curves = noisy_table()
    result = evaluate(curves, at=[3, 12], estimators=["sotl", "sotl-e2"], resamples=50)
    for epoch in (3, 12):
        total = curves.train_loss[:, :epoch].sum(axis=1)
        window = curves.train_loss[:, epoch - 2 : epoch].sum(axis=1)
        for name, scores in {"sotl": total, "sotl-e2": window}.items():
            expected = -stats.spearmanr(scores, curves.final_metric).statistic
            found = result.estimators[name][epoch]
            assert found.rho == pytest.approx(expected, abs=1e-12)
            assert found.low < found.rho < found.high


def test_the_json_document_has_its_fixed_shape() -> None:
    result = evaluate(noisy_table(), at=[2, 12], estimators=["sotl-e10", "final-loss"])
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(document) == [
        "runs",
        "left_out",
        "epochs",
        "target",
        "estimators",
        "recommended",
    ]
    assert (document["runs"], document["left_out"], document["epochs"]) == (60, 0, 12)
    assert set(document["estimators"]["sotl-e10"]) == {"12"}
    assert set(document["estimators"]["sotl-e10"]["12"]) == {"rho", "low", "high"}
    assert document["estimators"]["final-loss"]["12"]["rho"] == 1.0
    assert set(document["recommended"]) == {"estimator", "window", "epoch"}


def test_an_undefined_correlation_is_null_and_causes_a_note() -> None:
    curves = noisy_table()
    result = evaluate(curves, at=[12], estimators=["epochs-to-loss99"])
    (values,) = result.to_json()["estimators"].values()
    assert values == {"12": {"rho": None, "low": None, "high": None}}
    assert notes(result, curves)[0].startswith(
        "The correlation of 'epochs-to-loss99' is undefined at some T, because all"
    )


def test_the_cheapest_pair_that_is_not_worse_is_recommended() -> None:
    quality = np.linspace(0, 1, 40)
    exact = np.repeat((2 - quality)[:, np.newaxis], 6, axis=1)
    curves = LearningCurves(exact, final_metric=quality)
    found = evaluate(curves, at=[2, 4, 6], resamples=50).recommended
    assert (found.window, found.epoch) == (1, 2)


def test_a_later_t_is_recommended_if_it_is_significantly_better() -> None:
    generator = np.random.default_rng(0)
    quality = np.linspace(0, 1, 200)
    losses = np.stack([generator.normal(size=200), *([2 - quality] * 3)], axis=1)
    curves = LearningCurves(losses, final_metric=quality)
    found = evaluate(curves, at=[1, 2, 4], resamples=100).recommended
    assert (found.window, found.epoch) == (1, 2)


def test_nothing_is_recommended_if_all_runs_tie() -> None:
    curves = LearningCurves(np.ones((20, 3)), final_metric=np.arange(20.0))
    assert evaluate(curves, resamples=10).recommended is None


@pytest.mark.parametrize(("runs", "is_advised"), [(19, False), (20, True)])
def test_a_recommendation_from_too_few_runs_is_not_advised(runs: int, is_advised: bool) -> None:
    quality = np.arange(float(runs))
    curves = LearningCurves(-quality[:, np.newaxis], final_metric=quality)
    result = evaluate(curves, resamples=10)
    assert result.recommended is not None
    assert result.is_advised is is_advised


def test_a_run_without_a_target_is_left_out_and_one_without_losses_ranks_last() -> None:
    losses = [[1.0], [2.0], [np.nan], [0.1]]
    curves = LearningCurves(losses, final_metric=[0.9, 0.8, 0.1, np.nan])
    result = evaluate(curves, resamples=20, estimators=["sotl-e1", "epochs-to-loss"])
    assert (result.runs, result.left_out) == (3, 1)
    assert result.estimators["sotl-e1"][1].rho == 1.0
    assert notes(result, curves) == [
        "Left out 1 run without a finite target.",
        "The correlation of 'epochs-to-loss' is undefined at some T, because all runs tie there.",
        "Ranked last at T = 1: 1 run with a target but without a finite loss there (diverged, or "
        "shorter).",
        "The intervals are too narrow with only 3 runs; it takes at least 20 to recommend E and T.",
    ]


def test_a_threshold_that_no_run_reaches_is_not_evaluated_by_default() -> None:
    target = [0.9, 0.8, np.nan]
    losses = [[1.0, 0.5, 0.09], [2.0, 0.6, 0.3], [0.1, 0.1, 0.1]]
    curves = LearningCurves(losses, final_metric=target)
    assert "epochs-to-loss" not in evaluate(curves, at=[1, 2], resamples=2).estimators
    assert "epochs-to-loss" in evaluate(curves, at=[1, 2, 3], resamples=2).estimators


def test_runs_that_ended_early_without_a_target_cause_a_warning() -> None:
    losses = np.ones((10, 3))
    losses[0, 2] = np.nan
    target = np.arange(10.0)
    target[0] = np.nan
    shorter = LearningCurves(losses, final_metric=target)
    assert len(selection_notes(shorter, [False] * 10)) == 1  # without a record, but shorter
    losses[0, 2] = np.inf
    diverged = LearningCurves(losses, final_metric=target)
    assert selection_notes(diverged, [False] * 10) == []  # all trained to the end
    assert len(selection_notes(diverged, [True] * 10)) == 1
    # 1 of 11 runs that failed is below the tenth that causes the warning.
    rows = [*range(10), 5]
    once_more = LearningCurves(shorter.train_loss[rows], final_metric=target[rows])
    assert selection_notes(once_more, [False] * 11) == []


def test_an_estimator_without_a_value_at_any_t_is_named() -> None:
    curves = noisy_table()
    result = evaluate(curves, at=[2, 5], estimators=["sotl-e10", "sotl"], resamples=10)
    assert list(result.estimators) == ["sotl"]
    assert notes(result, curves) == ["Left out 'sotl-e10': it has no value at T = 2, 5."]


def test_correlation_curves_have_a_value_for_each_epoch() -> None:
    curves = noisy_table()
    found = correlation_curves(curves, ["sotl-e2"])["sotl-e2"]
    assert found.shape == (12,)
    assert np.isnan(found[0])
    expected = evaluate(curves, at=[5], estimators=["sotl-e2"], resamples=2)
    assert found[4] == expected.estimators["sotl-e2"][5].rho


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, (1,)), (2, (1, 2)), (10, (1, 2, 3, 5, 8, 10)), (50, (2, 3, 5, 10, 15, 25, 38, 50))],
)
def test_the_default_epochs_are_shares_of_the_longest_run(
    epochs: int, expected: tuple[int, ...]
) -> None:
    assert default_epochs(epochs) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"at": [13]},
            ValueError,
            "Expected `at` to be in [1, 12], the epochs of the longest run, but got 13.",
        ),
        ({"at": [0]}, ValueError, "Expected `at` to be a positive integer but got 0."),
        ({"at": []}, ValueError, "Expected `at` to have at least one entry but got []."),
        ({"at": [1.5]}, TypeError, "Expected `at` to be a positive integer but got 1.5."),
    ],
)
def test_wrong_epochs_are_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        evaluate(noisy_table(), **options)


def test_a_missing_target_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected the curves to have `final_metric`, the target, but it is absent\.$",
    ):
        evaluate(LearningCurves([[1.0], [2.0]]))


def test_a_missing_curve_is_named() -> None:
    curves = LearningCurves([[1.0], [2.0]], final_metric=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"^'sovl' requires `val_loss`, but the curves have none"):
        evaluate(curves, estimators=["sovl"])
    with pytest.raises(ValueError, match=r"^'final-loss' requires `final_loss`, but the curves"):
        evaluate(curves, estimators=["final-loss"])


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [
        ("nlp", 5, (0.900, 0.864, 0.914, 0.877)),
        ("nlp", 10, (0.932, 0.904, 0.946, 0.916)),
        ("nlp", 25, (0.964, 0.935, 0.988, 0.943)),
        ("taskset", 5, (0.896, 0.865, 0.899, 0.863)),
        ("taskset", 25, (0.955, 0.925, 0.957, 0.926)),
    ],
)
def test_curves_of_a_benchmark_give_the_known_correlations(
    name: str, epoch: int, expected: tuple[float, ...]
) -> None:
    if name == "nlp":
        curves, _ = read_nas_bench_nlp(SHARED_DATA / "nas-bench-nlp-wikitext2/logs.zip")
    else:
        curves = LearningCurves.load(SHARED_DATA / "taskset/imdb_patch32_GRU128_bs128.npz")
    names = ["sotl-e1", "sotl", "val-metric", "sovl"]
    result = evaluate(curves, at=[epoch], estimators=names, resamples=10)
    found = tuple(round(result.estimators[one][epoch].rho, 3) for one in names)
    assert found == expected
    assert (result.runs, result.left_out) == ((341, 4) if name == "nlp" else (999, 1))


def test_lcsvr_is_evaluated_on_runs_that_it_was_not_trained_on() -> None:
    pytest.importorskip("sklearn")
    curves = noisy_table(runs=240)
    result = evaluate(curves, at=[6], estimators=["lcsvr", "val-metric"], resamples=50)
    found = result.estimators["lcsvr"][6]
    # Only 40 runs are left to evaluate it on, so the interval is wider than for all 240.
    other = result.estimators["val-metric"][6]
    assert found.rho > 0.5
    assert found.high - found.low > other.high - other.low
    assert "'lcsvr' was trained on finished runs and is evaluated on the others only." in (
        notes(result, curves)
    )
    with pytest.raises(ValueError, match="besides the 60 that 'lcsvr' was trained on but got 0"):
        evaluate(noisy_table(runs=60), at=[6], estimators=["lcsvr"])
