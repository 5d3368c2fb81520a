"""Bayesian linear regression, updated point by point, as in the paper's section 5.1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from lightning_sotl import sotl

Array = NDArray[np.float64]


class Posterior:
    """Normal distribution over the weights: the prior is N(0, 1), and each point updates it.

    The covariance is stored as a factor F with covariance F F'. Potter's square-root update changes
    F itself, so rounding cannot make a variance negative.

    Args:
        weights: The number of weights.
        noise: Variance of the observation noise, above 0.
    """

    def __init__(self, weights: int, *, noise: float) -> None:
        self.noise = noise
        self.mean = np.zeros(weights)
        self.factor = np.eye(weights)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Return mean and variance of the noise-free regression at each row."""
        return inputs @ self.mean, np.square(inputs @ self.factor).sum(axis=-1)

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Return weights drawn from the distribution, shape `(count, weights)`."""
        draws = generator.standard_normal((count, self.mean.size))
        return self.mean + draws @ self.factor.T

    def update(self, row: Array, target: float) -> None:
        """Update the distribution with one observation."""
        projected = row @ self.factor
        variance = projected @ projected + self.noise  # of the observation
        gain = self.factor @ projected / variance  # Kalman's
        self.mean = self.mean + gain * (target - row @ self.mean)
        shrink = 1 / (1 + math.sqrt(self.noise / variance))
        self.factor = self.factor - shrink * np.outer(gain, projected)


@dataclass(frozen=True)
class Measures:
    """The measures of one model on one data set, in nats; lower is better.

    Attributes:
        evidence: -log P(D) of the first k = 1, 2, ... points, shape `(points,)`.
        bound: -L(D) of the first k points, shape `(points,)`.
        sotl: Sum of the losses of the first k points, each under weights drawn from the posterior
            of the points before it, shape `(samples, points)`.
        final: For each n in `at`, the total loss of the first n points under weights drawn from
            their own posterior, shape `(samples, len(at))`.
        fit: The same under the mean of that posterior, shape `(len(at),)`.
    """

    evidence: Array
    bound: Array
    sotl: Array
    final: Array
    fit: Array


def log_density(residual: Array | float, variance: Array | float) -> Array:
    """Return the log density of N(0, variance), in nats."""
    return -0.5 * (np.log(2 * np.pi * np.asarray(variance)) + np.square(residual) / variance)


def total_loss(weights: Array, inputs: Array, targets: Array, noise: float) -> Array:
    """Return the total loss of all points under weights of shape `(..., weights)`."""
    return -log_density(targets - weights @ inputs.T, noise).sum(axis=-1)


def measure(
    inputs: Array,
    targets: Array,
    *,
    at: Sequence[int],
    samples: int,
    noise: float,
    generator: np.random.Generator,
) -> tuple[Measures, list[Posterior]]:
    """Observe the points one by one; return the measures, and the posterior at each n in `at`.

    Args:
        inputs: Features of each point, shape `(points, weights)`.
        targets: Shape `(points,)`.
        at: The n's, ascending, each in [1, points].
        samples: The number of weights drawn from each posterior.
        noise: Variance of the observation noise.
        generator: Generator of the drawn weights.
    """
    points, weights = inputs.shape
    posterior = Posterior(weights, noise=noise)
    predictive, expected = np.empty(points), np.empty(points)
    losses = np.empty((samples, points))
    final, fit, posteriors = [], [], []
    for index, (row, target) in enumerate(zip(inputs, targets, strict=True)):
        mean, variance = posterior.predict(row)
        predictive[index] = log_density(target - mean, variance + noise)
        # E log N(y | x'w, noise): the spread of x'w adds to the squared residual.
        expected[index] = log_density(target - mean, noise) - variance / (2 * noise)
        losses[:, index] = -log_density(target - posterior.sample(samples, generator) @ row, noise)
        posterior.update(row, float(target))
        if index + 1 in at:
            seen, known = inputs[: index + 1], targets[: index + 1]
            drawn = posterior.sample(samples, generator)
            final.append(total_loss(drawn, seen, known, noise))
            fit.append(total_loss(posterior.mean, seen, known, noise))
            posteriors.append(copy(posterior))  # shallow: `update` replaces the arrays
    sums = -np.cumsum(predictive), -np.cumsum(expected), sotl(losses)
    return Measures(*sums, np.stack(final, axis=1), np.array(fit)), posteriors


def check(
    found: Measures, inputs: Array, targets: Array, *, at: Sequence[int], noise: float
) -> None:
    """Check the bound at every n, and the evidence at each n in `at` against SciPy.

    SciPy computes the joint density of all targets, N(0, X X' + noise I), independently of the sum
    of predictive densities.

    Raises:
        RuntimeError: If L exceeds the log evidence at any n, or if the two evidences differ.
    """
    above = (found.evidence - found.bound).max()
    if above > 1e-9:
        raise RuntimeError(f"Expected L to be at most log P(D) but it is {above:g} nats above.")
    for count in at:
        seen = inputs[:count]
        joint = multivariate_normal(cov=seen @ seen.T + noise * np.eye(count))
        oracle, ours = -float(joint.logpdf(targets[:count])), float(found.evidence[count - 1])
        if not math.isclose(oracle, ours, rel_tol=1e-9, abs_tol=1e-9):
            raise RuntimeError(
                f"Expected -log P(D) of {count} points to be SciPy's {oracle!r} but got {ours!r}."
            )
