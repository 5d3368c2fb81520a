"""Many processes that each run a trial of one Optuna study at the same time."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from lightning_sotl.integrations.optuna import OptunaReporter
from tests.campaigns import forked
from tests.campaigns.killed_runs import Net, ShuffledLoader
from tests.campaigns.tally import Tally
from tests.support.helpers import returned_epoch_losses, trainer
from tests.support.optuna_jobs import open_study

STOP = 3


class NotingNet(Net):
    """Stores the losses that it returns, to compare them with the values of the trial."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.returned: list[tuple[int, int, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.returned.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
        return loss


def objective(folder: Path, trial: optuna.Trial) -> float:
    model = NotingNet(trial.suggest_int("seed", 0, 10**6))
    reporter = OptunaReporter(trial)
    callbacks = [SoTLMonitor(), EarlyRankingStopper(stop_epoch=STOP), reporter]
    run = trainer(folder / f"trial{trial.number}", callbacks=callbacks, max_epochs=9)
    run.fit(model, ShuffledLoader(trial.number))
    note = json.dumps(list(returned_epoch_losses(model).items()))
    (folder / f"trial{trial.number}.json").write_text(note)
    return reporter.finish()


def work(kind: str, folder: Path, trials: int) -> None:
    open_study(kind, folder).optimize(partial(objective, folder), n_trials=trials)


def campaign(folder: Path, kind: str, processes: int, trials: int = 1) -> Tally:
    """Run `processes` processes at the same time, with `trials` trials each, in one storage."""
    tally = Tally()
    folder.mkdir(parents=True, exist_ok=True)
    # Each process opens the study, which has to exist before.
    child = forked.fork(partial(open_study, kind, folder), folder / "log.txt")
    assert forked.ended(child, 60) == 0, (folder / "log.txt").read_text()
    begun = time.monotonic()
    job = partial(work, kind, folder, trials)
    pids = [forked.fork(job, folder / f"log{place}.txt") for place in range(processes)]
    codes = [forked.ended(pid, 300) for pid in pids]
    tally.expect(f"{kind}: exit codes", codes, [0] * processes)
    tally.measures[f"{kind}: seconds"] = f"{time.monotonic() - begun:.0f}"
    found = open_study(kind, folder).trials
    tally.expect(f"{kind}: numbers", [t.number for t in found], list(range(processes * trials)))
    for trial in found:
        tally.count(f"trials in {kind}")
        name = f"{kind}: trial {trial.number}"
        tally.expect(name, trial.state, optuna.trial.TrialState.COMPLETE)
        noted = folder / f"trial{trial.number}.json"
        own = dict(json.loads(noted.read_text())) if noted.exists() else {}
        values = trial.intermediate_values
        tally.expect(f"{name} has steps", list(values), list(range(STOP)))
        # The model's mean is added in a different order than the monitor's.
        wrong = {e: v for e, v in values.items() if abs(v - own.get(e, 0)) > 1e-12}
        tally.expect(f"{name}: wrong values", wrong, {})
        tally.expect(f"{name}: value", trial.value, values.get(STOP - 1))
    warned = [p for p in folder.glob("log*.txt") if "storage failed" in p.read_text()]
    tally.count(f"processes whose {kind} storage failed", len(warned))
    return tally
