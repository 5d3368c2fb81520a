"""Promotion: the best k runs at T are trained to the end from their checkpoints."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.files import is_gone
from lightning_sotl._utils.messages import inform_user, warn_user
from lightning_sotl._utils.text import pluralize, quote_few
from lightning_sotl.callbacks.monitor import monitors_of
from lightning_sotl.callbacks.stopper import stoppers_of
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.ranking.comparability import comparability_notes
from lightning_sotl.ranking.configurations import named_repeats, repeats
from lightning_sotl.ranking.order import Ranking, rank_runs
from lightning_sotl.record.format import without_cli_keys
from lightning_sotl.stats.ranks import Mode, oriented
from lightning_sotl.sweep._checkpoints import (
    Kept,
    Reached,
    forget_result,
    hparams_in,
    keep_result,
    kept_result,
    refuse_pickle,
)

Result = TypeVar("Result")
Loaded = TypeVar("Loaded")

_NO_WEIGHTS_ONLY = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's own switch for its default
_REPR = re.compile(r"<\w.*>", re.DOTALL)


@dataclass
class _Call:
    """A call of `train`: the estimate that decides, and what `winner.fit` reached from where."""

    monitor: str | None
    reached: dict[str, Reached] = field(default_factory=dict)


_call: ContextVar[_Call | None] = ContextVar("call", default=None)


@dataclass(frozen=True)
class Winner:
    """A run that was stopped at T and is to be trained to the end.

    Attributes:
        run_id: The name of a directory's run, the number of an Optuna trial, or the id of a Ray
            trial.
        estimate: Its estimate at T.
        params: The `params` of the run's SoTLMonitor, or else the hyper-parameters of module and
            DataModule, exactly as `save_hyperparameters()` keeps them in the checkpoint. For an
            Optuna trial they are its parameters, for a Ray trial its config. If the checkpoint
            cannot be read without pickle, the hyper-parameters come from the record, without those
            that JSON does not hold exactly; a warning names these.
        checkpoint_path: The checkpoint to resume from.
        final_epochs: How many epochs (or blocks) it completed, if its record or `promote` shows
            that it was trained to the end; otherwise None.
        final_estimate: Its estimate at that end, or None.
    """

    run_id: str
    estimate: float
    params: dict[str, Any]
    checkpoint_path: str
    final_epochs: int | None = None
    final_estimate: float | None = None

    def fit(self, trainer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """Train the run to the end: `trainer.fit(model, ...)` from the winner's checkpoint.

        Args:
            trainer: A new Trainer with the full budget, and with an
                `EarlyRankingStopper(promoted=True)` beside the monitor. A subclass whose `fit` has
                no `weights_only` is fine.
            model: The model, from `winner.load(...)` or made with `params`.
            *args: Further arguments of `trainer.fit`, for example loaders or a data module.
            **kwargs: The same. `weights_only` is True by default, since loading a checkpoint
                without it runs whatever code its writer put in it.

        Raises:
            ValueError: If the Trainer has no such stopper: the run would stop again at once, or
                resume without the random state of its stop. If the checkpoint holds objects that
                need pickle, for example a metric among the hyper-parameters, and `weights_only` is
                not False.
        """
        stoppers = stoppers_of(trainer)
        if not stoppers or not all(stopper.promoted for stopper in stoppers):
            found = "one with promoted=False" if stoppers else "none"
            raise ValueError(
                "Expected the Trainer of a promoted run to have an EarlyRankingStopper with "
                f"promoted=True but got {found}."
            )
        weights_only = kwargs.pop("weights_only", True)
        if weights_only is not False:
            refuse_pickle(self.checkpoint_path, run_id=self.run_id, method="fit")
        with loading(trainer, self.checkpoint_path, weights_only) as how:
            trainer.fit(model, *args, ckpt_path=self.checkpoint_path, **kwargs, **how)
        call = _call.get()
        if call is not None and not trainer.fast_dev_run and trainer.state.finished:
            name = call.monitor or stoppers[0].monitor
            call.reached[self.checkpoint_path] = _end_of(trainer, name)

    def load(self, module_class: type[Loaded], **kwargs: Any) -> Loaded:
        """Return the module (or DataModule) of the run at T, made from its checkpoint.

        It is `module_class.load_from_checkpoint(checkpoint_path, ...)`, on the CPU: the class gets
        the arguments that `save_hyperparameters()` has kept.

        Args:
            module_class: The LightningModule or LightningDataModule of the run.
            **kwargs: Further arguments of `load_from_checkpoint`, and of the class those that
                `save_hyperparameters()` has not kept. `weights_only` is True by default, since
                loading a checkpoint without it runs whatever code its writer put in it.

        Raises:
            ValueError: If the checkpoint holds objects that need pickle, for example a metric among
                the hyper-parameters, and `weights_only` is not False.
        """
        kwargs = {"map_location": "cpu", "weights_only": True, **kwargs}
        if kwargs["weights_only"] is not False:
            refuse_pickle(self.checkpoint_path, run_id=self.run_id, method="load")
        loaded: Loaded = module_class.load_from_checkpoint(  # type: ignore[attr-defined]  # Lightning's
            self.checkpoint_path, **kwargs
        )
        return loaded


def _end_of(trainer: Any, name: str) -> Reached:
    """Return what a run has reached at the end of `fit`."""
    for monitor in monitors_of(trainer):
        if name in monitor.metric_names:
            return Reached(monitor.units_completed, monitor.estimates.get(name))
    value = trainer.callback_metrics.get(name)
    return Reached(int(trainer.current_epoch), None if value is None else float(value))


@contextmanager
def loading(trainer: Any, path: str, weights_only: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments with which the Trainer's `fit` applies `weights_only`.

    A `fit` without that argument loads with torch's default, which is True (from 2.6 on), but a
    remote checkpoint with pickle.
    """
    parameters = inspect.signature(trainer.fit).parameters.values()
    if any(own.kind == own.VAR_KEYWORD or own.name == "weights_only" for own in parameters):
        yield {"weights_only": weights_only}
        return
    if weights_only is not False:
        if "://" in path:
            raise ValueError(
                f"Expected `fit` of {type(trainer).__name__} to have `weights_only`, without which "
                f"the remote checkpoint '{path}' is loaded with pickle. If you trust who wrote it, "
                "pass `weights_only=False`."
            )
        yield {}
        return
    before = os.environ.get(_NO_WEIGHTS_ONLY)
    os.environ[_NO_WEIGHTS_ONLY] = "1"
    try:
        yield {}
    finally:
        if before is None:
            del os.environ[_NO_WEIGHTS_ONLY]
        else:
            os.environ[_NO_WEIGHTS_ONLY] = before


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
            f"Expected {k} winners but there can be only {len(best)}: no other run that "
            "counts has a finite estimate at T."
        )
    winners = []
    for row in best:
        run = runs[row]
        if run.checkpoint_path is None:
            raise ValueError(
                f"Run {run.run_id!r} is among the best {k} and has no checkpoint to resume from: "
                "train it with an EarlyRankingStopper, with checkpointing on or a "
                "`checkpoint_dir`. (A run that a policy did not stop is complete: there is nothing "
                "to promote, and `rank` shows it.)"
            )
        winners.append(Winner(run.run_id, estimates[row], run.params, run.checkpoint_path))
    return winners


