from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _bayesian_regression import Posterior, check, measure
from fig1_bayesian_regression import draw_data, embed
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import multivariate_normal, norm

from tests.examples.test_examples import run_example

NOISES = (1.0, 0.01)


def data(model: int, points: int = 12) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = draw_data(points, np.random.default_rng(3))
    return embed(inputs, model), targets


def closed_form(inputs: np.ndarray, targets: np.ndarray, noise: float) -> tuple[np.ndarray, ...]:
    """Return mean and covariance of the weights, from all points at once."""
    gram = inputs @ inputs.T + noise * np.eye(len(targets))
    lever = np.linalg.solve(gram, inputs).T
    return lever @ targets, np.eye(inputs.shape[1]) - lever @ inputs


def joint(inputs: np.ndarray, targets: np.ndarray, noise: float) -> float:
    """Return log P(D), from the density of all targets at once."""
    cov = inputs @ inputs.T + noise * np.eye(len(targets))
    return float(multivariate_normal(cov=cov).logpdf(targets))


def measured(model: int, noise: float, samples: int = 1):
    inputs, targets = data(model)
    generator = np.random.default_rng(0)
    options = {"at": (4, 12), "noise": noise}
    found, _ = measure(inputs, targets, samples=samples, generator=generator, **options)
    return found


def test_the_data_are_those_of_section_5_1() -> None:
    inputs, targets = draw_data(2000, np.random.default_rng(0))
    assert inputs.shape == (2000, 2001)
    own = np.diag(inputs[:, 1:])
    noise = inputs[:, 0] - targets
    assert np.count_nonzero(inputs) == 2 * 2000
    assert own.std() == pytest.approx(1, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert abs(np.corrcoef([own, noise, targets]) - np.eye(3)).max() < 0.1
    assert embed(inputs, 1) is inputs
    np.testing.assert_array_equal(embed(inputs, 2), inputs[:, :1])


@pytest.mark.parametrize("noise", [1.0, 1e-6])
@pytest.mark.parametrize("model", [1, 2])
def test_the_posterior_after_single_updates_equals_that_of_all_points_at_once(
    model: int, noise: float
) -> None:
    inputs, targets = data(model)
    posterior = Posterior(inputs.shape[1], noise=noise)
    for row, target in zip(inputs, targets, strict=True):
        posterior.update(row, float(target))
    mean, covariance = closed_form(inputs, targets, noise)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(posterior.factor @ posterior.factor.T, covariance, atol=1e-7)


def test_the_variance_is_accurate_for_a_tiny_noise() -> None:
    posterior = Posterior(2, noise=1e-15)
    row = np.array([1.0, 0.3])
    for _ in range(3):
        posterior.update(row, 2.0)
    mean, variance = posterior.predict(row)
    prior = 1.09
    assert variance == pytest.approx(1 / (1 / prior + 3 / 1e-15), rel=1e-3)
    assert mean == pytest.approx(2.0)


def test_samples_have_the_moments_of_the_posterior() -> None:
    inputs, targets = data(1, points=2)
    posterior = Posterior(3, noise=1.0)
    for row, target in zip(inputs, targets, strict=True):
        posterior.update(row, float(target))
    drawn = posterior.sample(100_000, np.random.default_rng(1))
    mean, covariance = closed_form(inputs, targets, 1.0)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.02)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("model", [1, 2])
def test_the_evidence_is_scipys_joint_density_at_every_n(model: int, noise: float) -> None:
    inputs, targets = data(model)
    wanted = [-joint(inputs[:n], targets[:n], noise) for n in range(1, 13)]
    np.testing.assert_allclose(measured(model, noise).evidence, wanted, rtol=1e-10)


