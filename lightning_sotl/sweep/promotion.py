"""Promotion: trains the best k runs at T to the end, from their checkpoints."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from lightning_sotl.ranking.configurations import configuration, named_repeats, repeats
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

_NO_WEIGHTS_ONLY = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's switch for the default
_REPR = re.compile(r"<\w.*>", re.DOTALL)


@dataclass
class _Call:
    """One call of `train`.

    Attributes:
        monitor: The estimate that decides, or None for the one that the stopper monitors.
        reached: What `winner.fit` reached, by the checkpoint from which it resumed.
    """

    monitor: str | None
    reached: dict[str, Reached] = field(default_factory=dict)


_call: ContextVar[_Call | None] = ContextVar("call", default=None)


@dataclass(frozen=True)
class Winner:
    """One of the best runs at T, with the checkpoint from which to train it to the end.

    `find_winners`, `promote` and `Sweep` return winners. In the `train` function of `promote`, use
    `params` or `load` to build the model, and call `fit` to resume the run.

    Attributes:
        run_id: The run's name in its directory, the number of an Optuna trial, or the id of a Ray
            trial.
        estimate: The run's estimate at T. Lower is better for every sum of training losses. A Sweep
            has no single T; for its best run, this is the last `sotl_e1`.
        params: The `params` of the run's SoTLMonitor. Without them, the hyper-parameters of the
            module and the DataModule, exactly as `save_hyperparameters()` saved them in the
            checkpoint. For an Optuna trial its parameters, for a Ray trial its config. If the
            checkpoint cannot be read without pickle, the hyper-parameters come from the record. A
            warning names those that JSON cannot store exactly, which are left out.
        checkpoint_path: The checkpoint to resume from.
        final_epochs: How many epochs (or blocks) the run completed, if its record, `promote` or a
            Sweep shows that it was trained to the end. Otherwise None.
        final_estimate: The run's estimate at that end, or None.

    Examples:
        >>> (winner,) = find_winners("runs", 1)  # doctest: +SKIP
        >>> winner.run_id, winner.params  # doctest: +SKIP
        ('version_2', {'width': 64})
    """

    run_id: str
    estimate: float
    params: dict[str, Any]
    checkpoint_path: str
    final_epochs: int | None = None
    final_estimate: float | None = None

    def fit(self, trainer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """Train the run to the end: call `trainer.fit(model, ...)` with the winner's checkpoint.

        Args:
            trainer: A new Trainer with the full budget. Its callbacks include the monitor and an
                `EarlyRankingStopper(promoted=True)`. Its `fit` may lack `weights_only`, as in
                Lightning 2.5.
            model: The model, from `winner.load(...)` or built from `params`.
            *args: Further arguments of `trainer.fit`, for example loaders or a DataModule.
            **kwargs: Further keyword arguments of `trainer.fit`. `weights_only` defaults to True.
                With False, loading the checkpoint runs any code that its writer put into it.

        Raises:
            ValueError: If the Trainer has no EarlyRankingStopper with `promoted=True`. Without it,
                the run would stop again at once, or resume without the random state of its stop.
            ValueError: If the checkpoint contains objects that need pickle, for example a metric
                among the hyper-parameters, and `weights_only` is not False.
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
            refuse_pickle(self.checkpoint_path, run_id=self.run_id, call="winner.fit")
        with loading(trainer, self.checkpoint_path, weights_only) as how:
            trainer.fit(model, *args, ckpt_path=self.checkpoint_path, **kwargs, **how)
        call = _call.get()
        if call is not None and not trainer.fast_dev_run and trainer.state.finished:
            name = call.monitor or stoppers[0].monitor
            call.reached[self.checkpoint_path] = _end_of(trainer, name)

    def load(self, module_class: type[Loaded], **kwargs: Any) -> Loaded:
        """Return the module (or DataModule) of the run at T, loaded from its checkpoint.

        This calls `module_class.load_from_checkpoint(checkpoint_path, ...)` on the CPU. The class
        receives the arguments that `save_hyperparameters()` saved.

        Args:
            module_class: The LightningModule or LightningDataModule of the run.
            **kwargs: Further arguments of `load_from_checkpoint`, and the arguments of the class
                that `save_hyperparameters()` did not save. `weights_only` defaults to True. With
                False, loading the checkpoint runs any code that its writer put into it.

        Raises:
            ValueError: If the checkpoint contains objects that need pickle, for example a metric
                among the hyper-parameters, and `weights_only` is not False.

        Examples:
            >>> model = winner.load(Net)  # doctest: +SKIP
        """
        kwargs = {"map_location": "cpu", "weights_only": True, **kwargs}
        known = _knows_weights_only(module_class, "load_from_checkpoint")
        if kwargs["weights_only"] is not False:
            refuse_pickle(self.checkpoint_path, run_id=self.run_id, call="winner.load")
            if not known:
                _refuse_remote(self.checkpoint_path, module_class, "load_from_checkpoint")
        if not known:
            del kwargs["weights_only"]
        loaded: Loaded = module_class.load_from_checkpoint(  # type: ignore[attr-defined]  # Lightning's
            self.checkpoint_path, **kwargs
        )
        return loaded


