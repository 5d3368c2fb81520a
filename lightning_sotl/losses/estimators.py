"""The paper's sums over epochs, as pure functions of the epoch losses L(0), L(1), ...

Every sum over epochs in this package comes from here. Lower is better for all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation


def sotl(losses: ArrayLike) -> NDArray[np.float64]:
    r"""Return the sum of the training losses of all epochs so far (SoTL).

    .. math:: \mathrm{SoTL}(T) = \sum_{e=0}^{T-1} L(e)

    Lower is better. A non-finite epoch loss makes this and every later sum `+inf`, so a
    diverged run ranks last.

    Args:
        losses: Epoch means of the training loss in the loss's own unit, shape `(..., epochs)`.

    Returns:
        float64 of the same shape; entry `k - 1` is the sum after `k` epochs, 0 to `k - 1`.

    Raises:
        ValueError: If `losses` has no epoch axis.

    Example:
        >>> sotl([2.0, 1.0, 0.5]).tolist()
        [2.0, 3.0, 3.5]

    Source:
        Ru et al., arXiv 2006.04492, Eq. 1; called TSE in the NeurIPS 2021 version.
    """
    return _discounted_sums(losses, decay=1.0)


def sotl_e(losses: ArrayLike, *, window: int = 1) -> NDArray[np.float64]:
    r"""Return the sum of the training losses of the last E epochs (SoTL-E).

    .. math:: \mathrm{SoTL\mbox{-}E}(T) = \sum_{e=T-E}^{T-1} L(e)

    Lower is better. A non-finite epoch loss makes every sum that contains it `+inf`. The terms
    are added from the oldest to the newest.

    Args:
        losses: Epoch means of the training loss in the loss's own unit, shape `(..., epochs)`.
        window: E, at least 1. The paper finds E = 1 best early in training.

    Returns:
        float64 of the same shape; entry `k - 1` is the sum after `k` epochs, and NaN while
        fewer than `window` epochs are complete.

    Raises:
        TypeError: If `window` is no integer.
        ValueError: If `window` is below 1, or `losses` has no epoch axis.

    Example:
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
    r"""Return the exponentially discounted sum of the training losses (SoTL-EMA).

    .. math:: \mathrm{SoTL\mbox{-}EMA}(T) = \sum_{e=0}^{T-1} \mathrm{decay}^{T-1-e} L(e)

    Lower is better. It is a sum, not a mean: nothing is divided by the sum of the weights, and
    the newest epoch has weight 1. A non-finite epoch loss makes this and every later sum `+inf`.

    Args:
        losses: Epoch means of the training loss in the loss's own unit, shape `(..., epochs)`.
        decay: Weight of the previous epoch against the newest, in (0, 1]; 1 gives SoTL.

    Returns:
        float64 of the same shape; entry `k - 1` is the sum after `k` epochs.

    Raises:
        TypeError: If `decay` is no number.
        ValueError: If `decay` is outside (0, 1], or `losses` has no epoch axis.

    Example:
        >>> sotl_ema([2.0, 1.0, 0.5], decay=0.5).tolist()
        [2.0, 2.0, 1.5]

    Source:
        Ru et al., NeurIPS 2021, where it is TSE-EMA with decay 0.999. Published code for it
        differs (weights on the newest term, means in place of sums); this is the formula.
    """
    return _discounted_sums(losses, decay=validation.decay("decay", decay))


def discounted_sum(previous: float, loss: float, *, decay: float = 1.0) -> float:
    """Return SoTL (`decay=1`) or SoTL-EMA after one more epoch: `decay * previous + loss`.

    The step that the pure functions repeat, for a run in progress: starting from 0.0, each result
    is the entry of `sotl` or `sotl_ema` for the epochs so far.

    Args:
        previous: The sum before this epoch; 0.0 before the first.
        loss: The epoch's mean loss; a value that is not finite counts as `+inf`.
        decay: Weight of the previous sum, in (0, 1].

    Returns:
        The sum after this epoch. Lower is better.

    Example:
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
