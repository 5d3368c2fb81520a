"""Promotion: the best k runs at T are trained to the end from their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lightning_sotl._utils import validation
from lightning_sotl._utils.files import is_gone
from lightning_sotl._utils.messages import warn_user
from lightning_sotl._utils.text import pluralize
from lightning_sotl.callbacks.stopper import EarlyRankingStopper
from lightning_sotl.curves.logs import LogKeys, read_logs
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.configurations import named_repeats, repeats
from lightning_sotl.ranking.order import Ranking, rank_runs
from lightning_sotl.stats.ranks import Mode, oriented

Result = TypeVar("Result")


@dataclass(frozen=True)
class Winner:
    """A run that was stopped at T and is to be trained to the end.

    Attributes:
        run_id: The name of a directory's run, the number of an Optuna trial, or the id of a Ray
            trial.
        estimate: Its estimate at T.
        params: The hyper-parameters in the record (those that `save_hyperparameters()` keeps, in
            JSON), an Optuna trial's parameters, or a Ray trial's config.
        checkpoint_path: The checkpoint to resume from.
    """

    run_id: str
    estimate: float
    params: dict[str, Any]
    checkpoint_path: str

    def fit(self, trainer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """Train the run to the end: `trainer.fit(model, ...)` from the winner's checkpoint.

        Args:
            trainer: A new Trainer with the full budget, and with an
                `EarlyRankingStopper(promoted=True)` beside the monitor.
            model: A model made with `params`.
            *args: Further arguments of `trainer.fit`, for example loaders or a data module.
            **kwargs: The same. `weights_only` is True by default, since loading a checkpoint
                without it runs whatever code its writer put in it.

        Raises:
            ValueError: If the Trainer has no such stopper: the run would stop again at once, or
                resume without the random state of its stop.
        """
        stoppers = [cb for cb in trainer.callbacks if isinstance(cb, EarlyRankingStopper)]
        if not stoppers or not all(stopper.promoted for stopper in stoppers):
            found = "one with promoted=False" if stoppers else "none"
            raise ValueError(
                "Expected the Trainer of a promoted run to have an EarlyRankingStopper with "
                f"promoted=True but got {found}."
            )
        kwargs.setdefault("weights_only", True)
        trainer.fit(model, *args, ckpt_path=self.checkpoint_path, **kwargs)


class Candidate(NamedTuple):
    """A run that may be promoted."""

    run_id: str
    estimate: float | None
    params: dict[str, Any]
    checkpoint_path: str | None


def best_of(candidates: Iterable[Candidate], k: int, *, mode: Mode = "min") -> list[Winner]:
    """Return the best `k` of the runs with a finite estimate, best first.

    Args:
        candidates: The runs; a tie goes to the earlier one.
        k: How many, at least 1. If fewer runs have a finite estimate, those are returned, with a
            warning: a diverged run is never promoted.
        mode: "min" if lower is better, as for every sum of training losses.

    Raises:
        TypeError: If `k` is no integer.
        ValueError: If `k` is below 1, if no run has a finite estimate, or if one of the best has
            no checkpoint.

    Example:
        >>> runs = [Candidate("a", 2.0, {}, "a.ckpt"), Candidate("b", 1.0, {}, "b.ckpt")]
        >>> [winner.run_id for winner in best_of(runs, 1)]
        ['b']
    """
    k = validation.positive_int("k", k)
    runs = list(candidates)
    estimates = [math.nan if run.estimate is None else float(run.estimate) for run in runs]
    costs = oriented(estimates, mode=mode)
    best = [row for row in np.argsort(costs, kind="stable")[:k] if np.isfinite(costs[row])]
    if not best:
        raise ValueError(
            f"None of the {pluralize(len(runs), 'run')} has a finite estimate, so there is none to "
            "promote."
        )
    if len(best) < k:
        warn_user(
            f"Expected {k} winners but there can be only {len(best)}: no other run has a finite "
            "estimate at T."
        )
    winners = []
    for row in best:
        run = runs[row]
        if run.checkpoint_path is None:
            raise ValueError(
                f"Run {run.run_id!r} is among the best {k} and has no checkpoint to go on from: "
                "train it with an EarlyRankingStopper, checkpointing on. (A run that a policy has "
                "let go on to its end is complete: there is nothing to promote, and `rank` shows "
                "it.)"
            )
        winners.append(Winner(run.run_id, estimates[row], run.params, run.checkpoint_path))
    return winners


def train_winners(
    winners: list[Winner], train: Callable[[Winner], Result]
) -> list[tuple[Winner, Result]]:
    """Call `train` with each winner, the best first; return each winner with its result.

    Raises:
        FileNotFoundError: Before any training, if the checkpoint of a winner is gone.
    """
    for winner in winners:
        if is_gone(winner.checkpoint_path):
            raise FileNotFoundError(
                f"The checkpoint of run {winner.run_id!r} is gone: {winner.checkpoint_path!r}."
            )
    return [(winner, train(winner)) for winner in winners]


def find_winners(
    directory: str | Path, k: int, *, monitor: str = "sotl_e1", at: int | None = None
) -> list[Winner]:
    """Return the best `k` runs of a directory at T, best first, with their checkpoints.

    It warns about what could not be read, and about runs whose training losses are not comparable.
    Of runs with the same parameters, for example of a script that was started twice, only the
    newest that reached T counts; a warning names them. To keep repeats with other seeds apart, put
    the seed into `SoTLMonitor(params=...)` or the module's hyper-parameters.

    Args:
        directory: Holds runs with records, at any depth.
        k: How many, at least 1; fewer, with a warning, if fewer have a finite estimate.
        monitor: The estimate that decides, as it is logged. Lower is better.
        at: T, in completed epochs (or blocks); None for the T at which a stopper ended the runs.

    Raises:
        TypeError: If `k` or `at` is no integer, or `monitor` no string.
        NotADirectoryError: If `directory` is no directory.
        ValueError: If `k` or `at` is below 1, if `monitor` is no estimate's name, if there is no
            run or none that has reached T, or if one of the best has no checkpoint.

    Example:
        >>> find_winners("runs", 0)
        Traceback (most recent call last):
        ValueError: Expected `k` to be a positive integer but got 0.
    """
    k = validation.positive_int("k", k)
    estimate = parse_monitor(validation.text("monitor", monitor))
    if estimate is None:
        raise ValueError(
            f"Expected `monitor` to be an estimate's name such as 'sotl_e1' but got {monitor!r}."
        )
    found = read_logs(directory, LogKeys(prefix=estimate.prefix, block=estimate.block))
    # A run that was left out might have won; among unlike runs the wrong run may win.
    for note in (*found.notes.left_out, *comparability_notes(found.facts)):
        warn_user(note)
    ranking = rank_runs(found, monitor, estimate=estimate, at=at)
    facts = dict(zip(found.curves.names, found.facts, strict=True))
    older = _older_repeats(ranking, facts)
    return best_of(
        (
            Candidate(
                run.run_id,
                run.estimate,
                dict(facts[run.run_id].get("hparams") or {}),
                run.checkpoint,
            )
            for run in ranking.runs
            if run.run_id not in older
        ),
        k,
    )


def _older_repeats(ranking: Ranking, facts: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the runs of which a newer one with the same parameters has reached T; warn of them."""
    names = [run.run_id for run in ranking.runs if run.epochs >= ranking.at]
    groups = repeats([facts[name] for name in names])
    if groups:
        warn_user(
            "Of runs with the same parameters only the newest counts; to keep repeats apart, put "
            f"the seed into `params`: {named_repeats(names, groups)}."
        )
    return {names[row] for group in groups for row in group[:-1]}