def _end_of(trainer: Any, name: str) -> Reached:
    """Return the epochs and the estimate that a run has reached at the end of `fit`."""
    for monitor in monitors_of(trainer):
        if name in monitor.metric_names:
            return Reached(monitor.units_completed, monitor.estimates.get(name))
    value = trainer.callback_metrics.get(name)
    return Reached(int(trainer.current_epoch), None if value is None else float(value))


@contextmanager
def loading(trainer: Any, path: str, weights_only: Any) -> Iterator[dict[str, Any]]:
    """Provide the keyword arguments that make the Trainer's `fit` apply `weights_only`.

    A `fit` without `weights_only` may load the checkpoint with pickle: a remote one always, a local
    one with torch before 2.6 or Lightning before 2.6. Call `refuse_pickle` first.
    """
    known = _knows_weights_only(type(trainer), "fit")
    parameters = inspect.signature(trainer.fit).parameters
    forwards = any(own.kind == own.VAR_KEYWORD for own in parameters.values())
    if "weights_only" in parameters or (known and forwards):
        yield {"weights_only": weights_only}
        return
    if weights_only is not False:
        _refuse_remote(path, type(trainer), "fit")
    if weights_only is not False or not known:
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


def _knows_weights_only(cls: type, method: str) -> bool:
    """Return whether a method of Lightning has the argument `weights_only`, new in Lightning 2.6.

    Lightning 2.5 always loads checkpoints with pickle, and `load_from_checkpoint` would pass the
    argument on to the module. A subclass may override the method.
    """
    methods = [getattr(base, method) for base in cls.__mro__ if hasattr(base, method)]
    return any("weights_only" in inspect.signature(own).parameters for own in methods)


def _refuse_remote(path: str, cls: type, method: str) -> None:
    """Raise if a checkpoint is remote, for a method that would load it with pickle."""
    if "://" in path:
        raise ValueError(
            f"Expected `{method}` of {cls.__name__} to accept `weights_only`. Without it, the "
            f"remote checkpoint '{path}' is loaded with pickle. If you trust its source, pass "
            "`weights_only=False`."
        )


class Candidate(NamedTuple):
    """A run that may be promoted."""

    run_id: str
    estimate: float | None
    params: dict[str, Any]
    checkpoint_path: str | None


def best_of(candidates: Iterable[Candidate], k: int, *, mode: Mode = "min") -> list[Winner]:
    """Return the best `k` of the runs with a finite estimate, best first.

    Args:
        candidates: The runs. Ties go to the earlier run.
        k: The number of winners, at least 1. If fewer runs have a finite estimate, only those are
            returned, with a warning. A diverged run is never promoted.
        mode: "min" if lower is better, as for every sum of training losses, otherwise "max".

    Raises:
        TypeError: If `k` is not an integer.
        ValueError: If `k` is below 1, if no run has a finite estimate, or if one of the best runs
            has no checkpoint.

    Examples:
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
            f"None of the {pluralize(len(runs), 'run')} has a finite estimate, so there is nothing "
            "to promote."
        )
    if len(best) < k:
        warn_user(
            f"Expected {k} winners but there can be only {len(best)}: no other eligible run has "
            "a finite estimate at T."
        )
    winners = []
    for row in best:
        run = runs[row]
        if run.checkpoint_path is None:
            raise ValueError(
                f"Run {run.run_id!r} is among the best {k} but has no checkpoint to resume from. "
                "Train it with an EarlyRankingStopper, and with checkpointing on or a "
                "`checkpoint_dir`. (A run that its policy never stopped is already complete. There "
                "is nothing to promote, and `rank` lists it.)"
            )
        winners.append(Winner(run.run_id, estimates[row], run.params, run.checkpoint_path))
    return winners


def warn_of_short(run_ids: Sequence[object], at: int, what: str = "trial") -> None:
    """Warn about the trials (or runs) of a sweep that ended before T, which do not compete."""
    if run_ids:
        warn_user(
            f"{pluralize(len(run_ids), what)} ended before T = {at} and cannot be compared: "
            f"{quote_few(run_ids)}."
        )


def train_winners(
    winners: list[Winner],
    train: Callable[[Winner], Result],
    *,
    retrain: bool = False,
    monitor: str | None = None,
) -> list[tuple[Winner, Result]]:
    """Call `train` with each winner, best first, and return each winner with its result.

    Unless `retrain` is True, winners that were already trained to the end keep their earlier
    result, as `promote` explains.

    Args:
        winners: The winners.
        train: Trains one winner.
        retrain: Whether to train all winners, even those that were already trained to the end.
        monitor: The estimate that decided, or None for the one that the stopper monitors.

    Raises:
        TypeError: If `retrain` is not a boolean.
        FileNotFoundError: If the checkpoint of a winner that must be trained no longer exists.
            Nothing has been trained at that point.
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
                f"The checkpoint of run {winner.run_id!r} does not exist: "
                f"{winner.checkpoint_path!r}."
            )
    if before:
        message = (
            f"Skipped {pluralize(len(before), 'winner')} already trained to the end: "
            f"{quote_few(list(before))}."
        )
        if unknown:
            message += (
                f" The result of {quote_few(unknown)} is None, because no result of `train` was "
                "saved."
            )
        inform_user(f"{message} Pass `retrain=True` to train all winners from T.")
    return [
        cast("tuple[Winner, Result]", before[winner.run_id])
        if winner.run_id in before
        else _train(winner, train, monitor)
        for winner in winners
    ]


