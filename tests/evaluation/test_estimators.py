from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl.curves.table import LearningCurves
from lightning_sotl.evaluation.estimators import ESTIMATORS, epochs_to_loss, named_estimator

LOSSES = np.array([[3.0, 2.0, 1.0], [4.0, np.inf, 1.0], [0.5, 0.1, 0.2]])
ACCURACIES = np.array([[0.1, 0.2, 0.4], [0.2, np.nan, 0.4], [0.3, 0.6, 0.5]])


def table(**changes: object) -> LearningCurves:
    fields = {"val_loss": LOSSES + 1, "val_metric": ACCURACIES, **changes}
    return LearningCurves(LOSSES, **fields)


# By hand, from the definitions.
EXPECTED = {
    "sotl": [[3, 5, 6], [4, np.inf, np.inf], [0.5, 0.6, 0.8]],
    "sotl-e1": [[3, 2, 1], [4, np.inf, 1], [0.5, 0.1, 0.2]],
    "sotl-e2": [[np.nan, 5, 3], [np.nan, np.inf, np.inf], [np.nan, 0.6, 0.3]],
    "sotl-ema0.5": [[3, 3.5, 2.75], [4, np.inf, np.inf], [0.5, 0.35, 0.375]],
    "sovl": [[4, 7, 9], [5, np.inf, np.inf], [1.5, 2.6, 3.8]],
    "sovl-e2": [[np.nan, 7, 5], [np.nan, np.inf, np.inf], [np.nan, 2.6, 2.3]],
    "sova-e2": [[np.nan, 0.3, 0.6], [np.nan, -np.inf, -np.inf], [np.nan, 0.9, 1.1]],
    "val-metric": [[0.1, 0.2, 0.4], [0.2, -np.inf, 0.4], [0.3, 0.6, 0.5]],
    "epochs-to-loss": [[np.inf] * 3, [np.inf] * 3, [np.inf, 2, 2]],
    "epochs-to-loss1": [[np.inf, np.inf, 3], [np.inf, np.inf, 3], [1, 1, 1]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_scores_by_hand(name: str) -> None:
    scores = named_estimator(name).scores(table())
    np.testing.assert_allclose(scores, EXPECTED[name], rtol=1e-12)


def test_the_families_are_those_of_the_paper() -> None:
    assert list(ESTIMATORS) == [
        "sotl",
        "sotl-e",
        "sotl-ema",
        "sovl",
        "sovl-e",
        "sova-e",
        "val-metric",
        "epochs-to-loss",
    ]


@pytest.mark.parametrize("family", ESTIMATORS)
def test_the_better_run_ranks_first_by_default(family: str) -> None:
    better = np.array([2.0, 1.0, 0.05])
    worse = np.array([2.5, 2.0, 1.5])
    losses = np.stack([better, worse])
    curves = LearningCurves(losses, val_loss=losses, val_metric=1 / (1 + losses))
    estimator = named_estimator(family)
    good, bad = estimator.scores(curves)[:, -1]
    assert good < bad if estimator.mode_in(curves) == "min" else good > bad


@pytest.mark.parametrize("family", ESTIMATORS)
def test_the_score_after_k_epochs_depends_on_those_k_epochs_only(family: str) -> None:
    losses = np.random.default_rng(0).uniform(0.01, 1, size=(4, 6))
    whole = LearningCurves(losses, val_loss=losses, val_metric=losses)
    scores = named_estimator(family).scores(whole)
    for epochs in range(1, 7):
        part = losses[:, :epochs]
        short = LearningCurves(part, val_loss=part, val_metric=part)
        np.testing.assert_array_equal(
            named_estimator(family).scores(short)[:, -1], scores[:, epochs - 1]
        )


def test_a_diverged_metric_is_infinite_if_lower_is_better() -> None:
    estimator = named_estimator("val-metric")
    low = table(metric_mode="min")
    assert estimator.mode_in(low) == "min"
    assert estimator.scores(low)[1, 1] == np.inf


def test_epochs_without_any_validation_make_scores_unavailable() -> None:
    sparse = np.where(np.arange(3) == 1, np.nan, ACCURACIES)
    curves = table(val_metric=sparse, val_loss=np.where(np.arange(3) == 1, np.nan, LOSSES))
    known = {
        "val-metric": [True, False, True],
        "sova-e2": [False, False, False],
        "sovl-e1": [True, False, True],
        "sovl": [True, False, False],
    }
    for name, expected in known.items():
        scores = named_estimator(name).scores(curves)
        assert (~np.isnan(scores).all(axis=0)).tolist() == expected, name


def test_a_loss_equal_to_the_threshold_reaches_it() -> None:
    assert epochs_to_loss(np.array([0.2, 0.1])).tolist() == [np.inf, 2.0]
    assert epochs_to_loss(np.array([-np.inf, np.nan])).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize(
    ("name", "canonical", "first"),
    [
        ("sotl-e", "sotl-e1", 1),
        ("sotl-e10", "sotl-e10", 10),
        ("sotl-ema", "sotl-ema", 1),
        ("sotl-ema0.9", "sotl-ema0.9", 1),
        ("epochs-to-loss", "epochs-to-loss", 1),
        ("epochs-to-loss0.5", "epochs-to-loss0.5", 1),
        ("val-metric", "val-metric", 1),
    ],
)
def test_a_name_contains_the_parameter(name: str, canonical: str, first: int) -> None:
    assert named_estimator(name).name == canonical
    assert named_estimator(name).first_epoch == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "soltl-e1",
            "There is no estimator 'soltl-e1'; available: 'sotl', 'sotl-e', 'sotl-ema', 'sovl', "
            "'sovl-e', 'sova-e', 'val-metric', 'epochs-to-loss'. A window is a number at the end, "
            "as in 'sotl-e10'.",
        ),
        (
            "sotl_e1",
            "There is no estimator 'sotl_e1'; did you mean 'sotl-e1'? Available: 'sotl', 'sotl-e', "
            "'sotl-ema', 'sovl', 'sovl-e', 'sova-e', 'val-metric', 'epochs-to-loss'. A window is a "
            "number at the end, as in 'sotl-e10'.",
        ),
        (
            "sotl-e0",
            "Expected the window at the end of the name to be a positive integer but got "
            "'sotl-e0'.",
        ),
        (
            "sotl-e1.5",
            "Expected the window at the end of the name to be a positive integer but got "
            "'sotl-e1.5'.",
        ),
        (
            "sotl-ema2",
            "Expected the decay at the end of the name to be in (0, 1] but got 'sotl-ema2'.",
        ),
        ("sotl10", "Expected 'sotl' without a number but got 'sotl10'."),
    ],
)
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        named_estimator(name)


def test_a_missing_curve_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^'sovl' requires `val_loss`, but the curves have none\.$"
    ):
        named_estimator("sovl").scores(LearningCurves(LOSSES))


def test_the_table_of_estimators_is_read_only() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        ESTIMATORS["sotl"] = ESTIMATORS["sovl"]
