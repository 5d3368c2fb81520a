"""Ray Tune's controller without processes: it calls a scheduler in the order that Ray does."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.experiment import Trial

from lightning_sotl.integrations.ray import AdaptiveScheduler

Curves = Mapping[str, np.ndarray]


class SimulatedTune:
    """A sweep whose trials report the rows of tables, one random trial at a time.

    Args:
        scheduler: The scheduler of the sweep.
        curves: Metric -> values, shape `(trials, epochs)`.
        workers: How many trials train at the same time.
        seed: Seed of the order of events.
        faults: The probability that a worker dies at an event. The trial is retried.
        ends: Trial -> the number of epochs after which it ends by itself.
        breaks: Trial -> the number of epochs after which it fails for good.
        queue: How many trials wait for a worker before the search adds no more.
        checkpoint_every: How many reports apart the checkpoints are.
    """

    def __init__(
        self,
        scheduler: AdaptiveScheduler,
        curves: Curves,
        *,
        workers: int = 2,
        seed: int = 0,
        faults: float = 0.0,
        ends: Mapping[int, int] | None = None,
        breaks: Mapping[int, int] | None = None,
        queue: int = 200,
        checkpoint_every: int = 1,
    ) -> None:
        self.curves, self.workers, self.faults, self.queue = curves, workers, faults, queue
        self.ends, self.breaks, self.checkpoint_every = ends or {}, breaks or {}, checkpoint_every
        self.runs, self.epochs = next(iter(curves.values())).shape
        self.generator = np.random.default_rng(seed)
        self.trials: list[Any] = []
        self.done: dict[str, int] = {}  # the epochs that a trial's process has trained
        self.resumed: dict[str, list[int]] = {}  # the epochs at which a trial was resumed
        self.paused: set[int] = set()  # the epochs at which trials were paused
        self.search_alg = SimpleNamespace(
            total_samples=self.runs, is_finished=lambda: len(self.trials) >= self.runs
        )
        self.can_add: Callable[[], bool] = lambda: True
        self._initial = pickle.dumps(scheduler)
        self.scheduler = scheduler
        scheduler.set_search_properties(None, None)

    # --- called by the scheduler

    def get_trials(self) -> list[Any]:
        return self.trials

    def stop_trial(self, trial: Any) -> None:
        assert trial.status == Trial.PAUSED
        self.scheduler.on_trial_remove(self, trial)
        trial.set_status(Trial.TERMINATED)

    def _set_trial_status(self, trial: Any, status: str) -> None:
        trial.set_status(status)

    # --- the loop

    def run(self) -> list[int]:
        """Run to the end, and return the number of reported epochs of each trial."""
        for _ in range(20 * self.runs * self.epochs):
            if self.is_finished():
                return self.reached()
            self.step()
        raise AssertionError(f"No end: {[(t.trial_id, t.status) for t in self.trials]}")

    def is_finished(self) -> bool:
        return self.search_alg.is_finished() and all(t.is_finished() for t in self.trials)

    def reached(self) -> list[int]:
        by_id = {trial.trial_id: trial for trial in self.trials}
        names = [f"trial_{number:05d}" for number in range(self.runs)]
        return [by_id[name].last_result.get("training_iteration", 0) for name in names]

    def step(self) -> None:
        self._add_trials()
        chosen = self.scheduler.choose_trial_to_run(self)
        if chosen is not None:
            assert chosen.status in (Trial.PENDING, Trial.PAUSED)
            assert chosen == self.scheduler.choose_trial_to_run(self)
            chosen.set_status(Trial.PENDING)
        running = self._with_status(Trial.RUNNING)
        for trial in self._with_status(Trial.PENDING)[: self.workers - len(running)]:
            trial.set_status(Trial.RUNNING)
            checkpoint = trial.latest_checkpoint_result
            self.done[trial.trial_id] = (
                checkpoint.metrics["training_iteration"] if checkpoint else 0
            )
            self.resumed.setdefault(trial.trial_id, []).append(self.done[trial.trial_id])
        running = self._with_status(Trial.RUNNING)
        assert running or self.is_finished(), "No trial runs, and none ever will."
        if running:
            self._simulate_event(running[self.generator.integers(len(running))])

    def restart(self) -> None:
        """Restore the sweep from the stored trials, as Ray does after the driver died."""
        stored = [trial.get_json_state() for trial in self.trials]
        self.scheduler = pickle.loads(self._initial)  # noqa: S301 - our own bytes
        self.scheduler.set_search_properties(None, None)
        self.trials = []
        for index in self.generator.permutation(len(stored)):
            state, metadata = stored[index]
            trial = Trial.from_json_state(state, stub=True)
            trial.restore_run_metadata(metadata)
            if trial.status == Trial.PAUSED:
                trial.set_status(Trial.PENDING)
            self._add(trial)

    def _with_status(self, status: str) -> list[Any]:
        return [trial for trial in self.trials if trial.status == status]

    def _add_trials(self) -> None:
        while (
            len(self.trials) < self.runs
            and len(self._with_status(Trial.PENDING)) < self.queue
            and self.can_add()
        ):
            trial = Trial("simulated", stub=True, trial_id=f"trial_{len(self.trials):05d}")
            trial.create_placement_group_factory()
            self._add(trial)

    def _add(self, trial: Any) -> None:
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)

    def _simulate_event(self, trial: Any) -> None:
        number = int(trial.trial_id.removeprefix("trial_"))
        done = self.done[trial.trial_id]
        if self.generator.random() < self.faults:
            self._retry(trial)
        elif done == self.breaks.get(number):
            self.scheduler.on_trial_error(self, trial)
            trial.set_status(Trial.ERROR)
        elif done == self.ends.get(number, self.epochs):
            self._complete(trial)
        else:
            self._report(trial, number, done)

    def _retry(self, trial: Any) -> None:
        self.scheduler.on_trial_error(self, trial)
        trial.set_status(Trial.PENDING)
        self.trials.remove(trial)
        self._add(trial)

    def _complete(self, trial: Any) -> None:
        self.scheduler.on_trial_complete(self, trial, trial.last_result)
        trial.set_status(Trial.TERMINATED)

    def _report(self, trial: Any, number: int, done: int) -> None:
        result = {name: float(values[number, done]) for name, values in self.curves.items()}
        result |= {"training_iteration": done + 1}
        if (done + 1) % self.checkpoint_every == 0:
            result["should_checkpoint"] = True
        self.done[trial.trial_id] = done + 1
        action = self.scheduler.on_trial_result(self, trial, result)
        trial.run_metadata.last_result = result
        trial.run_metadata.invalidate_cache()
        if self.generator.random() < self.faults:  # while Ray saves the checkpoint
            self._retry(trial)
            return
        if "should_checkpoint" in result:
            checkpoint = SimpleNamespace(metrics={"training_iteration": done + 1})
            trial._restore_checkpoint_result = checkpoint
            trial.invalidate_json_state()
        if action == self.scheduler.PAUSE:
            self.paused.add(done + 1)
            trial.set_status(Trial.PAUSED)
        elif action == self.scheduler.STOP:
            self._complete(trial)