def train_winners(
    winners: list[Winner],
    train: Callable[[Winner], Result],
    *,
    retrain: bool = False,
    monitor: str | None = None,
) -> list[tuple[Winner, Result]]:
    """Call `train` with each winner, the best first; return each winner with its result.

    Unless `retrain` is true, winners that were trained to the end before keep the result of then,
    as `promote` explains.

    Args:
        winners: The winners.
        train: Trains one of them.
        retrain: Whether to train all winners, also those that were trained to the end.
        monitor: The estimate that decided; None for the one that the stopper monitors.

    Raises:
        TypeError: If `retrain` is no boolean.
        FileNotFoundError: Before any training, if the checkpoint of a winner to train is gone.
    """
    before: dict[str, tuple[Winner, Any]] = {}
    unknown = []
    if not validation.boolean("retrain", retrain):
        for winner in winners:
            kept = kept_result(winner.checkpoint_path, winner.estimate)
            if kept is not None:
                before[winner.run_id] = (_at_end(winner, kept.reached), kept.result)
            elif winner.final_epochs is not None:
                unknown.append(winner.run_id)
                before[winner.run_id] = (winner, None)
    for winner in winners:
        if winner.run_id not in before and is_gone(winner.checkpoint_path):
            raise FileNotFoundError(
                f"The checkpoint of run {winner.run_id!r} is gone: {winner.checkpoint_path!r}."
            )
    if before:
        message = (
            f"Did not train {pluralize(len(before), 'winner')} again that had been trained to the "
            f"end: {quote_few(list(before))}."
        )
        if unknown:
            message += (
                f" The result of {quote_few(unknown)} is None, since no result of `train` was kept."
            )
        inform_user(f"{message} `retrain=True` trains all winners from T.")
    return [
        cast("tuple[Winner, Result]", before[winner.run_id])
        if winner.run_id in before
        else _train(winner, train, monitor)
        for winner in winners
    ]


