"""Optuna's pruners as policies of a replay, through ask, report, should_prune and tell."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_sotl._utils.extras import require
from lightning_sotl.policies.adaptive import Signal
from lightning_sotl.replay.policy import BasicRun, Observations, OneSignalPolicy, PolicyRun

require("optuna", extra="optuna", purpose="replay its pruners")

import optuna  # noqa: E402
from optuna import pruners  # noqa: E402
from optuna.pruners import BasePruner  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

# From names to functions that return a pruner for a number of epochs. The percentile and the
# patience are those of Optuna's documentation.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    # "auto" finds this `min_resource` when the first trial is complete. That is too late if all
    # trials run at the same time.
    "optuna-halving": lambda epochs: pruners.SuccessiveHalvingPruner(max((epochs - 1) // 100, 1)),
    "optuna-hyperband": lambda epochs: pruners.HyperbandPruner(max_resource=epochs),
    "optuna-median": lambda _: pruners.MedianPruner(),
    "optuna-percentile": lambda _: pruners.PercentilePruner(25.0),
    "optuna-patient": lambda _: pruners.PatientPruner(pruners.MedianPruner(), patience=1),
}


@dataclass(frozen=True)
class OptunaPolicy(OneSignalPolicy):
    """One of Optuna's pruners, with its default arguments.

    A stopped run stays stopped. A run that has trained `max_epochs` is complete. All values of an
    instant are reported, and complete trials are finished, before the pruner decides about any
    trial. Successive halving and Hyperband enter a value into a rung only when they decide about
    it.

    Two arguments have no default in Optuna. The percentile is 25 and the patience is 1, as in
    Optuna's documentation. `min_resource` of `optuna-halving` is the value that "auto" finds when a
    trial is complete. Every repeat has a new study in memory.

    Args:
        name: A key of `PRUNERS`. Add "-val" to report validation values instead of training losses.

    Raises:
        ValueError: If there is no such pruner.

    Examples:
        >>> OptunaPolicy("optuna-median-val").validated_from
        0
    """

    def __post_init__(self) -> None:
        if self.stem not in PRUNERS:
            raise ValueError(
                f"There is no policy {self.name!r}; available from Optuna: "
                f"{', '.join(map(repr, PRUNERS))}, also with the ending '-val'."
            )

    def begin(self, observations: Observations) -> PolicyRun:
        """Start a new study on the runs of one repeat.

        Raises:
            ValueError: If the policy reports validation values and there are none.
        """
        self.check_signal(observations)
        with _silent():
            study = optuna.create_study(
                storage=optuna.storages.InMemoryStorage(),
                sampler=optuna.samplers.RandomSampler(seed=observations.seed),  # draws nothing
                pruner=PRUNERS[self.stem](observations.max_epochs),
                study_name=f"replay-{observations.seed}",  # Hyperband draws brackets from it
            )
        return _StudyRun(observations, self.signal, study)


class _StudyRun(BasicRun):
    def __init__(self, observations: Observations, signal: Signal, study: optuna.Study) -> None:
        super().__init__(observations, signal)
        self._study = study
        self._trials: dict[int, optuna.Trial] = {}

    def decide(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        values, epochs = self._observations.curve(self._signal), self._observations.max_epochs
        trials = self._trials
        for run, done in reports:
            if run not in trials:
                trials[run] = self._study.ask()
            trials[run].report(float(values[run, done - 1]), done - 1)
        for run, done in reports:
            if done == epochs:
                self._study.tell(trials[run], float(values[run, done - 1]))
        # Diverged runs have infinite values, and NumPy warns about their percentiles.
        with np.errstate(invalid="ignore"):
            return [done < epochs and not self._is_pruned(trials[run]) for run, done in reports]

    def _is_pruned(self, trial: optuna.Trial) -> bool:
        if not trial.should_prune():
            return False
        self._study.tell(trial, state=TrialState.PRUNED)
        return True


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress Optuna's log line for every study, and its warning about experimental pruners."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