def promote(
    directory: str | Path,
    k: int,
    train: Callable[[Winner], Result],
    *,
    monitor: str = "sotl_e1",
    at: int | None = None,
) -> list[tuple[Winner, Result]]:
    """Train the best `k` runs of a directory at T to the end, each from its checkpoint.

    Args:
        directory: Holds runs with records, at any depth.
        k: How many, at least 1; fewer, with a warning, if fewer have a finite estimate.
        train: Called with each winner, the best first; makes the Trainer and the model, and calls
            `winner.fit(trainer, model, ...)`. An exception in it ends the promotion, and the
            results of the winners before are lost.
        monitor: The estimate that decides, as it is logged. Lower is better.
        at: T, in completed epochs (or blocks); None for the T at which a stopper ended the runs.

    Returns:
        Each winner with the result of `train`.

    Raises:
        TypeError: If `k` or `at` is no integer, or `monitor` no string.
        FileNotFoundError: Before any training, if the checkpoint of a winner is gone.
        NotADirectoryError: If `directory` is no directory.
        ValueError: As from `find_winners`, for example if there is nothing to promote.

    Example:
        >>> promote("runs", 0, print)
        Traceback (most recent call last):
        ValueError: Expected `k` to be a positive integer but got 0.
    """
    return train_winners(find_winners(directory, k, monitor=monitor, at=at), train)