def _train(
    winner: Winner, train: Callable[[Winner], Result], monitor: str | None
) -> tuple[Winner, Result]:
    """Call `train`, and keep its result if it trained the winner to the end."""
    forget_result(winner.checkpoint_path)
    call = _Call(monitor)
    token = _call.set(call)
    try:
        result = train(winner)
    finally:
        _call.reset(token)
    reached = call.reached.get(winner.checkpoint_path)
    if reached is None:
        return replace(winner, final_epochs=None, final_estimate=None), result
    keep_result(winner.checkpoint_path, winner.estimate, Kept(result, reached))
    return _at_end(winner, reached), result


def _at_end(winner: Winner, reached: Reached) -> Winner:
    return replace(winner, final_epochs=reached.epochs, final_estimate=reached.estimate)


def find_winners(
    directory: str | Path, k: int, *, monitor: str = "sotl_e1", at: int | None = None
) -> list[Winner]:
    """Return the best `k` runs of a directory at T, best first, with their checkpoints.

    It warns about what could not be read, and about runs with incomparable training losses.
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
    older = _older_repeats(ranking, dict(zip(found.curves.names, found.facts, strict=True)))
    winners = best_of(
        (
            Candidate(run.run_id, run.estimate, {}, run.checkpoint)
            for run in ranking.runs
            if run.run_id not in older
        ),
        k,
    )
    rows = {run_id: row for row, run_id in enumerate(found.curves.names)}
    scores = estimate.scores(found.curves.train_loss)
    ends = [_end(found, scores, rows[winner.run_id], at=ranking.at) for winner in winners]
    params = _params(winners, [_header(found, rows[each.run_id], ranking.at) for each in winners])
    return [
        replace(winner, params=own, final_epochs=epochs, final_estimate=value)
        for winner, own, (epochs, value) in zip(winners, params, ends, strict=True)
    ]


def _header(found: FoundRuns, row: int, at: int) -> tuple[dict[str, Any], bool]:
    """Return the header of the process that trained a run to T, and if the checkpoint is its own.

    A fork has the checkpoint of the run that it branched off from, perhaps with other parameters.
    """
    own, saved = found.facts[row], found.checkpoint_facts[row]
    names = ("params", "hparams")
    is_fork = found.checkpoint_epochs[row] < at
    if is_fork and any(own.get(name) != saved.get(name) for name in names):
        return own, False
    return saved, True


def _end(
    found: FoundRuns, scores: NDArray[np.float64], row: int, *, at: int
) -> tuple[int | None, float | None]:
    """Return the final epochs and estimate of a run that was trained past T to its end."""
    epochs = int(found.curves.epochs_completed[row])
    if not found.is_finished[row] or epochs <= at:
        return None, None
    value = float(scores[row, epochs - 1])
    return epochs, None if math.isnan(value) else value


def _params(
    winners: list[Winner], headers: list[tuple[dict[str, Any], bool]]
) -> list[dict[str, Any]]:
    """Return the exact parameters of each winner; a warning names what is left out."""
    params, left_out = [], {}
    for winner, (header, is_own) in zip(winners, headers, strict=True):
        if header.get("params") is not None:
            params.append(dict(header["params"]))
            continue
        saved, why = None, "the checkpoint belongs to the run that it branched off from"
        if is_own:
            saved, why = hparams_in(winner.checkpoint_path)
        if saved is None:
            saved, inexact = _recorded_params(header)
            if inexact:
                left_out[winner.run_id] = (inexact, why)
        params.append(saved)
    if left_out:
        names = sorted({name for inexact, _ in left_out.values() for name in inexact})
        _, why = next(iter(left_out.values()))
        warn_user(
            f"`params` of {pluralize(len(left_out), 'winner')} ({quote_few(list(left_out))}) has "
            f"no {quote_few(names)}: the record does not hold the exact value, and {why}. Make the "
            "model with `winner.load(...)`, or give the rest yourself."
        )
    return params


def _recorded_params(header: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the hyper-parameters that a record holds exactly, and the names of the others."""
    recorded = without_cli_keys(header.get("hparams") or {})
    inexact = header.get("inexact_hparams")
    if not isinstance(inexact, list):  # the record of an older version
        inexact = [name for name, value in recorded.items() if _has_repr(value)]
    names = [name for name in inexact if isinstance(name, str) and without_cli_keys({name: 0})]
    return {name: value for name, value in recorded.items() if name not in names}, names


