"""AdaptivePruner: the adaptive policy as an Optuna pruner."""

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
    """Optuna pruner that ends a trial when an `AdaptivePolicy` decides to stop it.

    The pruner compares the trial with all trials that have reported a value at the same step,
    finished or not. A step is an epoch counted from 0 (or a block), as `OptunaReporter` reports it.
    `policy.max_epochs` is the full budget in the same unit.

    Any metric that is reported once per step works. Lower is better in a study that minimizes, and
    higher is better in a study that maximizes. A value that is not finite ranks last. A trial at
    its last step is never pruned.

    If the reporters were created with a `validation` metric, the policy uses both curves; see
    `AdaptivePolicy`.

    The first trials of a study have few others to be compared with, so they are trained longer. If
    you know `n_trials`, pass it to the policy as `runs`.

    Args:
        policy: The policy that decides.

    Raises:
        TypeError: If `policy` is not an AdaptivePolicy.
        ValueError: When a trial is judged, if its study has several objectives.

    Examples:
        >>> import optuna
        >>> from lightning_sotl import AdaptivePolicy
        >>> from lightning_sotl.integrations.optuna import AdaptivePruner
        >>> pruner = AdaptivePruner(AdaptivePolicy(max_epochs=30, runs=20))
        >>> study = optuna.create_study(pruner=pruner)
    """

    _study: tuple[Any, int] | None
    _curves: GrowingCurves
    _validation: GrowingCurves  # with the same rows as `_curves`
    _has_validation: bool
    _finished: set[int]  # the numbers of finished trials, which need not be read again
    _known: dict[int, set[int]]  # the steps already read of each other trial

    def __init__(self, policy: AdaptivePolicy) -> None:
        if not isinstance(policy, AdaptivePolicy):
            raise TypeError(f"Expected `policy` to be an AdaptivePolicy but got {policy!r}.")
        self.policy = policy
        self._lock = threading.Lock()
        self._reset()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial ends now."""
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
        """Read only new values: most trials of a long study are finished and known."""
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
        """Pickle the policy only; the curves are read again."""
        return type(self), (self.policy,)
