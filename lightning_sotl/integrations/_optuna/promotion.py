"""Which stopped trials of an Optuna study are promoted, and from which checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna

from lightning_sotl._utils import validation
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.integrations._optuna.reporter import CHECKPOINT_KEY
from lightning_sotl.integrations._optuna.storage import sign_of
from lightning_sotl.sweep.promotion import Candidate, Result, Winner, best_of, train_winners


def find_winners(study: optuna.Study, k: int) -> list[Winner]:
    """Return the best `k` complete trials of a study, best first; ties go to the older trial.

    T is the number of epochs (or blocks) that the longest of them have reported. Estimates at
    different T say nothing of each other, so trials that ended before do not compete, and a
    warning names them.

    Args:
        study: With one objective, whose trials were run with an EarlyRankingStopper and have
            called `OptunaReporter.finish()`.
        k: How many, at least 1; fewer come back if fewer have a finite value, as a diverged
            trial is never promoted.

    Raises:
        TypeError: If `k` is no integer.
        ValueError: If `k` is below 1, if the study has several objectives, if no trial is
            complete with a finite value, or if one of the best has no checkpoint.

    Example:
        >>> study = optuna.create_study()
        >>> trial = study.ask()
        >>> trial.set_user_attr("lightning_sotl:checkpoint_path", "stopped.ckpt")
        >>> _ = study.tell(trial, 0.5)
        >>> find_winners(study, 1)[0].checkpoint_path
        'stopped.ckpt'
    """
    k = validation.positive_int("k", k)
    sign = sign_of(study, several=", in which no trial is the best.")
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    units = {t.number: max(t.intermediate_values, default=-1) + 1 for t in complete}
    finite = [t for t in complete if t.value is not None and math.isfinite(t.value)]
    at = max((units[t.number] for t in finite), default=0)
    if short := [t.number for t in finite if units[t.number] < at]:
        warn_user(
            f"{pluralize(len(short), 'trial')} ended before T = {at} and cannot be compared: "
            f"{quote_few(short)}."
        )
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

    The study itself stays as it is: its values are estimates at T, and those of trained networks
    have no place among them. The script can be started again: winners that `train` has trained to
    the end are not trained again. They are returned with the result of `train`, which is kept
    beside their checkpoint.

    Args:
        study: As in `find_winners`.
        k: How many, at least 1; fewer if fewer have a finite value.
        train: Is called with each winner, the best first; makes the Trainer and the model from
            `winner.params`, and calls `winner.fit(trainer, model, ...)`. What it raises ends the
            promotion; the next call of `promote` begins with that winner. What it returns is kept
            if it consists of plain numbers, strings, tensors, lists, tuples, sets and dicts;
            otherwise the next call trains the winner again.
        retrain: Whether to train all winners, also those that were trained to the end.

    Returns:
        Each winner with what `train` has returned, now or before.

    Raises:
        TypeError: As `find_winners` does.
        ValueError: The same.
        FileNotFoundError: Before any training, if the checkpoint of a winner is gone.

    Example:
        >>> promote(optuna.create_study(), 0, print)
        Traceback (most recent call last):
        ValueError: Expected `k` to be a positive integer but got 0.
    """
    return train_winners(find_winners(study, k), train, retrain=retrain)
