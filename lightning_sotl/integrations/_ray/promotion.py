"""Find the best trials of a finished Ray Tune sweep, and train them to the end."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from ray import tune

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize, quote_all
from lightning_sotl.integrations._ray import session
from lightning_sotl.integrations._ray.starting_point import CHECKPOINT_NAME, call_promoted
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.stats.ranks import Mode, check_mode
from lightning_sotl.sweep.promotion import Candidate, Winner, best_of, warn_of_short

# The config key with the id of the trial to continue. It is not passed to the trainable.
PROMOTED_FROM = "promoted_from"


def find_winners(
    results: tune.ResultGrid, k: int, *, monitor: str = "sotl_e1", mode: Mode = "min"
) -> list[Winner]:
    """Return the best `k` trials of a Ray Tune sweep at T, best first.

    T is the largest number of epochs (or blocks) that a trial with a finite estimate has completed.
    Estimates at different T are not comparable. Trials that ended before T therefore do not
    compete. A warning names those that finished, but not those that an AdaptiveScheduler paused. If
    trials tie, the older one ranks first.

    Args:
        results: The result of `Tuner.fit()`. Its trials had a RayReporter.
        k: The number of winners, at least 1. A diverged trial is never promoted. If fewer than `k`
            trials have a finite estimate, those are returned, with a warning.
        monitor: The reported metric by which trials are ranked.
        mode: "min" if lower is better, as in every estimate of this package, or "max".

    Returns:
        The winners, best first. `run_id` is the trial's id, `params` its config, and
        `checkpoint_path` the checkpoint of its last report.

    Raises:
        TypeError: If `k` is not an integer or `monitor` is not a string.
        ValueError: If `k` is below 1, if `mode` is not "min" or "max", if it is "max" for an
            estimate, if no trial has a finite estimate, or if one of the best trials has no
            checkpoint.

    Warns:
        UserWarning: If trials ended before T, or if there are fewer than `k` winners.

    Examples:
        >>> from lightning_sotl.integrations.ray import find_winners
        >>> results = tune.Tuner(trainable, param_space=space).fit()  # doctest: +SKIP
        >>> find_winners(results, 3)[0].params  # doctest: +SKIP
        {'width': 64}
    """
    k = validation.positive_int("k", k)
    check_mode("mode", mode)
    if parse_monitor(validation.text("monitor", monitor)) is not None and mode == "max":
        raise ValueError(
            f"Expected `mode` to be 'min' but got 'max': lower is better for {monitor!r}."
        )
    # Ray returns results in no fixed order. The ids contain a counter.
    all_results = _list_results(results)
    trials = sorted((_trial(result, monitor) for result in all_results), key=lambda t: t[1].run_id)
    finite = [
        (units, trial)
        for units, trial in trials
        if units and trial.estimate is not None and math.isfinite(trial.estimate)
    ]
    if not finite:
        names = {name for result in all_results for name in result.metrics or {}}
        estimates = sorted(name for name in names if parse_monitor(name) is not None)
        advice = ""
        if monitor not in names and estimates:
            advice = f" They report {quote_all(estimates)}; pass one as `monitor`."
        raise ValueError(
            f"None of the {pluralize(len(trials), 'trial')} has a finite `{monitor}`, so there is "
            f"none to promote.{advice}"
        )
    at = max(units for units, _ in finite)
    at_end = [trial for units, trial in finite if units == at]
    unfinished = {_run_id(result) for result in all_results if _is_unfinished(result)}
    short = [trial.run_id for units, trial in finite if units < at]
    warn_of_short([run_id for run_id in short if run_id not in unfinished], at)
    winners = best_of(at_end, k, mode=mode)
    for winner in winners:
        if not winner.checkpoint_path:
            raise ValueError(
                f"Trial '{winner.run_id}' is among the best {k} and has no checkpoint to "
                "resume from: train it with a RayReporter with an integer `checkpoint_every`."
            )
    return winners


def promote(
    results: tune.ResultGrid,
    k: int,
    trainable: Callable[[dict[str, Any]], Any],
    *,
    monitor: str = "sotl_e1",
    mode: Mode = "min",
    tune_config: tune.TuneConfig | None = None,
    run_config: tune.RunConfig | None = None,
    restore: str | None = None,
) -> tune.ResultGrid:
    """Train the best `k` trials of a sweep to the end, in parallel, as a second sweep.

    Each promoted trial resumes from its checkpoint, on any machine of the cluster with free
    resources. It has its own config, and `starting_point()` returns `promoted=True`. Its reports
    continue to count from T. The config in its result also contains `promoted_from`, the id of the
    trial that it continues.

    Args:
        results: The result of the first sweep's `Tuner.fit()`, as for `find_winners`.
        k: The number of winners, at least 1. Fewer are trained if fewer have a finite estimate.
        trainable: The function of the first sweep. It must use `starting_point()` to resume.
        monitor: The reported metric by which trials are ranked.
        mode: "min" if lower is better, "max" if higher is better.
        tune_config: The TuneConfig of the second sweep, for example with `max_concurrent_trials` or
            `reuse_actors`. The configs are those of the winners, so `num_samples` and `search_alg`
            must not be set.
        run_config: The RunConfig of the second sweep, for example with `storage_path`,
            `failure_config` or `callbacks`. You may pass the one of the first sweep.
        restore: The folder of a second sweep to resume after an interruption or failed trials.
            The sweep keeps the `tune_config` and `run_config` with which it started, so pass
            neither.

    Returns:
        One result for each winner, best first.

    Raises:
        TypeError: If `trainable` is not a function, `k` not an integer, or `monitor` not a string.
        ValueError: If `tune_config` sets `num_samples` or `search_alg`, if `tune_config` or
            `run_config` is given with `restore`, or for any reason listed in `find_winners`.

    Examples:
        >>> from lightning_sotl.integrations.ray import promote
        >>> results = tune.Tuner(trainable, param_space=space).fit()  # doctest: +SKIP
        >>> promoted = promote(results, 3, trainable)  # doctest: +SKIP
        >>> promoted[0].config  # doctest: +SKIP
        {'width': 64, 'promoted_from': 'a1b2c_00002'}
    """
    if inspect.isclass(trainable) or not callable(trainable):
        raise TypeError(f"Expected `trainable` to be a function but got {trainable!r}.")
    if restore is not None and (tune_config is not None or run_config is not None):
        raise ValueError(
            "Expected neither `tune_config` nor `run_config` with `restore`, because the sweep "
            "keeps those with which it started."
        )
    tune_config = tune_config or tune.TuneConfig()
    if tune_config.search_alg is not None or tune_config.num_samples != 1:
        raise ValueError("Expected `tune_config` to have neither `num_samples` nor `search_alg`.")
    winners = find_winners(results, k, monitor=monitor, mode=mode)
    checkpoints = {
        r.metrics["trial_id"]: r.checkpoint
        for r in _list_results(results)
        if r.metrics and r.checkpoint
    }
    origins = {w.run_id: (checkpoints[w.run_id], set(w.params)) for w in winners}
    continued = _continue(trainable, origins)
    if restore is not None:
        return tune.Tuner.restore(restore, trainable=continued, resume_errored=True).fit()
    return tune.Tuner(
        continued,
        param_space=_param_space(winners),
        tune_config=tune_config,
        run_config=_without_progress_reporter(run_config),
    ).fit()


def _list_results(results: tune.ResultGrid) -> list[tune.Result]:
    return [results[place] for place in range(len(results))]


def _trial(result: tune.Result, monitor: str) -> tuple[int, Candidate]:
    """Return the number of completed epochs (or blocks) of a trial, and the candidate."""
    metrics = result.metrics or {}
    # "" instead of None, for which `best_of` would report that an EarlyRankingStopper is missing.
    path = f"{result.checkpoint.path}/{CHECKPOINT_NAME}" if result.checkpoint else ""
    config = {key: v for key, v in (result.config or {}).items() if key != PROMOTED_FROM}
    candidate = Candidate(_run_id(result), metrics.get(monitor), config, path)
    return int(metrics.get("training_iteration", 0)), candidate


def _run_id(result: tune.Result) -> str:
    return str((result.metrics or {}).get("trial_id", result.path))


def _is_unfinished(result: tune.Result) -> bool:
    """Return whether a trial paused and did not continue, or the sweep was interrupted."""
    return result.error is None and (result.metrics or {}).get("done") is False


def _continue(
    trainable: Callable[[dict[str, Any]], Any], origins: dict[str, tuple[tune.Checkpoint, set[str]]]
) -> Callable[[dict[str, Any]], Any]:
    """Return a function that calls the trainable, which resumes from its winner's checkpoint."""

    @functools.wraps(trainable)  # also copies its resources
    def promoted_trial(config: dict[str, Any]) -> Any:
        checkpoint, names = origins[config[PROMOTED_FROM]]
        # Ray passes the names of all winners to each trial. Drop those that only others have.
        own = {name: value for name, value in config.items() if name in names}
        return call_promoted(trainable, own, checkpoint)

    return promoted_trial


def _without_progress_reporter(run_config: tune.RunConfig | None) -> tune.RunConfig | None:
    """Return a copy of the config as it was before the first sweep.

    Ray appends its progress reporter to the user's list of callbacks. A second sweep would add
    another but set up only the first, and the other would end the sweep at a trial's first error.
    """
    if run_config is None or not run_config.callbacks:
        return run_config
    own = copy.copy(run_config)
    own.callbacks = [
        cb for cb in run_config.callbacks if not isinstance(cb, session.ProgressReporter)
    ]
    return own


def _param_space(winners: list[Winner]) -> dict[str, Any]:
    """Return a search space of exactly the winners' configs, each with its trial's id."""
    configs = {winner.run_id: winner.params for winner in winners}
    names = dict.fromkeys(name for winner in winners for name in winner.params)

    def value_of(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda config: configs[config[PROMOTED_FROM]].get(name)

    space: dict[str, Any] = {name: tune.sample_from(value_of(name)) for name in names}
    space[PROMOTED_FROM] = tune.grid_search([winner.run_id for winner in winners])
    return space
