"""AdaptiveScheduler: the adaptive policy as a Ray Tune scheduler."""

from __future__ import annotations

import warnings
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from lightning_sotl._utils.text import quote_all
from lightning_sotl._utils.validation import text as check_text
from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.policies.growing_curves import GrowingCurves
from lightning_sotl.stats.ranks import Mode, check_mode


class AdaptiveScheduler(FIFOScheduler):
    """Ray Tune scheduler that stops a trial when an `AdaptivePolicy` decides to stop it.

    The scheduler compares the trial with all trials that have reported as many epochs, finished or
    not. It counts epochs by Ray's `training_iteration`, which `RayReporter` sets to the number of
    completed epochs (or blocks). Trials start in the order in which Ray creates them.

    A report without any of the metrics never stops a trial. A trial at the end of its budget is
    never stopped. The `metric` and `mode` of TuneConfig are not used here, only in Ray's results.

    Args:
        policy: The policy that decides. Its `max_epochs` is the full budget of a trial. Set its
            `runs` to the sweep's `num_samples`. Otherwise the first trials, which have few others
            to be compared with, are trained longer.
        metric: The reported metric by which trials are ranked. By default, an estimate.
        mode: "min" if lower is better in `metric`, "max" if higher is better.
        validation: A reported validation metric that the policy uses in addition to `metric`; see
            `AdaptivePolicy`.
        validation_mode: "min" if lower is better in `validation`, "max" if higher is better.
            Required with `validation`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `mode` is not "min" or "max", or if `validation_mode` is not one of them
            although `validation` is set.

    Warns:
        UserWarning: If a report does not contain a metric. The warning lists the reported names.

    Examples:
        >>> from ray import tune
        >>> from lightning_sotl import AdaptivePolicy
        >>> from lightning_sotl.integrations.ray import AdaptiveScheduler
        >>> scheduler = AdaptiveScheduler(AdaptivePolicy(max_epochs=30, runs=16))
        >>> tune_config = tune.TuneConfig(num_samples=16, scheduler=scheduler)
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        metric: str = "sotl_e1",
        mode: Mode = "min",
        validation: str | None = None,
        validation_mode: Mode | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray has no types
        if not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        check_mode("mode", mode)
        self.policy = policy
        self._modes: dict[str, Mode | None] = {check_text("metric", metric): mode}
        if validation is not None:
            check_mode("validation_mode", validation_mode)
            self._modes[check_text("validation", validation)] = validation_mode
        self._curves = {name: GrowingCurves(policy.max_epochs) for name in self._modes}
        self._warned_of: set[str] = set()
        self.stopped = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Read a trial's report, and decide whether the trial continues."""
        epoch, is_judged = int(result["training_iteration"]) - 1, False
        for name, mode in self._modes.items():
            curves, value = self._curves[name], result.get(name)
            curves.drop_after(trial.trial_id, epoch)  # it may have been restored
            curves.reach(trial.trial_id, epoch)
            if value is not None:
                sign = -1.0 if mode == "max" else 1.0
                curves.put(trial.trial_id, epoch, sign * float(value))
                is_judged = True
            elif name not in self._warned_of:
                self._warned_of.add(name)
                warnings.warn(
                    f"{name!r} is not reported; available: {quote_all(list(result))}.", stacklevel=1
                )
        if not is_judged or epoch + 1 >= self.policy.max_epochs:
            return str(self.CONTINUE)
        tables = [curves.values for curves in self._curves.values()]
        row = next(iter(self._curves.values())).row(trial.trial_id)
        if row is None or self.policy.decide(row, *tables).goes_on:
            return str(self.CONTINUE)
        self.stopped += 1
        return str(self.STOP)

    def debug_string(self) -> str:
        """Return a summary for Ray's status output."""
        return f"AdaptiveScheduler: {self.stopped} trials stopped by {self.policy}"
