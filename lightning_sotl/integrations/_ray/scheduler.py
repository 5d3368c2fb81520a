"""The adaptive rule as a scheduler of Ray Tune."""

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
    """Stops a trial when the adaptive rule decides so.

    It compares the trial with all that have reported as many epochs, ended or not; epochs are
    Ray's `training_iteration`, which `RayReporter` counts (in block mode: blocks). Trials start in
    the order in which they come. A report without the metric is no ground to stop, and the metric
    of TuneConfig is for Ray's results alone.

    Args:
        policy: The rule, `max_epochs` the full budget of a trial. Give it `runs`, the `num_samples`
            of the sweep: the first trials have few others to be compared with.
        metric: A reported name; by default an estimate; lower is better.
        mode: "max" if higher is better.
        validation: Another reported name, of a validation metric. The rule then looks at both; see
            `AdaptivePolicy`.
        validation_mode: "min" if lower is better, "max" if higher is; has to be said.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a mode is unknown, or that of `validation` is not said.

    Example:
        >>> from lightning_sotl import AdaptivePolicy
        >>> from lightning_sotl.integrations.ray import AdaptiveScheduler
        >>> scheduler = AdaptiveScheduler(AdaptivePolicy(max_epochs=30, runs=16))
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
        self._looks_at: dict[str, Mode | None] = {check_text("metric", metric): mode}
        if validation is not None:
            check_mode("validation_mode", validation_mode)
            self._looks_at[check_text("validation", validation)] = validation_mode
        self._curves = {name: GrowingCurves(policy.max_epochs) for name in self._looks_at}
        self._warned_of: set[str] = set()
        self.stopped = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take a trial's report, and decide whether it continues."""
        epoch, is_judged = int(result["training_iteration"]) - 1, False
        for name, mode in self._looks_at.items():
            curves, value = self._curves[name], result.get(name)
            curves.drop_after(trial.trial_id, epoch)  # it may have gone back to a checkpoint
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
        """Say what it has done, on Ray's screen."""
        return f"AdaptiveScheduler: {self.stopped} trials stopped by {self.policy}"
