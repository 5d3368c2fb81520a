"""Optuna studies whose processes are killed, at random times or chosen points, and restarted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from optuna.trial import TrialState
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations.optuna import (
    AdaptivePruner,
    OptunaReporter,
    RegularizedEvolutionSampler,
    requeue_interrupted,
)
from tests.campaigns import forked
from tests.campaigns.killed_runs import BATCHES, Net, ShuffledLoader
from tests.campaigns.tally import Tally
from tests.support.helpers import trainer
from tests.support.optuna_runs import storage

TRIALS, EPOCHS, STOP = 7, 4, 3
KILL_AT = "KILL_AT"  # "point:n": the process kills itself when it reaches the point the n-th time

PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=2, min_early_stopping_rate=0
    ),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=2, reduction_factor=2
    ),
    "adaptive": lambda: AdaptivePruner(AdaptivePolicy(max_epochs=EPOCHS, runs=TRIALS)),
    # Ignores other trials, so that the order of parallel trials does not matter.
    "threshold": lambda: optuna.pruners.ThresholdPruner(upper=1.4),
}
SAVES: dict[str, dict[str, Any]] = {
    "at an epoch's end": {},
    "after batches": {"every_n_train_steps": BATCHES // 2},
    "after a validation": {"save_on_train_epoch_end": False},
}


@dataclass(frozen=True)
class Setting:
    """The storage, pruner and objective of a study."""

    storage: str
    pruner: str
    saves: str = "at an epoch's end"
    stops: bool = True  # whether trials stop at STOP instead of training to the end
    monitor: str = "sotl_e1"
    workers: int = 1


SETTINGS = (
    Setting("sqlite", "median"),
    Setting("journal", "halving"),
    Setting("sqlite", "hyperband", saves="after batches", stops=False),
    Setting("journal", "adaptive", saves="after a validation", stops=False),
    Setting("sqlite", "median", monitor="val_loss"),
    Setting("journal", "threshold", saves="after batches", workers=2),
    Setting("sqlite", "halving", saves="after batches"),
    Setting("sqlite", "threshold", stops=False, workers=2),
)


class Network(Net):
    """Learns fast or slowly, or diverges from the start."""

    def __init__(self, seed: int, rate: float, start: float) -> None:
        super().__init__(seed)
        self.rate = rate
        with torch.no_grad():
            self.net[-1].weight.mul_(start)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


class OrderedLoader(ShuffledLoader):
    """Batches in the same order in each epoch, because a resume does not restore the next order."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.epoch = 0 if self.resumed and self.position < BATCHES else -1
        return super().__iter__()


