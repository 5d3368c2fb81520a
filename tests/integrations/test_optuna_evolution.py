"""Regularized evolution follows its rules, on search spaces in which a child shows its parent."""

import copy
import math
import re
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import chisquare

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler
from tests.support.evolution_studies import (
    GENES,
    LARGE_TOURNAMENT,
    add_trials,
    evolution_sampler,
    possible_parents,
    run_trials,
    shared_values,
    study_of,
)
from tests.support.optuna_runs import storage


def next_parents(study, seeds, **sizes):
    """Return the parent of the study's next trial for each seed, or None for a random trial."""
    finished, chosen = [trial for trial in study.trials if trial.state.is_finished()], []
    for seed in range(seeds):
        study.sampler = RegularizedEvolutionSampler(seed=seed, **sizes)
        child = study.ask(GENES)
        parents = possible_parents(child, finished)
        assert len(parents) <= 1
        assert parents or not any(shared_values(child, other) for other in finished)
        chosen.append(parents[0] if parents else None)
    return chosen


@pytest.mark.parametrize(
    ("kind", "direction"),
    [
        ("memory", "minimize"),
        ("memory", "maximize"),
        ("sqlite", "minimize"),
        ("journal", "maximize"),
    ],
)
def test_a_child_is_the_best_recent_trial_with_one_value_changed(tmp_path, kind, direction):
    study = optuna.create_study(
        storage=storage(kind, tmp_path), sampler=evolution_sampler(4), direction=direction
    )
    values = [(7 * n) % 23 for n in range(14)]
    trials = run_trials(study, values)
    pick = min if direction == "minimize" else max
    for child in trials[:4]:
        assert not any(shared_values(child, other) for other in trials[: child.number])
    for child in trials[4:]:
        best = pick(range(child.number - 4, child.number), key=values.__getitem__)
        assert best in possible_parents(child, trials[: child.number])


def test_a_trial_that_has_left_the_population_is_never_a_parent():
    trials = run_trials(optuna.create_study(sampler=evolution_sampler(3)), range(9))
    # Each trial is worse than the one before, so the best of the last three is the oldest of them.
    # An earlier ancestor is a possible parent too if the same gene was changed twice.
    for child in trials[3:]:
        assert possible_parents(child, trials[: child.number])[-1] == child.number - 3


def test_the_parent_is_the_best_of_trials_drawn_with_replacement():
    study = study_of(0.0, 1.0, 2.0, 3.0)
    counts = Counter(next_parents(study, 400, population_size=4, tournament_size=2))
    chances = [((4 - k) ** 2 - (3 - k) ** 2) / 16 for k in range(4)]
    assert set(counts) == {0, 1, 2, 3}
    expected = [400 * chance for chance in chances]
    assert chisquare([counts[k] for k in range(4)], expected).pvalue > 0.001


def test_diverged_trials_are_in_the_population_and_never_parents():
    inf = math.inf
    for outcomes, parent in [
        ([inf, -inf], None),
        ([inf, -inf, 5.0], 2),
        ([4.0, inf, -inf, 5.0, inf], 3),
        ([5.0, inf, inf, inf], None),
    ]:
        sizes = {"population_size": min(3, len(outcomes)), "tournament_size": LARGE_TOURNAMENT}
        assert set(next_parents(study_of(*outcomes), 20, **sizes)) == {parent}
    # With one draw, the next trial is random if a diverged trial was drawn.
    found = Counter(
        next_parents(study_of(inf, 5.0, inf), 300, population_size=3, tournament_size=1)
    )
    assert set(found) == {1, None}
    assert chisquare([found[1], found[None]], [100, 200]).pvalue > 0.001


def test_pruned_trials_count_toward_the_random_start_and_are_never_parents():
    pruned, failed, running = TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
    waiting = TrialState.WAITING
    for outcomes, parent in [
        ([5.0, pruned, failed, running, waiting], None),
        ([5.0, pruned, failed, running, pruned], 0),
        ([5.0, pruned, pruned, pruned, pruned], 0),  # they do not displace it
        ([pruned, pruned, pruned], None),
    ]:
        sizes = {"population_size": 3, "tournament_size": 1}
        # `ask` returns the waiting trial first, which is only one.
        study = study_of(*outcomes)
        assert set(next_parents(study, 1 if waiting in outcomes else 10, **sizes)) == {parent}


def test_the_population_is_ordered_by_completion_and_may_come_from_another_sampler():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    running = [study.ask(GENES) for _ in range(4)]
    for number in (3, 0, 2, 1):
        study.tell(running[number], float(number))
    study.sampler = evolution_sampler(2)
    assert possible_parents(study.ask(GENES), study.trials[:4]) == [1]
    assert set(next_parents(study, 30, population_size=2, tournament_size=1)) == {1, 2}


@pytest.mark.parametrize("same", [True, False])
def test_a_trial_that_finishes_during_sampling_does_not_mix_two_parents(same):
    study = study_of(1.0, TrialState.RUNNING)
    sampler, trial = evolution_sampler(1), study.trials[1]
    space = sampler.infer_relative_search_space(study, trial)
    add_trials(study, 0.0)
    # A sampler that passes a copy of the trial gets all values from the newer parent.
    values = sampler.sample_relative(study, trial if same else copy.copy(trial), space)
    assert list(values.values()).count(0 if same else 2) == 5


def test_each_bracket_of_hyperband_has_a_separate_population():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = optuna.create_study(sampler=evolution_sampler(2), pruner=pruner, study_name="brackets")
    trials = run_trials(study, range(30))
    bracket = [pruner._get_bracket_id(study, trial) for trial in trials]
    for child in trials:
        peers = [t for t in trials[: child.number] if bracket[t.number] == bracket[child.number]]
        if len(peers) < 2:
            assert not any(shared_values(child, other) for other in trials[: child.number])
        else:
            assert possible_parents(child, peers[-2:])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"population_size": 0},
            ValueError,
            "Expected `population_size` to be a positive integer but got 0.",
        ),
        (
            {"tournament_size": 2.0},
            TypeError,
            "Expected `tournament_size` to be a positive integer but got 2.0.",
        ),
        (
            {"seed": -1},
            ValueError,
            "Expected `seed` to be a non-negative integer or None but got -1.",
        ),
        (
            {"seed": True},
            TypeError,
            "Expected `seed` to be a non-negative integer or None but got True.",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        RegularizedEvolutionSampler(**arguments)


def test_several_objectives_are_refused():
    study = optuna.create_study(directions=["minimize"] * 2, sampler=RegularizedEvolutionSampler())
    message = (
        "Expected a study with one objective but got 2: a tournament needs one value. "
        "For several objectives, use Optuna's NSGAIISampler."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        study.ask(GENES)
    (trial,) = study.trials
    gene = optuna.distributions.CategoricalDistribution(["conv", "pool"])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        study.sampler.sample_independent(study, trial, "gene", gene)
