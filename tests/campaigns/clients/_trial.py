"""The runs of one client, in its own environment, compared with the losses that its model returned.

    python -m tests.campaigns.clients._trial CLIENT FOLDER

Writes `result.json` into the folder: versions and differences.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCHS = 4
STOP = 2
LEARNING_RATES = (1e-3, 1e-4, 1e-2)


@dataclass
class Run:
    """One run, as a client's `train` receives it.

    Attributes:
        learning_rate: The learning rate.
        callbacks: The callbacks for the library. Empty if they come from the environment variable,
            and in the run that is never stopped.
        folder: An empty folder for what the library writes.
        checkpoint: The checkpoint to resume from, or None.
        epochs: The `max_epochs` of the Trainer.
    """

    learning_rate: float
    callbacks: list[Any]
    folder: Path
    checkpoint: str | None = None
    epochs: int = EPOCHS


class Tape:
    """Collects the losses that `training_step` returns, from the model itself."""

    def __init__(self, package: str, loss_key: str) -> None:
        self.losses: dict[int, list[float]] = {}
        self.loss_key = loss_key
        trainer_class = importlib.import_module(package).Trainer
        fit = trainer_class.fit

        @functools.wraps(fit)
        def fit_with_tape(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self._wrap(type(args[0] if args else kwargs["model"]))
            return fit(trainer, *args, **kwargs)

        trainer_class.fit = fit_with_tape

    def _wrap(self, model_class: type) -> None:
        owner = next(part for part in model_class.__mro__ if "training_step" in vars(part))
        step = vars(owner)["training_step"]
        if getattr(step, "has_tape", False):
            return

        @functools.wraps(step)
        def step_with_tape(model: Any, *args: Any, **kwargs: Any) -> Any:
            output = step(model, *args, **kwargs)
            loss = output[self.loss_key] if isinstance(output, Mapping) else output
            if loss is not None:
                self.losses.setdefault(model.trainer.current_epoch, []).append(float(loss))
            return output

        step_with_tape.has_tape = True
        owner.training_step = step_with_tape

    def take(self) -> dict[int, list[float]]:
        """Return the losses since the last call, by epoch."""
        losses, self.losses = self.losses, {}
        return losses


@dataclass
class Trial:
    """The runs of one client and what differs."""

    client: Any
    folder: Path
    tape: Tape
    differences: list[str] = field(default_factory=list)

    def run(self) -> None:
        rates = getattr(self.client, "LEARNING_RATES", LEARNING_RATES)
        stopped = {rate: self._stop(rate) for rate in rates}
        estimates = {rate: estimate(losses) for rate, (losses, _) in stopped.items()}
        order = sorted(estimates, key=estimates.__getitem__)
        self._rank([(f"{rate:g}", estimates[rate]) for rate in order])
        best = order[0]
        losses, checkpoint = stopped[best]
        never_stopped = self._train(Run(best, [], self.folder / "never_stopped"))
        self.expect(
            "epochs of the run that was never stopped", list(never_stopped), [*range(EPOCHS)]
        )
        before = {epoch: never_stopped.get(epoch) for epoch in range(STOP)}
        self.expect("losses with and without the callbacks", losses, before)
        self._promote(best, checkpoint, never_stopped)

    def _stop(self, rate: float) -> tuple[dict[int, list[float]], str | None]:
        name = f"{rate:g}"
        home = self.folder / "runs" / name
        callbacks = self._callbacks(home, name)
        run = Run(rate, list(callbacks), self.folder / "library" / name)  # it may change the list
        losses = self._train(run, f"stop_epoch={STOP} directory={home} name={name}")
        self.expect(f"epochs of {name}", list(losses), [*range(STOP)])
        recorded, checkpoint = read_record(home)
        finite = {epoch: finite_or_none(loss) for epoch, loss in means(losses).items()}
        self.expect(f"L(e) of {name}", recorded, finite)
        if callbacks:
            monitor, stopper = callbacks
            self.expect(f"epoch_losses of {name}", monitor.epoch_losses, means(losses))
            self.expect(f"epochs_completed of {name}", stopper.epochs_completed, STOP)
            self.expect(f"estimate of {name}", stopper.estimate, estimate(losses))
            self.expect(f"checkpoint_path of {name}", stopper.checkpoint_path, checkpoint)
        return losses, checkpoint

    def _rank(self, expected: list[tuple[str, float]]) -> None:
        command = [sys.executable, "-m", "lightning_sotl", "rank", self.folder / "runs", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = [(run["run_id"], run["estimate"]) for run in json.loads(done.stdout)["runs"]]
        in_json = [(name, finite_or_none(estimate)) for name, estimate in expected]
        self.expect("rank", found, in_json)

    def _promote(
        self, rate: float, checkpoint: str | None, never_stopped: dict[int, list[float]]
    ) -> None:
        name = f"{rate:g}"
        home = self.folder / "runs" / name
        resumes = not hasattr(self.client, "NO_RESUME")
        if not resumes:
            home, checkpoint = self.folder / "again" / name, None
        callbacks = self._callbacks(home, name, promoted=True)
        run = Run(rate, list(callbacks), self.folder / "promoted", checkpoint)
        # A promoted run takes its random state from the checkpoint, whatever the seed is.
        variable = f"stop_epoch={STOP} promoted=1 directory={home} name={name}"
        promoted = self._train(run, variable, seed=1 if resumes else 0)
        start = STOP if resumes else 0
        self.expect("epochs of the promoted run", list(promoted), [*range(start, EPOCHS)])
        before = {epoch: never_stopped[epoch] for epoch in range(start)}
        self.expect("L(e) of the promoted run", read_record(home)[0], means({**before, **promoted}))
        expected = {epoch: never_stopped[epoch] for epoch in range(start, EPOCHS)}
        if not hasattr(self.client, "NOT_EXACT"):
            self.expect("losses of the promoted run", promoted, expected)
        elif promoted == expected:
            self.differences.append("losses of the promoted run: exact, unlike `NOT_EXACT`")

    def _train(self, run: Run, variable: str = "", seed: int = 0) -> dict[int, list[float]]:
        importlib.import_module(self.client.PACKAGE).seed_everything(seed)
        run.folder.mkdir(parents=True)
        if variable and self._uses_environment:
            os.environ["LIGHTNING_SOTL"] = variable
        try:
            self.client.train(run)
        finally:
            os.environ.pop("LIGHTNING_SOTL", None)
        return self.tape.take()

    def _callbacks(self, home: Path, name: str, *, promoted: bool = False) -> list[Any]:
        if self._uses_environment:
            return []
        doors = {"pytorch_lightning": "pytorch_lightning", "lightning.pytorch": "lightning"}
        door = importlib.import_module(f"lightning_sotl.{doors[self.client.PACKAGE]}")
        return [
            door.SoTLMonitor(loss_key=self.tape.loss_key, name=name, directory=home),
            door.EarlyRankingStopper(stop_epoch=STOP, promoted=promoted, checkpoint_dir=home),
        ]

    @property
    def _uses_environment(self) -> bool:
        return getattr(self.client, "USES_ENVIRONMENT", False)

    def expect(self, what: str, found: Any, expected: Any) -> None:
        """Note a difference if `found` is not exactly `expected`."""
        # JSON text, so that NaN equals NaN. It shows each float exactly.
        if json.dumps(found) != json.dumps(expected):
            self.differences.append(f"{what}: {found}, not {expected}")


def means(losses: dict[int, list[float]]) -> dict[int, float]:
    """Return the mean loss of each epoch."""
    return {epoch: sum(values) / len(values) for epoch, values in losses.items()}


def estimate(losses: dict[int, list[float]]) -> float:
    """Return SoTL-E at T for E = 1: the mean loss of the last epoch, or infinity if diverged."""
    loss = means(losses).get(STOP - 1, math.nan)
    return loss if math.isfinite(loss) else math.inf


def finite_or_none(number: float) -> float | None:
    """Return the number as JSON has it."""
    return number if math.isfinite(number) else None


def read_record(home: Path) -> tuple[dict[int, float], str | None]:
    """Return the L(e) in a run's record, and the newest checkpoint that it names."""
    losses: dict[int, float] = {}
    checkpoint = None
    for line in (home / "sotl.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "e" in entry:
            losses[entry["e"]] = entry["loss"]
            checkpoint = entry["checkpoint"] or checkpoint
    return losses, checkpoint


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    client = importlib.import_module(f"tests.campaigns.clients.{name}")
    tape = Tape(client.PACKAGE, getattr(client, "LOSS_KEY", "loss"))
    trial = Trial(client, folder, tape)
    trial.run()
    libraries = (client.LIBRARY, client.PACKAGE.split(".")[0], "torch")
    versions = {library: importlib.metadata.version(library) for library in libraries}
    result = {"versions": versions, "differences": trial.differences}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
