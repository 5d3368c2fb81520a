"""Find the best stopped trials of an Optuna study, and train them to the end."""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna

from lightning_sotl._utils import validation
from lightning_sotl.integrations._optuna.reporter import CHECKPOINT_KEY
from lightning_sotl.integrations._optuna.storage import sign_of
from lightning_sotl.sweep.promotion import (
    Candidate,
    Result,
    Winner,
    best_of,
    train_winners,
    warn_of_short,
)


def find_winners(study: optuna.Study, k: int) -> list[Winner]:
    """Return the best `k` complete trials of a study at T, best first.

    T is the largest number of epochs (or blocks) that a complete trial with a finite value has
    reported. Estimates at different T are not comparable. Trials that ended before T therefore do
    not compete, and a warning names them. If trials tie, the older one ranks first.

    Args:
        study: A study with one objective. Its trials had an EarlyRankingStopper, and their
            objective returned `OptunaReporter.finish()`.
        k: The number of winners, at least 1. A diverged trial is never promoted. If fewer than `k`
            trials have a finite value, those are returned, with a warning.

    Returns:
        The winners, best first in the study's direction. `run_id` is the trial's number as a
        string, `params` its parameters, and `checkpoint_path` the checkpoint of its stop.

    Raises:
        TypeError: If `k` is not an integer.
        ValueError: If `k` is below 1, if the study has several objectives, if no complete trial has
            a finite value, or if one of the best trials has no checkpoint.

    Warns:
        UserWarning: If trials ended before T, or if there are fewer than `k` winners.

    Examples:
        >>> import optuna
        >>> from lightning_sotl.integrations.optuna import find_winners
        >>> study = optuna.create_study()
        >>> trial = study.ask()
        >>> trial.set_user_attr("lightning_sotl:checkpoint_path", "stopped.ckpt")
        >>> _ = study.tell(trial, 0.5)
        >>> find_winners(study, 1)[0].checkpoint_path
        'stopped.ckpt'
    """
    k = validation.positive_int("k", k)
    sign = sign_of(study, several=": with several, no trial is the best.")
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    units = {t.number: max(t.intermediate_values, default=-1) + 1 for t in complete}
    finite = [t for t in complete if t.value is not None and math.isfinite(t.value)]
    at = max((units[t.number] for t in finite), default=0)
    warn_of_short([t.number for t in finite if units[t.number] < at], at)
    return best_of(
        (
            Candidate(str(t.number), t.value, dict(t.params), t.user_attrs.get(CHECKPOINT_KEY))
            for t in sorted(complete, key=lambda t: t.number)
            if units[t.number] >= at
        ),
        k,
        mode="min" if sign > 0 else "max",
    )


def promote(
    study: optuna.Study, k: int, train: Callable[[Winner], Result], *, retrain: bool = False
) -> list[tuple[Winner, Result]]:
    """Train the best `k` trials of a study to the end, each from its checkpoint.

    The study does not change. Its values are estimates at T, which are not comparable with values
    after full training.

    You can run the script again. Winners that `train` has already trained to the end are not
    trained again. They are returned with the result of `train`, which is saved next to their
    checkpoint.

    Args:
        study: The study, as for `find_winners`.
        k: The number of winners, at least 1. Fewer are trained if fewer have a finite value.
        train: A function that is called with each winner, best first. It creates the Trainer and
            the model from `winner.params`, and calls `winner.fit(trainer, model, ...)`. An
            exception ends the promotion, and the next call of `promote` begins with that winner.
            The result is saved if it consists of plain numbers, strings, tensors, lists, tuples,
            sets and dicts. Otherwise the next call of `promote` trains the winner again.
        retrain: Whether to train all winners, even those that were trained to the end before.

    Returns:
        Each winner with the result of `train`, from this call or an earlier one.

    Raises:
        TypeError: If `k` is not an integer, or `retrain` is not a boolean.
        ValueError: If `k` is below 1, if the study has several objectives, if no complete trial has
            a finite value, or if one of the best trials has no checkpoint.
        FileNotFoundError: Before any training, if the checkpoint of a winner is gone.

    Examples:
        >>> from lightning_sotl import EarlyRankingStopper, SoTLMonitor
        >>> from lightning_sotl.integrations.optuna import promote
        >>> def train(winner):
        ...     promoted = EarlyRankingStopper(stop_epoch=3, promoted=True)
        ...     trainer = Trainer(max_epochs=30, callbacks=[SoTLMonitor(), promoted])
        ...     winner.fit(trainer, Net(**winner.params))
        >>> promote(study, 1, train)  # doctest: +SKIP
    """
    return train_winners(find_winners(study, k), train, retrain=retrain)
