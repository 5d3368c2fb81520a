"""AdaptiveScheduler: the adaptive policy as a Ray Tune scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from lightning_sotl._utils import validation as checks
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl._utils.text import quote_all
from lightning_sotl.integrations._ray import session
from lightning_sotl.losses.names import unit_of
from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.policies.growing_curves import GrowingCurves
from lightning_sotl.policies.rungs import rungs
from lightning_sotl.policies.turns import Progress, steps
from lightning_sotl.stats.ranks import Mode, check_mode

# Ray stores the attributes of its trials, but not the state of a scheduler.
_STORED = "lightning_sotl_curves"
_ACTIVE = (Trial.PENDING, Trial.RUNNING)


class AdaptiveScheduler(FIFOScheduler):
    """Ray Tune scheduler that stops a trial when an `AdaptivePolicy` decides to stop it.

    The scheduler compares the trial with all trials that have reported as many epochs, finished or
    not. It counts epochs by Ray's `training_iteration`, which `RayReporter` sets to the number of
    completed epochs (or blocks). Trials start in the order in which Ray creates them.

    With `pause=True`, the trials take turns, as the runs of a `Sweep` do. All trials train to the
    first rung and pause. The policy then decides which of them continue to the next rung, and so
    on. A paused trial needs no resources. It resumes from its checkpoint, bit for bit, on any
    machine of the cluster. The others end where they paused.

    A report without any of the metrics never stops a trial. A trial at the end of its budget is
    never stopped. The `metric` and `mode` of TuneConfig are not used here, only in Ray's results.

    Args:
        policy: The policy that decides. Its `max_epochs` is the full budget of a trial, in blocks
            if `metric` counts blocks. Set its `runs` to the number of trials. Otherwise the first
            trials, which have few others to be compared with, are trained longer. With
            `pause=True`, `runs` is required.
        metric: The reported metric by which trials are ranked. By default, an estimate.
        mode: "min" if lower is better in `metric`, "max" if higher is better.
        validation: A reported validation metric that the policy uses in addition to `metric`; see
            `AdaptivePolicy`. An epoch (or block) that reports NaN counts as not validated.
        validation_mode: "min" if lower is better in `validation`, "max" if higher is better.
            Required with `validation`.
        pause: Whether the trials take turns. They must use `starting_point()` and report with a
            `RayReporter`. Limit how many train at the same time by their resources.
        growth: With `pause=True`, the factor between two rungs, above 1. The first rung is
            `policy.first`, the last is `policy.max_epochs`.

    Attributes:
        stopped (int): How many trials the policy has stopped.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a mode is not "min" or "max", if `validation` and `validation_mode` are not
            given together, if `growth` is out of range or given without `pause=True`, or if
            `policy.runs` is None with `pause=True`. With `pause=True`, `Tuner.fit()` raises it if
            `policy.runs` is not the number of trials, or if `max_concurrent_trials` is below it.
        RuntimeError: In `Tuner.fit()` with `pause=True`, if the search algorithm waits for results
            of paused trials, or if a report at a rung has no checkpoint. Ray raises the latter as a
            TuneError with the traceback.

    Warns:
        UserWarning: If a report does not contain a metric. The warning lists the reported names.

    Examples:
        >>> from ray import tune
        >>> from lightning_sotl import AdaptivePolicy
        >>> from lightning_sotl.integrations.ray import AdaptiveScheduler
        >>> policy = AdaptivePolicy(max_epochs=30, runs=16, finalists=3)
        >>> scheduler = AdaptiveScheduler(policy, pause=True)
        >>> tune_config = tune.TuneConfig(num_samples=16, scheduler=scheduler)
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        metric: str = "sotl_e1",
        mode: Mode = "min",
        validation: str | None = None,
        validation_mode: Mode | None = None,
        *,
        pause: bool = False,
        growth: float = 1.5,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray has no types
        if not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        check_mode("mode", mode)
        checks.validation_pair(validation, validation_mode)
        self.policy = policy
        self.pause = checks.boolean("pause", pause)
        self._rungs = rungs(policy.first, policy.max_epochs, growth=growth)
        if not pause and growth != 1.5:
            raise ValueError(f"Expected `growth` only with `pause=True` but got {growth!r}.")
        if pause and policy.runs is None:
            raise ValueError(
                "Expected `policy.runs` to be the number of trials with `pause=True` but got None."
            )
        self._modes: dict[str, Mode | None] = {checks.text("metric", metric): mode}
        self._unit = unit_of(metric)  # for messages
        self._validation = validation
        if validation is not None:
            self._modes[validation] = validation_mode
        self._warned_of: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self._curves = {name: GrowingCurves(self.policy.max_epochs) for name in self._modes}
        self._reached: dict[str, int] = {}  # by trial ID: the epochs of its newest report
        self._stop_epoch = self._rungs[0]  # the rung to which trials train now
        self._continuing: set[str] = set()  # IDs of the trials that continue to a later rung
        self._is_checked = False
        self.stopped = 0

    # --- Ray's calls

    @property
    def supports_buffered_results(self) -> bool:
        """Whether Ray may pass several reports of a trial at once."""
        return not self.pause

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Forget an earlier sweep, because Ray calls this at the start of each."""
        self._begin()
        return bool(super().set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Read the curves of a restored trial. Pause trials that Ray would start too early."""
        is_retried = trial.trial_id in self._reached
        if not is_retried:
            self._read_stored(trial)
        if not self.pause or trial.is_finished():
            return
        if not is_retried and self._reached[trial.trial_id] in self._rungs[:-1]:
            trial.set_status(Trial.PAUSED)  # it waits at a rung
        elif is_retried and not self._trains_to_rung(trial):
            session.pause_retried(tune_controller, trial)  # its worker died while Ray paused it
        elif is_retried:
            session.pause_after_failed_reset(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Read a trial's report, and decide whether the trial continues, pauses or stops."""
        has_metric = self._read(trial, result)
        reached = self._reached[trial.trial_id]
        if reached >= self.policy.max_epochs:
            return str(self.CONTINUE)
        if self.pause:
            return str(self._decide_turn(tune_controller, trial, result))
        row = next(iter(self._curves.values())).row(trial.trial_id)
        tables = [curves.values for curves in self._curves.values()]
        if not has_metric or row is None or self.policy.decide(row, *tables).goes_on:
            return str(self.CONTINUE)
        self.stopped += 1
        return str(self.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Read the last report of a trial that a stopping criterion of Ray has ended."""
        if result.get("training_iteration", 0) > self._reached.get(trial.trial_id, 0):
            self._read(trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that Ray starts next, or None to wait.

        With `pause=True`, stop the paused trials that do not continue. Ray calls this after each
        event. If no trial is active, no other can reach the rung, so no trial waits for one that
        never comes.
        """
        if not self.pause:
            return super().choose_trial_to_run(tune_controller)
        trials = tune_controller.get_trials()
        if not self._is_checked:
            self._check_sweep(tune_controller.search_alg)
            self._is_checked = True
            if self._all_added(tune_controller) and any(self._reached.values()):
                self._plan(trials)  # a restored sweep
        paused = [trial for trial in trials if trial.status == Trial.PAUSED]
        is_active = any(trial.status in _ACTIVE for trial in trials)
        ready = [trial for trial in paused if self._continues(trial)]
        if paused and not ready and not is_active:
            if not self._all_added(tune_controller):
                raise RuntimeError(
                    "The search algorithm waits for the results of paused trials: it has added "
                    f"{len(trials)} of {self.policy.runs} trials. Use one that does not wait, or "
                    "`pause=False`."
                )
            self._plan(trials)
            ready = [trial for trial in paused if self._continues(trial)]
        for trial in paused:
            waits = self._reached[trial.trial_id] >= self._stop_epoch and (ready or is_active)
            if not waits and trial not in ready:
                self.stopped += 1
                tune_controller.stop_trial(trial)
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        return next(iter(ready + pending), None)

    def debug_string(self) -> str:
        """Return a summary for Ray's status output."""
        turn = f" to {self._unit} {self._stop_epoch}," if self.pause else ""
        return f"AdaptiveScheduler:{turn} {self.stopped} trials stopped by {self.policy}"

    # --- reports

    def _read_stored(self, trial: Any) -> None:
        reached = 0
        for name, values in getattr(trial, _STORED, {}).items():
            reached = len(values)
            if name in self._curves:
                for epoch, value in enumerate(values):
                    self._put(trial.trial_id, name, epoch, value)
        self._reached[trial.trial_id] = reached

    def _read(self, trial: Any, result: dict[str, Any]) -> bool:
        """Read a report, and return whether it contains a metric."""
        name_of_trial, epoch = trial.trial_id, int(result["training_iteration"]) - 1
        has_metric = False
        for name, curves in self._curves.items():
            value = result.get(name)
            curves.drop_after(name_of_trial, epoch)  # it may have been restored
            if value is not None:
                has_metric = True
                sign = -1.0 if self._modes[name] == "max" else 1.0
                self._put(name_of_trial, name, epoch, sign * float(value))
                continue
            curves.reach(name_of_trial, epoch)
            if name not in self._warned_of:
                self._warned_of.add(name)
                warn_user(f"{name!r} is not reported; available: {quote_all(list(result))}.")
        self._reached[name_of_trial] = epoch + 1
        stored = {name: self._values(trial, name)[: epoch + 1] for name in self._curves}
        setattr(trial, _STORED, stored)
        trial.invalidate_json_state()
        return has_metric

    def _put(self, trial_id: str, name: str, epoch: int, value: float) -> None:
        # The reporter reports NaN for a metric that was not logged in this epoch.
        if name == self._validation and math.isnan(value):
            self._curves[name].reach(trial_id, epoch)
        else:
            self._curves[name].put(trial_id, epoch, value)

    def _values(self, trial: Any, name: str) -> list[float]:
        row = self._curves[name].row(trial.trial_id)
        values: list[float] = [] if row is None else self._curves[name].values[row].tolist()
        return values

    # --- turns

    def _check_sweep(self, search: Any) -> None:
        if search.total_samples not in (0, self.policy.runs):  # 0 if it is unknown
            raise ValueError(
                f"Expected `policy.runs` to be the number of trials, {search.total_samples}, but "
                f"got {self.policy.runs}."
            )
        runs = self.policy.runs or 0
        while search is not None:
            limit = getattr(search, "max_concurrent", 0) or 0
            if 0 < limit < runs:
                raise ValueError(
                    "Expected `max_concurrent_trials` to be None with `pause=True` but got "
                    f"{limit}: it counts paused trials, so the others would never start. Limit "
                    "trials by their resources, with `tune.with_resources`."
                )
            search = getattr(search, "searcher", None)

    def _all_added(self, tune_controller: Any) -> bool:
        added = len(tune_controller.get_trials())
        return bool(added >= (self.policy.runs or 0) or tune_controller.search_alg.is_finished())

    def _decide_turn(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self._reached[trial.trial_id] < self._stop_epoch:
            return str(self.CONTINUE)
        if not result.get(session.SHOULD_CHECKPOINT):
            raise RuntimeError(
                f"Expected the report of trial '{trial.trial_id}' after {self._unit} "
                f"{self._reached[trial.trial_id]} to have a checkpoint, from which it resumes "
                "after a pause. Use `RayReporter(checkpoint_every=1)`."
            )
        trials = tune_controller.get_trials()
        is_last = not any(each.status in _ACTIVE for each in trials if each is not trial)
        if is_last and self._all_added(tune_controller):
            self._plan(trials)  # do not restart a worker if its trial continues at once
            if self._continues(trial):
                return str(self.CONTINUE)
        return str(self.PAUSE)

    def _trains_to_rung(self, trial: Any) -> bool:
        """Return whether a trial trains to the current rung or has done so."""
        return self._stop_epoch == self._rungs[0] or trial.trial_id in self._continuing

    def _continues(self, trial: Any) -> bool:
        """Return whether a trial still has to train to the current rung."""
        return self._trains_to_rung(trial) and self._reached[trial.trial_id] < self._stop_epoch

    def _plan(self, trials: Sequence[Any]) -> None:
        """Decide which trials continue, when all have reached the current rung."""
        rows = sorted(trials, key=lambda trial: str(trial.trial_id))  # the order of the candidates
        step = steps(
            [self._progress(trial) for trial in rows],
            policy=self.policy,
            rungs=self._rungs,
            lower_is_better=None if self._validation is None else True,
        )[-1]
        if step.pending and step.stop_epoch > self._stop_epoch:
            inform_user(
                f"Trials that continue to {self._unit} {step.stop_epoch}: {len(step.admitted)} of "
                f"{step.compared}."
            )
        self._stop_epoch = step.stop_epoch
        self._continuing = {rows[row].trial_id for row in step.pending}

    def _progress(self, trial: Any) -> Progress:
        reached = self._reached[trial.trial_id]
        losses, *validations = (
            {
                epoch: value
                for epoch, value in enumerate(self._values(trial, name)[:reached])
                if not math.isnan(value)
            }
            for name in self._curves
        )
        # A trial that has diverged when its turn ends does not continue, wherever it ranks.
        diverged = not math.isfinite(losses.get(reached - 1, 0.0))
        return Progress(
            reached,
            ended=trial.status == Trial.TERMINATED or (diverged and trial.status != Trial.PENDING),
            set_aside=trial.status == Trial.ERROR,
            losses=losses,
            validations=validations[0] if validations else {},
        )