def _train(
    winner: Winner, train: Callable[[Winner], Result], monitor: str | None
) -> tuple[Winner, Result]:
    """Call `train`, and save its result if it trained the winner to the end."""
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

    If several runs have the same parameters, for example because a script was started twice, only
    the newest that reached T counts, and a warning names the runs. To rank repeats with different
    seeds separately, put the seed into `SoTLMonitor(params=...)` or into the module's
    hyper-parameters.

    Further warnings name files that could not be read, and runs whose training losses are not
    comparable.

    Args:
        directory: The directory of the runs. Their records may be at any depth.
        k: The number of winners, at least 1. If fewer runs have a finite estimate, only those are
            returned, with a warning. A diverged run is never a winner.
        monitor: The name of the estimate that decides, as it is logged. Lower is better.
        at: T, in completed epochs (or blocks). None means the T at which a stopper ended the runs;
            without such a T, the default is that of `lightning-sotl rank`.

    Raises:
        TypeError: If `k` or `at` is not an integer, or `monitor` is not a string.
        NotADirectoryError: If `directory` is not a directory.
        ValueError: If `k` or `at` is below 1, if `monitor` is not the name of an estimate, if there
            are no runs, if no run has reached T or has a finite estimate there, or if one of the
            best runs has no checkpoint.

    Examples:
        >>> for winner in find_winners("runs", 2):  # doctest: +SKIP
        ...     print(winner.run_id, winner.estimate, winner.params)
        version_2 1.31 {'width': 64}
        version_1 1.74 {'width': 16}
    """
    k = validation.positive_int("k", k)
    estimate = parse_monitor(validation.text("monitor", monitor))
    if estimate is None:
        raise ValueError(
            f"Expected `monitor` to be an estimate's name such as 'sotl_e1' but got {monitor!r}."
        )
    found = read_logs(directory, LogKeys(prefix=estimate.prefix, block=estimate.block))
    # A run that was left out might have won, and incomparable runs may give the wrong winner.
    for note in (*found.notes.left_out, *comparability_notes(found.facts)):
        warn_user(note)
    ranking = rank_runs(found, monitor, estimate=estimate, at=at)
    for note in ranking.notes_on_at:
        warn_user(note)
    facts = dict(zip(found.curves.names, found.facts, strict=True))
    warn_of_short(_short_runs(ranking, facts), ranking.at, "run")
    older = _older_repeats(ranking, facts)
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
    """Return the header of the process that trained a run to T, and whether the checkpoint is its.

    A fork uses the checkpoint of the run that it branched off from, whose parameters may differ.
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
    """Return the final epochs and estimate of a run that finished after T, otherwise None twice."""
    epochs = int(found.curves.epochs_completed[row])
    if not found.is_finished[row] or epochs <= at:
        return None, None
    value = float(scores[row, epochs - 1])
    return epochs, None if math.isnan(value) else value


