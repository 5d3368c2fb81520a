"""The adaptive rule as an Optuna pruner."""

from __future__ import annotations

import threading
from typing import Any

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from lightning_sotl.integrations._optuna.storage import identity_of, sign_of, validations_of
from lightning_sotl.policies.adaptive import AdaptivePolicy
from lightning_sotl.policies.growing_curves import GrowingCurves


class AdaptivePruner(BasePruner):
    """Prunes a trial when the adaptive rule decides so.

    It compares the trial with all that have reported at its step, finished or not. Steps are
    epochs counted from 0, as `OptunaReporter` reports them (or blocks, where the reporter counts
    blocks); `policy.max_epochs` is the full budget in the same unit. Any metric will do that is
    reported once a step, lower is better in a study that minimises. What is not finite counts as
    the worst. A trial at its last step is never pruned.

    Where reporters were given a `validation` too, the rule looks at both curves; see
    `AdaptivePolicy`.

    The first trials have few others to be compared with and are trained further. Give the policy
    `runs`, the `n_trials` of the study, if it is known.

    Args:
        policy: The rule.

    Raises:
        TypeError: If `policy` is no AdaptivePolicy.

    Example:
        >>> from lightning_sotl import AdaptivePolicy
        >>> from lightning_sotl.integrations.optuna import AdaptivePruner
        >>> pruner = AdaptivePruner(AdaptivePolicy(max_epochs=30, runs=20))
    """

    _study: tuple[Any, int] | None
    _curves: GrowingCurves
    _validation: GrowingCurves  # the same rows
    _has_validation: bool
    _finished: set[int]  # numbers of trials that are read completely
    _known: dict[int, set[int]]  # of the others: steps that are

    def __init__(self, policy: AdaptivePolicy) -> None:
        if not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        self.policy = policy
        self._lock = threading.Lock()
        self._reset()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial shall end now."""
        with self._lock:  # the threads of `n_jobs` share this object
            self._read(study, trial)
            row = self._curves.row(trial.number)
            at_end = trial.last_step is not None and trial.last_step + 1 >= self.policy.max_epochs
            if row is None or at_end:
                return False
            tables = [self._curves.values]
            if self._has_validation:
                tables.append(self._validation.values)
            return not self.policy.decide(row, *tables).goes_on

    def _read(self, study: Study, trial: FrozenTrial) -> None:
        """Take what is new: of 1,000 trials all but a few are finished and known."""
        if identity_of(study) != self._study:
            self._reset()
            self._study = identity_of(study)
        sign = sign_of(study)
        for other in [*study.get_trials(deepcopy=False), trial]:
            if other.number in self._finished:
                continue
            known = self._known.setdefault(other.number, set())
            validations = validations_of(other)
            for step in sorted(set(other.intermediate_values) - known):
                self._curves.put(other.number, step, sign * other.intermediate_values[step])
                self._validation.reach(other.number, step)
                if step in validations:
                    self._validation.put(other.number, step, validations[step])
                    self._has_validation = True
                known.add(step)
            if other.state.is_finished():
                self._finished.add(other.number)
                del self._known[other.number]

    def _reset(self) -> None:
        self._study = None
        self._curves = GrowingCurves(self.policy.max_epochs)
        self._validation = GrowingCurves(self.policy.max_epochs)
        self._has_validation = False
        self._finished = set()
        self._known = {}

    def __reduce__(self) -> tuple[type[AdaptivePruner], tuple[AdaptivePolicy]]:
        """Leave out what is read again, and the lock."""
        return type(self), (self.policy,)
