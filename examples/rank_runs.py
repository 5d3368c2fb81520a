"""Ranks the runs in a log directory, evaluates the ranking, and draws two figures.

Claim: the files of a sweep show which run is best, how certain that is, and which T would have been
enough. Pass your own directory of runs. Without one, the script first trains a small sweep on
scikit-learn's digits to the end, in less than a minute on two cores.

    python examples/rank_runs.py [LOGS --target test_acc --val-metric val_acc] [--smoke] [--seed S]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

from lightning_sotl import LearningCurves, evaluate
from lightning_sotl.cli import main as lightning_sotl

OUTPUT = Path(__file__).parent / "output"


def main() -> None:
    """Rank the runs, evaluate the ranking, and draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="?", help="directory of runs (default: train a small sweep)")
    parser.add_argument("--target", default="test_acc", help="key of the final metric")
    parser.add_argument("--val-metric", default="val_acc", help="key of the validation metric")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for figures and logs")
    parser.add_argument("--smoke", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logs = options.logs or str(options.output / "rank_runs_logs")
    if options.logs is None:
        from _ranked_sweep import train_sweep  # your own runs need neither torch nor Lightning

        shutil.rmtree(logs, ignore_errors=True)
        train_sweep(
            Path(logs),
            runs=4 if options.smoke else 20,
            epochs=4 if options.smoke else 10,
            seed=options.seed,
        )
    keys = ["--target", options.target, "--val-metric", options.val_metric]
    order, verdicts = options.output / "rank_runs.png", options.output / "rank_runs_evaluation.png"
    for command in (
        ["rank", logs, "--top", "5", "--plot", str(order)],
        ["evaluate", logs, *keys, "--plot", str(verdicts)],
    ):
        code = lightning_sotl(command)
        if code:  # the command has printed the reason
            sys.exit(code)
    print(f"Pictures: {order} and {verdicts}")
    print(verdict(logs, options.target, options.val_metric))


def verdict(logs: str, target: str, val_metric: str) -> str:
    """Return one sentence that compares SoTL-E with the validation metric early on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the commands above have printed all warnings
        curves = LearningCurves.from_logs(logs, final_metric=target, val_metric=val_metric)
    early = max(1, curves.epochs // 4)
    found = evaluate(curves, at=[early], estimators=["sotl-e1", "val-metric"]).estimators
    sotl, metric = found["sotl-e1"][early], found["val-metric"][early]
    return (
        f"After {early} of {curves.epochs} epochs SoTL-E ranks {curves.runs} runs with Spearman "
        f"{sotl.rho:.2f} [{sotl.low:.2f}, {sotl.high:.2f}] against the final {target}, "
        f"{val_metric} with {metric.rho:.2f} [{metric.low:.2f}, {metric.high:.2f}]."
    )


if __name__ == "__main__":
    main()