class Points:
    """Counts how often a process reaches each point, and kills it at the chosen one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        point, _, times = os.environ.get(KILL_AT, "").partition(":")
        self.point, self.times = point, int(times or 0)

    def reach(self, point: str) -> None:
        self.counts[point] += 1
        if point == self.point and self.counts[point] == self.times:
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedIO(TorchCheckpointIO):
    """Has a point before and after each save of a checkpoint."""

    def __init__(self, points: Points) -> None:
        self.points = points

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        self.points.reach("before a checkpoint's save")
        super().save_checkpoint(*args, **options)
        self.points.reach("after a checkpoint's save")


def watch(points: Points, study: optuna.Study) -> None:
    """From now on, have points in this process before and after what Optuna does."""

    def around(owner: Any, name: str, name_of: Callable[..., str | None]) -> None:
        method = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            what = name_of(*args, **options)
            if what:
                points.reach(f"before {what}")
            result = method(*args, **options)
            if what:
                points.reach(f"after {what}")
            return result

        setattr(owner, name, watched)

    def state_change(trial_id: int, state: TrialState, values: Any = None) -> str | None:
        return {
            TrialState.COMPLETE: "the commit of a complete trial",
            TrialState.PRUNED: "the commit of a pruned trial",
            TrialState.WAITING: "a trial returns to the queue",
        }.get(state)

    def attribute(trial_id: int, key: str, value: Any) -> str | None:
        if key.startswith("lightning_sotl:pruned"):
            return "the decision is noted"
        return "the checkpoint is noted" if key == "lightning_sotl:checkpoint_path" else None

    around(study._storage, "set_trial_state_values", state_change)
    around(study._storage, "set_trial_user_attr", attribute)
    around(study._storage, "set_trial_intermediate_value", lambda *_: "a report")
    decide = type(study.pruner).prune

    def prune(pruner: Any, *args: Any) -> bool:
        decision = decide(pruner, *args)
        points.reach("after the pruner's yes" if decision else "after the pruner's no")
        return decision

    type(study.pruner).prune = prune  # type: ignore[method-assign]


def objective(folder: Path, setting: Setting, points: Points, trial: optuna.Trial) -> float:
    """Train a trial from its newest checkpoint, as the documentation recommends."""
    points.reach("before the reporter is made")
    reporter, home = OptunaReporter(trial, setting.monitor), folder / f"trial_{trial.number}"
    if setting.pruner == "adaptive":
        reporter = OptunaReporter(trial, setting.monitor, "val_loss", "min")
    model = Network(
        trial.suggest_int("seed", 0, 9),
        trial.suggest_float("rate", 1e-3, 0.5, log=True),
        trial.suggest_categorical("start", [1.0, 2.0, 4.0, 1e30]),
    )
    saves = ModelCheckpoint(home, "newest", enable_version_counter=False, **SAVES[setting.saves])
    callbacks = [SoTLMonitor(), reporter, saves]
    if setting.stops:
        callbacks.append(EarlyRankingStopper(stop_epoch=STOP, monitor=setting.monitor))
    run = trainer(
        home,
        callbacks=callbacks,
        enable_checkpointing=True,
        max_epochs=EPOCHS,
        plugins=[WatchedIO(points)],
    )
    newest = home / "newest.ckpt"
    run.fit(
        model,
        OrderedLoader(trial.number),
        ckpt_path=newest if newest.exists() else None,
        weights_only=True,
    )
    points.reach("after the end of fit")
    try:
        return reporter.finish()
    finally:
        points.reach("after finish")


def open_study(folder: Path, setting: Setting, seed: int) -> optuna.Study:
    # With parallel processes, the draws of a trial must depend on its number only, so all trials
    # are random. The same holds for Hyperband, which shows the sampler all brackets until its
    # process has asked the pruner once.
    population = 4 if setting.workers == 1 and setting.pruner != "hyperband" else 1000
    return optuna.create_study(
        storage=storage(setting.storage, folder),
        study_name="killed",
        load_if_exists=True,
        sampler=RegularizedEvolutionSampler(
            population_size=population, tournament_size=2, seed=seed
        ),
        pruner=PRUNERS[setting.pruner](),
    )


def work(folder: Path, setting: Setting, seed: int, *, alone: bool, place: int = 0) -> None:
    """Run the interrupted trials and new ones up to TRIALS; write down the reached points."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    points, study = Points(), open_study(folder, setting, seed)
    watch(points, study)
    requeue_interrupted(study, alone=alone)
    while len(trials := study.get_trials(deepcopy=False)) < TRIALS or any(
        trial.state == TrialState.WAITING for trial in trials
    ):
        study.optimize(partial(objective, folder, setting, points), n_trials=1)
    (folder / f"points{place}.json").write_text(json.dumps(points.counts))


