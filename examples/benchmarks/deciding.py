"""Measures the cost of one decision of the adaptive policy, next to 1,000 finished runs.

All times are processor times. The benchmark measures the rule alone, with one curve per run and
with two; Optuna's pruner with a study in memory; and a run that reads the records of the others
below a directory: its first decision, and later ones, each after one other run wrote an epoch. A
policy decides once per epoch.

Time: about 20 s on one CPU core, 3 s with `--smoke`.

    python examples/benchmarks/deciding.py [--runs 1000] [--seed 0] [--smoke]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm

from lightning_sotl import AdaptivePolicy
from lightning_sotl.callbacks._shared_runs import SharedRuns
from lightning_sotl.integrations.optuna import AdaptivePruner
from lightning_sotl.losses.families import FAMILIES
from lightning_sotl.losses.names import LoggedEstimate
from lightning_sotl.record.writer import RunRecord

EPOCHS = 50
POLICY = AdaptivePolicy(max_epochs=EPOCHS)


def milliseconds(call: Callable[[], object], *, repeats: int = 50) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return 1000 * float(np.median(times))


def by_rule(losses: np.ndarray, epoch: int, *, curves: int) -> float:
    """Return the time of the rule alone, for a run after `epoch` epochs."""
    table = np.vstack([losses, losses[:1]])
    table[-1, epoch:] = np.nan
    run = len(table) - 1
    tables = [table] * curves
    return milliseconds(lambda: POLICY.decide(run, *tables))


def by_pruner(losses: np.ndarray, epoch: int) -> float:
    """Return the time of `should_prune` in a study whose finished trials the pruner has read."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=AdaptivePruner(POLICY))
    for curve in tqdm(losses, desc="trials", leave=False):
        values = dict(enumerate(curve.tolist()))
        state = optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                value=values[EPOCHS - 1], intermediate_values=values, state=state
            )
        )
    trial = study.ask()
    for step in range(epoch):
        trial.report(float(losses[0, step]), step)
    trial.should_prune()  # reads the finished trials, once
    return milliseconds(trial.should_prune)


def by_directory(losses: np.ndarray, epoch: int) -> tuple[float, float]:
    """Return the time of the first decision from all records, and of a later one."""
    estimate = LoggedEstimate(FAMILIES["sotl-e"], 1)
    with tempfile.TemporaryDirectory() as folder:
        records = [RunRecord(Path(folder) / f"run_{n}" / "sotl.jsonl") for n in range(len(losses))]
        for number, (record, curve) in enumerate(
            zip(tqdm(records, leave=False), losses, strict=True)
        ):
            record.header(f"run {number}", unit="epoch")
            for unit, loss in enumerate(curve[: EPOCHS - 1] if number == 0 else curve):
                record.unit(unit, float(loss), 100)
        own = dict(enumerate(losses[0, :epoch].tolist()))
        sweep = SharedRuns(folder, estimate=estimate, policy=POLICY)
        first = milliseconds(lambda: sweep.decide("own", own, len(own)), repeats=1)

        def later() -> None:
            records[0].unit(EPOCHS - 1, 1.0, 100)
            sweep.decide("own", own, len(own))

        return first, milliseconds(later, repeats=10)


def main() -> None:
    """Measure, and print one table and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="number of finished runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="50 runs")
    options = parser.parse_args()
    runs = 50 if options.smoke else options.runs
    generator = np.random.default_rng(options.seed)
    losses = np.exp(-np.cumsum(generator.exponential(0.05, size=(runs, EPOCHS)), axis=1))
    print(f"processor time of one decision in ms, {runs} finished runs of {EPOCHS} epochs")
    print(f"{'after epoch':32} {'3':>7} {'10':>7} {'49':>7}")
    worst = 0.0
    for name, measure in {
        "the rule, training losses": lambda epoch: by_rule(losses, epoch, curves=1),
        "the rule, validation too": lambda epoch: by_rule(losses, epoch, curves=2),
        "Optuna's should_prune, in memory": lambda epoch: by_pruner(losses, epoch),
    }.items():
        times = [measure(epoch) for epoch in (3, 10, 49)]
        worst = max(worst, *times)
        print(f"{name:32}" + "".join(f" {taken:7.2f}" for taken in times))
    first, later = by_directory(losses, 10)
    print(f"{'a directory of records':32} {'':7} {later:7.2f}         first decision {first:.0f}")
    print(
        f"With {runs} finished runs, a decision takes at most {worst:.2f} ms, or {later:.0f} ms "
        "with reading what is new in the records of the others."
    )


if __name__ == "__main__":
    main()
