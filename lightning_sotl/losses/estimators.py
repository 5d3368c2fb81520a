"""The paper's estimates as pure functions of the epoch losses L(0), L(1), ...

All sums over epochs in this package are computed here. Lower is better for all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation


def sotl(losses: ArrayLike) -> NDArray[np.float64]:
    """Return the sum of the training losses of all epochs so far (SoTL).

    The formula is `SoTL(T) = L(0) + ... + L(T-1)`.

    Lower is better. A non-finite epoch loss makes the sum of its epoch and every later sum
    `+inf`, so a diverged run ranks last.

    Args:
        losses: L(e), the mean training loss of each epoch, in the unit of the loss, shape
            `(..., epochs)`.

    Returns:
        A float64 array of the same shape. Entry `k - 1` is the sum after `k` epochs (epochs 0 to
        `k - 1`).

    Raises:
        ValueError: If `losses` is a single number, without an epoch axis.

    Examples:
        >>> sotl([2.0, 1.0, 0.5]).tolist()
        [2.0, 3.0, 3.5]

    Source:
        Ru et al., arXiv 2006.04492, Eq. 1; called TSE in the NeurIPS 2021 version.
    """
    return _discounted_sums(losses, decay=1.0)


def sotl_e(losses: ArrayLike, *, window: int = 1) -> NDArray[np.float64]:
    """Return the sum of the training losses of the last E epochs (SoTL-E).

    The formula is `SoTL-E(T) = L(T-E) + ... + L(T-1)`.

    Lower is better. A non-finite epoch loss makes every sum that contains it `+inf`. Losses are
    added from the oldest epoch to the newest.

    Args:
        losses: L(e), the mean training loss of each epoch, in the unit of the loss, shape
            `(..., epochs)`.
        window: E, the number of epochs to sum, at least 1. The paper finds E = 1 best early in
            training.

    Returns:
        A float64 array of the same shape. Entry `k - 1` is the sum after `k` epochs. It is NaN
        while `k` is below `window`.

    Raises:
        TypeError: If `window` is not an integer.
        ValueError: If `window` is below 1, or if `losses` is a single number, without an epoch
            axis.

    Examples:
        >>> sotl_e([2.0, 1.0, 0.5], window=2).tolist()
        [nan, 3.0, 1.5]

    Source:
        Ru et al., arXiv 2006.04492, section 2; called TSE-E in the NeurIPS 2021 version.
    """
    window = validation.positive_int("window", window)
    terms = _ranked_last_if_diverged(losses)
    estimates = np.full(terms.shape, np.nan)
    full_windows = terms.shape[-1] - window + 1
    if full_windows > 0:
        total = terms[..., :full_windows].copy()
        for age in range(1, window):
            total += terms[..., age : age + full_windows]
        estimates[..., window - 1 :] = total
    return estimates


def sotl_ema(losses: ArrayLike, *, decay: float = 0.999) -> NDArray[np.float64]:
    """Return the exponentially discounted sum of the training losses (SoTL-EMA).

    The formula is `SoTL-EMA(T) = L(T-1) + decay * L(T-2) + decay^2 * L(T-3) + ...`, back to L(0).

    Lower is better. The newest epoch has weight 1, and each earlier epoch has `decay` times the
    weight of the next one. The result is a sum, not a mean: it is not divided by the sum of the
    weights. A non-finite epoch loss makes the sum of its epoch and every later sum `+inf`.

    Args:
        losses: L(e), the mean training loss of each epoch, in the unit of the loss, shape
            `(..., epochs)`.
        decay: The factor per epoch, in (0, 1]. With 1, the result equals `sotl`.

    Returns:
        A float64 array of the same shape. Entry `k - 1` is the sum after `k` epochs.

    Raises:
        TypeError: If `decay` is not a number.
        ValueError: If `decay` is outside (0, 1], or if `losses` is a single number, without an
            epoch axis.

    Examples:
        >>> sotl_ema([2.0, 1.0, 0.5], decay=0.5).tolist()
        [2.0, 2.0, 1.5]

    Source:
        Ru et al., NeurIPS 2021, where it is called TSE-EMA and has decay 0.999. This function
        follows the paper's formula. Published code for it differs: some puts the weight on the
        newest term, and some returns means instead of sums.
    """
    return _discounted_sums(losses, decay=validation.decay("decay", decay))


def discounted_sum(previous: float, loss: float, *, decay: float = 1.0) -> float:
    """Return SoTL (`decay=1`) or SoTL-EMA after one more epoch: `decay * previous + loss`.

    Use it to update the sum of a run in progress. The results equal the entries of `sotl` or
    `sotl_ema` exactly.

    Args:
        previous: The sum before this epoch, or 0.0 before the first epoch.
        loss: The epoch's mean loss. A non-finite value counts as `+inf`.
        decay: The weight of the previous sum, in (0, 1].

    Returns:
        The sum after this epoch. Lower is better.

    Examples:
        >>> discounted_sum(discounted_sum(0.0, 2.0), 1.0)
        3.0
    """
    sums = _next_sum(np.array([previous]), _ranked_last_if_diverged([loss]), decay)
    return float(sums[0])


def _discounted_sums(losses: ArrayLike, *, decay: float) -> NDArray[np.float64]:
    terms = _ranked_last_if_diverged(losses)
    estimates = np.empty_like(terms)
    total = np.zeros(terms.shape[:-1])
    for epoch in range(terms.shape[-1]):
        total = _next_sum(total, terms[..., epoch], decay)
        estimates[..., epoch] = total
    return estimates


def _next_sum(
    previous: NDArray[np.float64], term: NDArray[np.float64], decay: float
) -> NDArray[np.float64]:
    return decay * previous + term


def _ranked_last_if_diverged(losses: ArrayLike) -> NDArray[np.float64]:
    terms = np.asarray(losses, dtype=np.float64)
    if terms.ndim == 0:
        raise ValueError(
            "Expected `losses` to have the shape (..., epochs) but got a single number."
        )
    return np.where(np.isfinite(terms), terms, np.inf)