def run_workers(
    folder: Path, setting: Setting, seed: int, kill_at: str | float | None = None
) -> list[int]:
    """Run the processes of a study; return their exit codes.

    Args:
        folder: The folder of the study.
        setting: The setting of the study.
        seed: The seed of its sampler.
        kill_at: The point at which the first process kills itself, or the seconds after which it is
            killed.
    """
    log = folder / "log.txt"
    # Two processes cannot both create the tables of a database.
    child = forked.fork(partial(open_study, folder, setting, seed), log)
    assert forked.ended(child, 60) == 0, log.read_text()
    job = partial(work, folder, setting, seed, alone=setting.workers == 1)
    pids = []
    for place in range(setting.workers):
        variables = {KILL_AT: kill_at} if isinstance(kill_at, str) and place == 0 else {}
        log = folder / f"log{place}.txt"
        pids.append(forked.fork(partial(job, place=place), log, **variables))
    codes: list[int] = []
    for place, pid in enumerate(pids):
        is_killed_later = isinstance(kill_at, float) and place == 0
        code = forked.ended(pid, float(kill_at) if is_killed_later else 180)  # type: ignore[arg-type]
        codes.append(forked.kill(pid) if code is None else code)
    return codes


def outcome(folder: Path, setting: Setting, seed: int) -> dict[int, tuple[Any, ...]]:
    """Return, for each trial's number, the results that a kill must not change."""
    return {
        t.number: (t.state.name, t.values, dict(t.intermediate_values), dict(t.params))
        for t in open_study(folder, setting, seed).trials
        if t.number < TRIALS  # two processes may both start a last trial
    }


def campaign(folder: Path, kills: int, seed: int) -> Tally:
    """Kill the processes of studies `kills` times, every other time at a chosen point.

    All trials must equal those of an uninterrupted study.
    """
    rng, tally = np.random.default_rng(seed), Tally()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    whole: dict[Setting, dict[int, tuple[Any, ...]]] = {}
    points: dict[Setting, dict[str, int]] = {}
    seconds: dict[Setting, float] = {}
    seen: Counter[str] = Counter()
    while tally.counts["kills"] < kills:
        setting = SETTINGS[tally.counts["studies"] % len(SETTINGS)]
        if setting not in whole:
            home = folder / f"whole{len(whole)}"
            home.mkdir(parents=True)
            begun = time.monotonic()
            codes = run_workers(home, setting, seed)
            seconds[setting] = time.monotonic() - begun
            tally.expect(f"{setting} ended", codes, [0] * setting.workers)
            points[setting] = json.loads((home / "points0.json").read_text())
            whole[setting] = outcome(home, setting, seed)
            states = {trial[0] for trial in whole[setting].values()}
            tally.expect(f"{setting} has states", {"PRUNED", "COMPLETE"} <= states, True)
        home = folder / f"study{tally.counts['studies']}"
        home.mkdir(parents=True)
        name = f"{home.name} ({setting})"
        tally.count("studies")
        known = dict(points[setting])
        most = int(rng.integers(1, 4))  # kills, in consecutive processes
        for _ in range(min(most, kills - tally.counts["kills"])):
            kill_at: str | float = float(rng.uniform(0, seconds[setting]))
            if tally.counts["kills"] % 2:
                # The least used point, at a random one of its occurrences.
                point = min(known, key=lambda each: (seen[each], rng.random()))
                seen[point] += 1
                kill_at = f"{point}:{rng.integers(1, known[point] + 1)}"
            code, *others = run_workers(home, setting, seed, kill_at)
            where = kill_at.partition(":")[0] if isinstance(kill_at, str) else "at random"
            if code == -signal.SIGKILL:
                tally.count("kills")
                tally.count(f"kills {where}")
                known |= {f"{when} a trial returns to the queue": 1 for when in ("before", "after")}
            if [c for c in others if c] or code not in (0, -signal.SIGKILL):
                tally.fault(f"{name}: {code}, {others}: {(home / 'log0.txt').read_text()[-500:]}")
            if code == 0:
                break
        # The last process is alone, so it also requeues trials that had no reporter yet.
        log = home / "last.txt"
        last = partial(work, home, setting, seed, alone=True)
        tally.expect(f"{name}: the last process", forked.ended(forked.fork(last, log), 180), 0)
        found = outcome(home, setting, seed)
        tally.expect(f"{name}: numbers", sorted(found), sorted(whole[setting]))
        for number, expected in whole[setting].items():
            tally.count(f"{expected[0]} trials")
            tally.expect(f"{name}: trial {number}", found.get(number), expected)
    return tally