@pytest.mark.parametrize("noise", NOISES)
def test_the_evidence_is_the_sum_of_predictive_densities(noise: float) -> None:
    inputs, targets = data(1)
    steps = np.diff(measured(1, noise).evidence, prepend=0.0)
    for index, (row, target) in enumerate(zip(inputs, targets, strict=True)):
        mean, covariance = closed_form(inputs[:index], targets[:index], noise)
        predictive = norm(row @ mean, np.sqrt(row @ covariance @ row + noise))
        assert steps[index] == pytest.approx(-predictive.logpdf(target), rel=1e-9)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("model", [1, 2])
def test_the_bound_is_the_expected_log_likelihood_by_quadrature(model: int, noise: float) -> None:
    inputs, targets = data(model)
    found = measured(model, noise)
    nodes, weights = hermegauss(5)  # exact, because the log likelihood is quadratic in the weights
    weights = weights / weights.sum()
    expected = []
    for index, (row, target) in enumerate(zip(inputs, targets, strict=True)):
        mean, covariance = closed_form(inputs[:index], targets[:index], noise)
        line = row @ mean + np.sqrt(row @ covariance @ row) * nodes
        expected.append(weights @ norm(line, np.sqrt(noise)).logpdf(target))
    np.testing.assert_allclose(found.bound, -np.cumsum(expected), rtol=1e-9)
    assert (np.diff(found.bound - found.evidence, prepend=0.0) > 0).all()


def test_sotl_of_many_samples_is_the_bound_and_not_the_evidence() -> None:
    found = measured(1, 1.0, samples=20_000)
    error = found.sotl.std(axis=0) / np.sqrt(20_000)
    assert (abs(found.sotl.mean(axis=0) - found.bound) < 4 * error).all()
    assert (found.sotl.mean(axis=0) - found.evidence > 4 * error).all()


def test_the_final_loss_is_that_of_all_points_under_their_own_posterior() -> None:
    inputs, targets = data(1)
    found = measured(1, 1.0, samples=20_000)
    for column, count in enumerate((4, 12)):
        seen, known = inputs[:count], targets[:count]
        mean, covariance = closed_form(seen, known, 1.0)
        fit = -norm(seen @ mean).logpdf(known).sum()
        assert found.fit[column] == pytest.approx(fit)
        spread = np.trace(seen @ covariance @ seen.T) / 2
        error = found.final[:, column].std() / np.sqrt(20_000)
        assert found.final[:, column].mean() == pytest.approx(fit + spread, abs=4 * error)


def test_the_check_refuses_a_bound_above_the_evidence() -> None:
    inputs, targets = data(1)
    found = measured(1, 1.0)
    check(found, inputs, targets, at=(4, 12), noise=1.0)
    bound = found.bound.copy()
    bound[7] = found.evidence[7] - 0.5
    message = "Expected L to be at most log P(D) but it is 0.5 nats above."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        check(replace(found, bound=bound), inputs, targets, at=(4, 12), noise=1.0)


def test_the_check_refuses_an_evidence_that_differs_from_scipys() -> None:
    inputs, targets = data(1)
    found = measured(1, 1.0)
    wrong = replace(found, evidence=found.evidence - 0.001)
    message = r"^Expected -log P\(D\) of 4 points to be SciPy's \S+ but got \S+\.$"
    with pytest.raises(RuntimeError, match=message):
        check(wrong, inputs, targets, at=(4, 12), noise=1.0)


def test_the_sentence_has_the_shares_of_the_table(tmp_path: Path) -> None:
    lines = run_example("paper/fig1_bayesian_regression", tmp_path)
    shares = {line[:12].strip(): line[12:].split() for line in lines if "+-" in line}
    last = {label: shares[label][-4] for label in ("-log P(D)", "SoTL (1)", "final (1)")}
    assert lines[-1].startswith("At n = 20, L is below the log evidence in all 6 draws, by ")
    for label, words in (
        ("-log P(D)", "the evidence in"),
        ("SoTL (1)", "by SoTL of one sample in"),
        ("final (1)", "final training loss of one sample in"),
    ):
        assert f"{words} {last[label]} (" in lines[-1]
