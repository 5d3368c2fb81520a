"""LcSVR: learning-curve extrapolation by nu-SVR, the trained baseline of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import extras, validation
from lightning_sotl._utils.text import pluralize
from lightning_sotl.curves.table import LearningCurves

_FOLDS = 3
_FEWEST = 2 * _FOLDS


class LcSVR:
    """Predicts the final metric from the first T epochs of the validation curve by nu-SVR.

    The inputs of the regression are the validation metric of epochs 0 to T - 1, its first and
    second differences, the mean and standard deviation of each of the three, and the `features` of
    the runs (architecture and hyper-parameters) if the table has them. Each input is standardized.
    A random search with 3-fold cross-validation finds the hyper-parameters C, nu and gamma.

    Unlike the other estimators, it is trained on finished runs: `training_runs` of them, drawn at
    random.

    Args:
        training_runs: The number of runs to train on, at least 6; all runs if there are fewer.
        searches: The number of hyper-parameter settings to try, at least 1.
        seed: The seed of the drawn runs, the folds and the search, at least 0; None for a different
            seed each time.

    Attributes:
        training_rows_: After `fit`, the rows of the table that were used for training. Leave them
            out when you evaluate predictions.
        at_: After `fit`, T, the number of epochs that the inputs cover.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of range.

    Examples:
        >>> generator = np.random.default_rng(0)
        >>> metric = np.sort(generator.uniform(size=(40, 6)), axis=1)
        >>> curves = LearningCurves(1 - metric, val_metric=metric, final_metric=metric[:, -1])
        >>> model = LcSVR(training_runs=20, searches=5).fit(curves, at=4)
        >>> model.predict(curves, at=4).shape, len(model.training_rows_)
        ((40,), 20)

    Source:
        Baker et al. 2018, "Accelerating Neural Architecture Search using Performance Prediction";
        Ru et al., arXiv 2006.04492, section 5, with 200 training runs.
    """

    training_rows_: NDArray[np.int64]
    at_: int

    def __init__(self, training_runs: int = 200, searches: int = 50, seed: int | None = 0) -> None:
        self.training_runs = validation.positive_int("training_runs", training_runs)
        if training_runs < _FEWEST:
            raise ValueError(
                f"Expected `training_runs` to be at least {_FEWEST} but got {training_runs}."
            )
        self.searches = validation.positive_int("searches", searches)
        self.seed = validation.optional_seed("seed", seed)
        extras.require("sklearn", extra="svr", purpose="fit LcSVR")
        self._model: Any = None

    def fit(self, curves: LearningCurves, at: int) -> LcSVR:
        """Train on finished runs, and return the estimator itself.

        Runs without a finite target, or without a finite validation metric in each of the first T
        epochs, are not used.

        Args:
            curves: Finished runs with `val_metric` and `final_metric`.
            at: T, the number of epochs to use, from 1 to the number of epochs of the curves.

        Raises:
            TypeError: If `at` is not an integer.
            ValueError: If a curve is missing, `at` is out of range, or fewer than 6 runs can be
                used.
        """
        if curves.final_metric is None:
            raise ValueError("Expected the curves to have `final_metric` but it is absent.")
        inputs = _inputs(curves, at)
        rows = np.flatnonzero(np.isfinite(curves.final_metric) & np.isfinite(inputs).all(axis=1))
        if rows.size < _FEWEST:
            raise ValueError(
                f"Expected at least {_FEWEST} runs with a finite target and a finite validation "
                f"metric in the first {pluralize(at, 'epoch')} but got {rows.size} of "
                f"{curves.runs}."
            )
        generator = np.random.default_rng(self.seed)
        size = min(self.training_runs, rows.size)
        self.training_rows_ = np.sort(generator.choice(rows, size=size, replace=False))
        self.at_ = at
        target = curves.final_metric[self.training_rows_]
        # The tolerance of the SVR is absolute, so the target is standardized like the inputs.
        self._center, self._scale = float(target.mean()), float(target.std()) or 1.0
        self._model = self._search()
        self._model.fit(inputs[self.training_rows_], (target - self._center) / self._scale)
        return self

    def predict(self, curves: LearningCurves, at: int) -> NDArray[np.float64]:
        """Return the predicted final metric of each run.

        Args:
            curves: Runs with `val_metric`, and with `features` if the curves of `fit` had them.
            at: T, the same as in `fit`.

        Returns:
            float64 array of shape `(runs,)`, in the unit and direction of `final_metric`. A run
            with a non-finite input gets NaN, which ranks last.

        Raises:
            RuntimeError: If `fit` was not called.
            ValueError: If `at` or the number of features differs from that in `fit`.
        """
        if self._model is None:
            raise RuntimeError("Expected `fit` to be called before `predict`.")
        if at != self.at_:
            raise ValueError(f"Expected `at` to be {self.at_}, as in `fit`, but got {at!r}.")
        inputs = _inputs(curves, at)
        expected = self._model.n_features_in_
        if inputs.shape[1] != expected:
            raise ValueError(
                f"Expected {expected} inputs per run, as in `fit`, but got {inputs.shape[1]}: the "
                "features differ."
            )
        predictions = np.full(curves.runs, np.nan)
        usable = np.isfinite(inputs).all(axis=1)
        if usable.any():
            standardized = self._model.predict(inputs[usable])
            predictions[usable] = standardized * self._scale + self._center
        return predictions

    def _search(self) -> Any:
        from scipy.stats import loguniform, uniform
        from sklearn.model_selection import KFold, RandomizedSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import NuSVR

        return RandomizedSearchCV(
            make_pipeline(StandardScaler(), NuSVR(kernel="rbf")),
            {
                "nusvr__C": loguniform(1e-2, 1e3),
                "nusvr__nu": uniform(0.05, 0.9),
                "nusvr__gamma": loguniform(1e-5, 1e1),
            },
            n_iter=self.searches,
            scoring="neg_mean_squared_error",
            cv=KFold(_FOLDS, shuffle=True, random_state=self.seed),
            random_state=self.seed,
        )


def _inputs(curves: LearningCurves, at: int) -> NDArray[np.float64]:
    """Return the inputs of the regression, shape `(runs, inputs)`."""
    if curves.val_metric is None:
        raise ValueError("Expected the curves to have `val_metric` but it is absent.")
    if validation.positive_int("at", at) > curves.epochs:
        raise ValueError(f"Expected `at` to be in [1, {curves.epochs}] but got {at}.")
    curve = curves.val_metric[:, :at]
    columns = []
    for order in range(3):
        differences = np.diff(curve, n=order, axis=1)
        if differences.shape[1]:
            mean = differences.mean(axis=1, keepdims=True)
            columns += [differences, mean, differences.std(axis=1, keepdims=True)]
    if curves.features is not None:
        columns.append(curves.features)
    return np.concatenate(columns, axis=1)
