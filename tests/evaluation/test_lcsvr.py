from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.stats.correlation import rank_correlation

pytest.importorskip("sklearn")

from lightning_sotl.evaluation import LcSVR
from lightning_sotl.evaluation.lcsvr import _inputs


def saturating(runs: int = 150, seed: int = 0, *, mode: str = "max") -> LearningCurves:
    """Return curves with an end that depends on level and slope, not on the level alone."""
    generator = np.random.default_rng(seed)
    end, speed = generator.uniform(0.4, 0.9, runs), generator.uniform(0.05, 0.5, runs)
    epochs = np.arange(1, 21)
    metric = end[:, np.newaxis] * (1 - np.exp(-speed[:, np.newaxis] * epochs))
    metric += generator.normal(scale=0.001, size=metric.shape)
    sign = 1.0 if mode == "max" else -1.0
    return LearningCurves(
        2 - metric, val_metric=sign * metric, final_metric=sign * end, metric_mode=mode
    )


@pytest.mark.parametrize("mode", ["max", "min"])
def test_its_predictions_rank_runs_better_than_the_value_at_t(mode: str) -> None:
    curves = saturating(mode=mode)
    model = LcSVR(training_runs=80, searches=15).fit(curves, at=6)
    rest = np.setdiff1d(np.arange(curves.runs), model.training_rows_)
    target = curves.final_metric[rest]
    predicted = model.predict(curves, at=6)[rest]
    svr = rank_correlation(predicted, target, mode=mode, target_mode=mode)
    early = rank_correlation(curves.val_metric[rest, 5], target, mode=mode, target_mode=mode)
    assert svr > 0.95 > early


def test_the_inputs_are_the_curve_its_differences_and_their_moments() -> None:
    curves = LearningCurves([[1.0, 1.0, 1.0]], val_metric=[[1.0, 2.0, 4.0]], features=[[7.0]])
    np.testing.assert_allclose(
        _inputs(curves, 3),
        [[1, 2, 4, 7 / 3, np.std([1, 2, 4]), 1, 2, 1.5, 0.5, 1, 1, 0, 7]],
    )
    np.testing.assert_allclose(_inputs(curves, 1), [[1, 1, 0, 7]])


def test_it_trains_on_200_runs_by_default_or_on_all_if_there_are_fewer() -> None:
    assert LcSVR().training_runs == 200
    assert LcSVR(searches=1).fit(saturating(20), at=2).training_rows_.size == 20


def test_the_same_seed_gives_the_same_predictions() -> None:
    curves = saturating(40)
    once = LcSVR(training_runs=20, searches=3, seed=4).fit(curves, at=3).predict(curves, at=3)
    again = LcSVR(training_runs=20, searches=3, seed=4).fit(curves, at=3).predict(curves, at=3)
    np.testing.assert_array_equal(once, again)


def test_diverged_runs_are_not_used_for_training_and_have_no_prediction() -> None:
    curves = saturating(30)
    metric, final = curves.val_metric.copy(), curves.final_metric.copy()
    metric[3, 1], final[5] = np.nan, np.inf
    broken = LearningCurves(curves.train_loss, val_metric=metric, final_metric=final)
    model = LcSVR(searches=1).fit(broken, at=4)
    assert model.training_rows_.tolist() == [run for run in range(30) if run not in (3, 5)]
    predicted = model.predict(broken, at=4)
    assert np.isnan(predicted).tolist() == [run == 3 for run in range(30)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: LcSVR(training_runs=5),
            ValueError,
            "Expected `training_runs` to be at least 6 but got 5.",
        ),
        (
            lambda: LcSVR(searches=0),
            ValueError,
            "Expected `searches` to be a positive integer but got 0.",
        ),
        (
            lambda: LcSVR().fit(saturating(10), at=21),
            ValueError,
            "Expected `at` to be in [1, 20] but got 21.",
        ),
        (
            lambda: LcSVR().fit(saturating(5), at=2),
            ValueError,
            "Expected at least 6 runs with a finite target and a finite validation metric in the "
            "first 2 epochs but got 5 of 5.",
        ),
        (
            lambda: LcSVR().fit(LearningCurves([[1.0]], final_metric=[1.0]), at=1),
            ValueError,
            "Expected the curves to have `val_metric` but it is absent.",
        ),
        (
            lambda: LcSVR().fit(LearningCurves([[1.0]], val_metric=[[1.0]]), at=1),
            ValueError,
            "Expected the curves to have `final_metric` but it is absent.",
        ),
        (
            lambda: LcSVR().predict(saturating(10), at=2),
            RuntimeError,
            "Expected `fit` to be called before `predict`.",
        ),
        (
            lambda: LcSVR(searches=1).fit(saturating(10), at=2).predict(saturating(10), at=3),
            ValueError,
            "Expected `at` to be 2, as in `fit`, but got 3.",
        ),
        (
            lambda: LcSVR(seed=-1),
            ValueError,
            "Expected `seed` to be a non-negative integer or None but got -1.",
        ),
    ],
)
def test_wrong_arguments_are_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_importing_it_does_not_load_scikit_learn() -> None:
    code = (
        "import sys; from lightning_sotl.evaluation import LcSVR; print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