def _params(
    winners: list[Winner], headers: list[tuple[dict[str, Any], bool]]
) -> list[dict[str, Any]]:
    """Return the exact parameters of each winner, and warn about those that are left out."""
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
            f"`params` of {pluralize(len(left_out), 'winner')} ({quote_few(list(left_out))}) lacks "
            f"{quote_few(names)}: the record does not store the exact value, and {why}. Build the "
            "model with `winner.load(...)`, or pass the missing values yourself."
        )
    return params


def _recorded_params(header: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the hyper-parameters that a record stores exactly, and the names of the others."""
    recorded = without_cli_keys(header.get("hparams") or {})
    inexact = header.get("inexact_hparams")
    if not isinstance(inexact, list):  # the record of an older version
        inexact = [name for name, value in recorded.items() if _has_repr(value)]
    names = [name for name in inexact if isinstance(name, str) and without_cli_keys({name: 0})]
    return {name: value for name, value in recorded.items() if name not in names}, names


def _has_repr(value: Any) -> bool:
    """Return whether a JSON value is, or contains, a string like the `repr` of an object."""
    if isinstance(value, dict):
        return any(map(_has_repr, value.values()))
    if isinstance(value, list):
        return any(map(_has_repr, value))
    return isinstance(value, str) and bool(_REPR.fullmatch(value))


def _short_runs(ranking: Ranking, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the runs that ended before T, except for those that a policy ended or paused.

    A run whose configuration also has a run that reached T is not missing either.
    """
    compared = {
        configuration(facts[run.run_id]) for run in ranking.runs if run.epochs >= ranking.at
    }
    compared.discard(None)
    return [
        run.run_id
        for run in ranking.runs
        if run.epochs < ranking.at
        and facts[run.run_id].get("stopping_reason") not in ("policy", "paused")
        and configuration(facts[run.run_id]) not in compared
    ]


def _older_repeats(ranking: Ranking, facts: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the runs that have a newer repeat at T, and warn about them."""
    names = [run.run_id for run in ranking.runs if run.epochs >= ranking.at]
    groups = repeats([facts[name] for name in names])
    # Continuations of one stopped run, for example two promotions, are the same run at T.
    other = [group for group in groups if len({facts[names[row]]["run_id"] for row in group}) > 1]
    if other:
        warn_user(
            "Of runs with the same parameters, only the newest counts: "
            f"{named_repeats(names, other)}. To rank repeats separately, put the seed into "
            "`params`."
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

    You can run the script again: winners that are already trained to the end are skipped. They are
    returned with the earlier result of `train`, which is saved beside their checkpoint.

    Args:
        directory: The directory of the runs. Their records may be at any depth.
        k: The number of winners, at least 1. If fewer runs have a finite estimate, only those are
            trained, with a warning. A diverged run is never a winner.
        train: Called with each winner, best first. It makes the Trainer and the model, and calls
            `winner.fit(trainer, model, ...)`. If it raises, the promotion ends. The next call of
            `promote` starts with that winner.
        monitor: The name of the estimate that decides, as it is logged. Lower is better.
        at: T, in completed epochs (or blocks). None means the T at which a stopper ended the runs;
            without such a T, the default is that of `lightning-sotl rank`.
        retrain: Whether to train all winners from T, even those that are already trained to the
            end.

    Returns:
        A list of (winner, result) pairs, best first. `winner.final_epochs` and
        `winner.final_estimate` are set if `winner.fit` trained the run or its record shows the end.
        The result is what `train` returned. For a skipped winner, it is what `train` returned
        earlier, if that was None, a number, string or tensor, or a list, tuple, set or dict of
        these. It is None if no result was saved, for example if you called `winner.fit` outside
        `promote`.

    Raises:
        TypeError: If `k` or `at` is not an integer, `monitor` is not a string, or `retrain` is not
            a boolean.
        NotADirectoryError: If `directory` is not a directory.
        ValueError: Under the conditions of `find_winners`, for example if no run has a finite
            estimate.
        FileNotFoundError: If the checkpoint of a winner that must be trained no longer exists.
            Nothing has been trained at that point.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from lightning_sotl import EarlyRankingStopper, SoTLMonitor, promote
        >>> def train(winner):
        ...     stopper = EarlyRankingStopper(stop_epoch=3, promoted=True)
        ...     trainer = pl.Trainer(max_epochs=30, callbacks=[SoTLMonitor(), stopper])
        ...     winner.fit(trainer, Net(**winner.params), loader)
        ...     return float(trainer.callback_metrics["val_acc"])
        >>> promote("runs", 1, train)[0][1]  # doctest: +SKIP
        0.97
    """
    winners = find_winners(directory, k, monitor=monitor, at=at)
    return train_winners(winners, train, retrain=retrain, monitor=monitor)
