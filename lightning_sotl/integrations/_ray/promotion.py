"""The best trials of a finished sweep go on from their checkpoints, as a second sweep."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experimental.output import ProgressReporter

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import pluralize
from lightning_sotl.integrations._ray.starting_point import CHECKPOINT_NAME, call_promoted
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.stats.ranks import Mode, check_mode
from lightning_sotl.sweep.promotion import Candidate, Winner, best_of

log = logging.getLogger(__name__)

# The config of a promoted trial names the trial it continues; its function does not see it.
PROMOTED_FROM = "promoted_from"


def find_winners(
    results: tune.ResultGrid, k: int, *, monitor: str = "sotl_e1", mode: Mode = "min"
) -> list[Winner]:
    """Return the best `k` trials of a sweep at T, best first; ties go to the older trial.

    T is the number of epochs (or blocks) that the trials have come to. Estimates at different
    T say nothing of each other, so trials that have ended before the longest one do not compete,
    and a line in the log counts them.

    Args:
        results: What `Tuner.fit()` has returned, of trials that had a RayReporter.
        k: How many, at least 1; fewer come back if fewer have a finite estimate, as a diverged
            trial is never promoted.
        monitor: The reported metric that decides.
        mode: "min" if lower is better, as of every estimate of this package.

    Raises:
        TypeError: If `k` is no integer or `monitor` no string.
        ValueError: If `k` is below 1, if `mode` is neither "min" nor "max" or does not fit
            `monitor`, if no trial has a finite estimate, or if one of the best has no checkpoint.
    """
    k = validation.positive_int("k", k)
    check_mode("mode", mode)
    if parse_monitor(validation.text("monitor", monitor)) is not None and mode == "max":
        raise ValueError(
            f"Expected `mode` to be 'min' for {monitor!r}, of which lower is better, but got 'max'."
        )
    # Ray gives them in no fixed order, and counts them in the ids.
    trials = sorted(
        (_trial(result, monitor) for result in _all(results)), key=lambda t: t[1].run_id
    )
    finite = [
        (units, trial)
        for units, trial in trials
        if units and trial.estimate is not None and math.isfinite(trial.estimate)
    ]
    if not finite:
        raise ValueError(
            f"No trial of {len(trials)} has a finite `{monitor}`, so there is none to promote."
        )
    at = max(units for units, _ in finite)
    at_end = [trial for units, trial in finite if units == at]
    if len(at_end) < len(finite):
        log.warning(
            "%s ended before T = %d and cannot be compared.",
            pluralize(len(finite) - len(at_end), "trial"),
            at,
        )
    winners = best_of(at_end, k, mode=mode)
    for winner in winners:
        if not winner.checkpoint_path:
            raise ValueError(
                f"Trial '{winner.run_id}' is among the best {k} and has no checkpoint to "
                "resume from: give it a RayReporter with `checkpoint_every` an integer."
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

    Each resumes from its checkpoint, with its own config and `start.promoted` true, wherever in
    the cluster it finds room, and counts on from T. The config in its result also has
    `promoted_from`, the id of the trial that it continues.

    Args:
        results: As in `find_winners`; so are the others.
        k: How many, at least 1; fewer if fewer have a finite estimate.
        trainable: The function of the sweep. It has to ask `starting_point()` where to begin.
        monitor: The reported metric that decides.
        mode: "min" if lower is better.
        tune_config: For the second sweep: `max_concurrent_trials`, `reuse_actors` and so on. It
            draws nothing, so it can have neither `num_samples` nor `search_alg`.
        run_config: For the second sweep: `storage_path`, `failure_config`, `callbacks` and so on;
            it may be that of the first.
        restore: The folder of a second sweep that was interrupted or has failed trials, to go on
            with; `tune_config` and `run_config` are then those that it was begun with.

    Returns:
        One result for each winner, the best first.

    Raises:
        TypeError: If `trainable` is no function; as `find_winners` does.
        ValueError: If `tune_config` draws configs; as `find_winners` does.
    """
    winners = find_winners(results, k, monitor=monitor, mode=mode)
    if inspect.isclass(trainable) or not callable(trainable):
        raise TypeError(f"Expected `trainable` to be a function but got {trainable!r}.")
    tune_config = tune_config or tune.TuneConfig()
    if tune_config.search_alg is not None or tune_config.num_samples != 1:
        raise ValueError("Expected `tune_config` to have neither `num_samples` nor `search_alg`.")
    checkpoints = {
        r.metrics["trial_id"]: r.checkpoint for r in _all(results) if r.metrics and r.checkpoint
    }
    origins = {w.run_id: (checkpoints[w.run_id], set(w.params)) for w in winners}
    continued = _continue(trainable, origins)
    if restore is not None:
        return tune.Tuner.restore(restore, trainable=continued, resume_errored=True).fit()
    return tune.Tuner(
        continued,
        param_space=_param_space(winners),
        tune_config=tune_config,
        run_config=_without_rays_own_callbacks(run_config),
    ).fit()


def _all(results: tune.ResultGrid) -> list[tune.Result]:
    return [results[place] for place in range(len(results))]


def _trial(result: tune.Result, monitor: str) -> tuple[int, Candidate]:
    """Return how many epochs (or blocks) a trial has completed, and its checkpoint."""
    metrics = result.metrics or {}
    # "" rather than None, of which `best_of` would say that an EarlyRankingStopper is missing.
    path = f"{result.checkpoint.path}/{CHECKPOINT_NAME}" if result.checkpoint else ""
    name = str(metrics.get("trial_id", result.path))
    config = {key: v for key, v in (result.config or {}).items() if key != PROMOTED_FROM}
    candidate = Candidate(name, metrics.get(monitor), config, path)
    return int(metrics.get("training_iteration", 0)), candidate


def _continue(
    trainable: Callable[[dict[str, Any]], Any], origins: dict[str, tuple[tune.Checkpoint, set[str]]]
) -> Callable[[dict[str, Any]], Any]:
    """Return the function of a promoted trial: the same, from the checkpoint of its winner."""

    @functools.wraps(trainable)  # its resources, too
    def promoted_trial(config: dict[str, Any]) -> Any:
        checkpoint, names = origins[config[PROMOTED_FROM]]
        # Ray gives each trial all names; those that only other winners have are not its own.
        own = {name: value for name, value in config.items() if name in names}
        return call_promoted(trainable, own, checkpoint)

    return promoted_trial


def _without_rays_own_callbacks(run_config: tune.RunConfig | None) -> tune.RunConfig | None:
    """Return a copy that is as the user made it before the first sweep.

    Ray appends its progress reporter to the list of callbacks that it is given. A second sweep
    would set up only the first of two reporters, and the other ends it at a trial's first error.
    """
    if run_config is None or not run_config.callbacks:
        return run_config
    own = copy.copy(run_config)
    own.callbacks = [cb for cb in run_config.callbacks if not isinstance(cb, ProgressReporter)]
    return own


def _param_space(winners: list[Winner]) -> dict[str, Any]:
    """Return a space of exactly the winners' configs, each with its trial's id."""
    configs = {winner.run_id: winner.params for winner in winners}
    names = dict.fromkeys(name for winner in winners for name in winner.params)

    def value_of(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda config: configs[config[PROMOTED_FROM]].get(name)

    space: dict[str, Any] = {name: tune.sample_from(value_of(name)) for name in names}
    space[PROMOTED_FROM] = tune.grid_search([winner.run_id for winner in winners])
    return space
