"""Optuna's own pruners as policies of a replay, through ask, report, should_prune and tell."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_sotl._utils.extras import require
from lightning_sotl.policies.adaptive import Signal
from lightning_sotl.replay.policy import (
    Observations,
    PolicyRun,
    StopsForGood,
    check_signal,
    split_signal,
    validated_from,
)

require("optuna", extra="optuna", purpose="replay its pruners")

import optuna  # noqa: E402
from optuna.pruners import BasePruner  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

# The two that have no default are those of the examples in Optuna's documentation.
PERCENTILE, PATIENCE = 25.0, 1


def _halving(epochs: int) -> BasePruner:
    # What "auto" finds once a trial is complete; with all trials at a time that would be too late.
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=max((epochs - 1) // 100, 1))


def _hyperband(epochs: int) -> BasePruner:
    return optuna.pruners.HyperbandPruner(max_resource=epochs)


def _median(_: int) -> BasePruner:
    return optuna.pruners.MedianPruner()


def _percentile(_: int) -> BasePruner:
    return optuna.pruners.PercentilePruner(PERCENTILE)


def _patient(_: int) -> BasePruner:
    return optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), patience=PATIENCE)


PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "optuna-halving": _halving,
    "optuna-hyperband": _hyperband,
    "optuna-median": _median,
    "optuna-percentile": _percentile,
    "optuna-patient": _patient,
}


@dataclass(frozen=True)
class OptunaPolicy:
    """One of Optuna's pruners, with its defaults and what it must know: the number of epochs.

    A stopped run stays stopped, and one that has trained E epochs is complete. All values of one
    instant are reported, and the complete trials told, before any pruner is asked; successive
    halving and Hyperband enter a value into a rung only when asked about it. What has no default:
    the percentile is 25 and the patience 1, those of Optuna's documentation; `min_resource` of
    `optuna-halving` is what "auto" finds once a trial is complete. A new study is made for every
    repeat, in memory.

    Args:
        name: A key of `PRUNERS`, with the ending `-val` if validation values are reported in place
            of training losses.

    Raises:
        ValueError: If there is no such pruner.

    Example:
        >>> OptunaPolicy("optuna-median-val").validated_from
        0
    """

    name: str

    def __post_init__(self) -> None:
        if split_signal(self.name)[0] not in PRUNERS:
            raise ValueError(
                f"There is no policy {self.name!r}; of Optuna there are "
                f"{', '.join(map(repr, PRUNERS))}, also with the ending '-val'."
            )

    @property
    def validated_from(self) -> int:
        """By the curve that is reported: training losses cost no validation before the end."""
        return validated_from(split_signal(self.name)[1])

    def begin(self, seen: Observations) -> PolicyRun:
        """Return a new study that decides.

        Raises:
            ValueError: If there are no validation values and the policy reports them.
        """
        stem, signal = split_signal(self.name)
        check_signal(self.name, signal, seen)
        with _silence():
            study = optuna.create_study(
                storage=optuna.storages.InMemoryStorage(),
                sampler=optuna.samplers.RandomSampler(seed=seen.seed),  # never asked for a value
                pruner=PRUNERS[stem](seen.max_epochs),
                study_name=f"replay-{seen.seed}",  # Hyperband's brackets depend on it
            )
        return _InAStudy(seen, signal, study)


class _InAStudy(StopsForGood):
    def __init__(self, seen: Observations, signal: Signal, study: optuna.Study) -> None:
        super().__init__(seen, signal)
        self._study = study
        self._trials: dict[int, optuna.Trial] = {}

    def goes_on(self, reports: Sequence[tuple[int, int]]) -> Sequence[bool]:
        values = self._seen.curve(self._signal)
        trials = self._trials
        for run, done in reports:
            if run not in trials:
                trials[run] = self._study.ask()
            trials[run].report(float(values[run, done - 1]), done - 1)
        for run, done in reports:
            if done == self._seen.max_epochs:
                self._study.tell(trials[run], float(values[run, done - 1]))
        # Percentiles of infinite values, those of diverged runs, are NaN with a warning.
        with np.errstate(invalid="ignore"):
            return [done < self._seen.max_epochs and self._stays(run) for run, done in reports]

    def _stays(self, run: int) -> bool:
        trial = self._trials[run]
        if not trial.should_prune():
            return True
        self._study.tell(trial, state=TrialState.PRUNED)
        return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Optuna from a line of log for every study, and from calling a pruner experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
