"""Measures how fast a table of NAS-Bench-201's size is evaluated: 15,625 runs of 200 epochs.

Claims: all estimators at all T take less than 10 s and 2 GB. Intervals from 1,000 resamples at 8
values of T take less than 60 s, and are at least 10 times as fast as `scipy.stats.spearmanr` on
each resample. The curves are synthetic, because only their number matters. Times are processor
times over all cores.
Time: less than a minute.

    python examples/benchmarks/ranking.py [--smoke] [--seed S]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
from scipy.stats import spearmanr

from lightning_sotl import LearningCurves, correlation_curves, evaluate

TIMED_CALLS = 50
NAMES = (
    "sotl",
    "sotl-e1",
    "sotl-e10",
    "sotl-ema",
    "sovl",
    "sovl-e1",
    "sovl-e10",
    "sova-e10",
    "val-metric",
    "epochs-to-loss",
)


def main() -> None:
    """Measure and print one table and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small table, for a quick check")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs, epochs, resamples = (500, 40, 50) if options.smoke else (15_625, 200, 1000)
    curves = made_up_curves(np.random.default_rng(options.seed), runs, epochs)
    at = sorted({max(1, epochs * share // 40) for share in (1, 2, 4, 8, 12, 20, 30, 40)})

    begun = time.process_time()
    found = correlation_curves(curves, NAMES)
    seconds_curves = time.process_time() - begun
    memory = peak_gigabytes()

    per_call = scipy_seconds_per_call(curves)
    begun = time.process_time()
    result = evaluate(curves, at=at, resamples=resamples, seed=options.seed)
    seconds_intervals = time.process_time() - begun
    # Only the shown correlations count, not the windows that the recommendation also needs.
    calls = resamples * sum(len(values) for values in result.estimators.values())
    ratio = calls * per_call / seconds_intervals

    print(f"{runs:,} runs x {epochs} epochs, processor time")
    print(f"{'all T, ' + str(len(found)) + ' estimators':45s}{seconds_curves:10.2f} s")
    print(f"{'peak memory so far':45s}{memory:10.2f} GB")
    print(f"{f'{resamples:,} resamples at {len(at)} T, and (E, T)':45s}{seconds_intervals:10.2f} s")
    print(f"{'scipy.stats.spearmanr, mean of 50 calls':45s}{per_call * 1e3:10.3f} ms")
    print(f"{f'the same as {calls:,} of its calls':45s}{calls * per_call:10.0f} s")
    print(
        f"Intervals of {len(result.estimators)} estimators at {len(at)} values of T took "
        f"{seconds_intervals:.1f} s, {ratio:.1f} times as fast as spearmanr on each resample."
    )


def made_up_curves(generator: np.random.Generator, runs: int, epochs: int) -> LearningCurves:
    """Return curves that fall with the quality of each run, with noise and without ties."""
    quality = generator.uniform(0.3, 0.95, size=(runs, 1))
    progress = np.linspace(0.05, 1.0, epochs) ** generator.uniform(0.3, 1.5, size=(runs, 1))
    accuracy = quality * progress + generator.normal(scale=0.02, size=(runs, epochs))
    losses = 2.5 * (1 - accuracy) ** 2
    return LearningCurves(
        losses,
        val_loss=losses + generator.normal(scale=0.05, size=(runs, epochs)),
        val_metric=accuracy,
        final_metric=quality[:, 0] + generator.normal(scale=0.02, size=runs),
        final_loss=losses[:, -1],
    )


def scipy_seconds_per_call(curves: LearningCurves) -> float:
    """Return the time of one call on contiguous float64 arrays."""
    scores = np.ascontiguousarray(curves.train_loss[:, -1])
    target = np.ascontiguousarray(curves.final_metric)
    spearmanr(scores, target)
    begun = time.process_time()
    for _ in range(TIMED_CALLS):
        spearmanr(scores, target)
    return (time.process_time() - begun) / TIMED_CALLS


def peak_gigabytes() -> float:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    main()