def _has_repr(value: Any) -> bool:
    """Return whether a value in JSON is, or contains, what looks like the `repr` of an object."""
    if isinstance(value, dict):
        return any(map(_has_repr, value.values()))
    if isinstance(value, list):
        return any(map(_has_repr, value))
    return isinstance(value, str) and bool(_REPR.fullmatch(value))


def _older_repeats(ranking: Ranking, facts: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the runs that have a newer repeat at T; warn about them."""
    names = [run.run_id for run in ranking.runs if run.epochs >= ranking.at]
    groups = repeats([facts[name] for name in names])
    # Continuations of one stopped run, such as two promotions of it, are the same run at T.
    other = [group for group in groups if len({facts[names[row]]["run_id"] for row in group}) > 1]
    if other:
        warn_user(
            "Of runs with the same parameters only the newest counts: "
            f"{named_repeats(names, other)}. To keep repeats apart, put the seed into `params`."
        )
    return {names[row] for group in groups for row in group[:-1]}


def promote(
    directory: str | Path,
    k: int,
    train: Callable[[Winner], Result],
    *,
    monitor: str = "sotl_e1",
    at: int | None = None,
    retrain: bool = False,
) -> list[tuple[Winner, Result]]:
    """Train the best `k` runs of a directory at T to the end, each from its checkpoint.

    The script can be started again: winners that `train` has trained to the end are not trained
    again. They are returned with the result of `train`, which is kept beside their checkpoint.

    Args:
        directory: Holds runs with records, at any depth.
        k: How many, at least 1; fewer, with a warning, if fewer have a finite estimate.
        train: Called with each winner, the best first; makes the Trainer and the model, and calls
            `winner.fit(trainer, model, ...)`. An exception in it ends the promotion; the next
            call of `promote` begins with that winner.
        monitor: The estimate that decides, as it is logged. Lower is better.
        at: T, in completed epochs (or blocks); None for the T at which a stopper ended the runs.
        retrain: Whether to train all winners from T, also those that were trained to the end.

    Returns:
        Each winner with the result of `train`. `winner.final_epochs` and `winner.final_estimate`
        are what it reached, if it was trained by `winner.fit` or its record has that. For a winner
        that was trained to the end before, the result is what `train` returned then, if `train`
        called `winner.fit` and returned plain numbers, strings, tensors, or lists, tuples, sets or
        dicts of these. Otherwise the result is None, for example if you called `winner.fit` outside
        of `promote`.

    Raises:
        TypeError: If `k` or `at` is no integer, `monitor` no string, or `retrain` no boolean.
        FileNotFoundError: Before any training, if the checkpoint of a winner to train is gone.
        NotADirectoryError: If `directory` is no directory.
        ValueError: As from `find_winners`, for example if there is nothing to promote.

    Example:
        >>> promote("runs", 0, print)
        Traceback (most recent call last):
        ValueError: Expected `k` to be a positive integer but got 0.
    """
    winners = find_winners(directory, k, monitor=monitor, at=at)
    return train_winners(winners, train, retrain=retrain, monitor=monitor)
