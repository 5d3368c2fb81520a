"""Regularised evolution against its rules, on spaces in which a child betrays its parent."""

import copy
import math
import re
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import chisquare

from lightning_sotl.integrations import optuna as for_pytorch_lightning
from lightning_sotl.integrations import optuna_lightning
from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler
from tests.support.evolution_studies import (
    GENES,
    SURE,
    add,
    evolution,
    parents,
    run,
    shared,
    study_of,
)
from tests.support.optuna_runs import storage


def next_parents(study, seeds, **sizes):
    """Return the one parent of the study's next trial for each seed, None for a random trial."""
    before, found = [trial for trial in study.trials if trial.state.is_finished()], []
    for seed in range(seeds):
        study.sampler = RegularizedEvolutionSampler(seed=seed, **sizes)
        child = study.ask(GENES)
        of = parents(child, before)
        assert len(of) <= 1
        assert of or not any(shared(child, other) for other in before)
        found.append(of[0] if of else None)
    return found


@pytest.mark.parametrize(
    ("kind", "direction"),
    [
        ("memory", "minimize"),
        ("memory", "maximize"),
        ("sqlite", "minimize"),
        ("journal", "maximize"),
    ],
)
def test_a_child_is_the_best_of_the_last_trials_with_one_choice_changed(tmp_path, kind, direction):
    study = optuna.create_study(
        storage=storage(kind, tmp_path), sampler=evolution(4), direction=direction
    )
    values = [(7 * n) % 23 for n in range(14)]
    trials = run(study, values)
    pick = min if direction == "minimize" else max
    for child in trials[:4]:
        assert not any(shared(child, other) for other in trials[: child.number])
    for child in trials[4:]:
        best = pick(range(child.number - 4, child.number), key=values.__getitem__)
        assert best in parents(child, trials[: child.number])


def test_the_best_trial_is_no_parent_once_it_is_too_old():
    trials = run(optuna.create_study(sampler=evolution(3)), range(9))  # each is worse than before
    # All three of the start have children, and of each family the newest is the best in turn.
    for child in trials[3:]:
        assert parents(child, trials[: child.number])[-1] == child.number - 3


def test_the_winner_is_the_best_of_so_many_drawn_with_replacement():
    study = study_of(0.0, 1.0, 2.0, 3.0)
    counts = Counter(next_parents(study, 400, population_size=4, tournament_size=2))
    chances = [((4 - k) ** 2 - (3 - k) ** 2) / 16 for k in range(4)]
    assert set(counts) == {0, 1, 2, 3}
    expected = [400 * chance for chance in chances]
    assert chisquare([counts[k] for k in range(4)], expected).pvalue > 0.001


def test_diverged_trials_take_their_places_and_never_win():
    inf = math.inf
    for outcomes, parent in [
        ([inf, -inf], None),
        ([inf, -inf, 5.0], 2),
        ([4.0, inf, -inf, 5.0, inf], 3),
        ([5.0, inf, inf, inf], None),
    ]:
        sizes = {"population_size": min(3, len(outcomes)), "tournament_size": SURE}
        assert set(next_parents(study_of(*outcomes), 20, **sizes)) == {parent}
    # With one draw of three, the trial is random where a diverged one was drawn.
    found = Counter(
        next_parents(study_of(inf, 5.0, inf), 300, population_size=3, tournament_size=1)
    )
    assert set(found) == {1, None}
    assert chisquare([found[1], found[None]], [100, 200]).pvalue > 0.001


def test_pruned_trials_count_for_the_start_and_are_no_parents():
    pruned, failed, running = TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
    waiting = TrialState.WAITING
    for outcomes, parent in [
        ([5.0, pruned, failed, running, waiting], None),
        ([5.0, pruned, failed, running, pruned], 0),
        ([5.0, pruned, pruned, pruned, pruned], 0),  # which have not taken its place
        ([pruned, pruned, pruned], None),
    ]:
        sizes = {"population_size": 3, "tournament_size": 1}
        # The next trial is the one that waits, if there is one.
        study = study_of(*outcomes)
        assert set(next_parents(study, 1 if waiting in outcomes else 10, **sizes)) == {parent}


def test_age_goes_by_completion_and_a_study_of_another_sampler_goes_on():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    waiting = [study.ask(GENES) for _ in range(4)]
    for number in (3, 0, 2, 1):
        study.tell(waiting[number], float(number))
    study.sampler = evolution(2)
    assert parents(study.ask(GENES), study.trials[:4]) == [1]
    assert set(next_parents(study, 30, population_size=2, tournament_size=1)) == {1, 2}


@pytest.mark.parametrize("same", [True, False])
def test_a_trial_finished_in_between_makes_no_mixture_of_two_parents(same):
    study = study_of(1.0, TrialState.RUNNING)
    sampler, trial = evolution(1), study.trials[1]
    space = sampler.infer_relative_search_space(study, trial)
    add(study, 0.0)
    # A wrapper that hands on a copy of the trial gets the newer parent, as a whole.
    values = sampler.sample_relative(study, trial if same else copy.copy(trial), space)
    assert list(values.values()).count(0 if same else 2) == 5


def test_brackets_of_hyperband_have_populations_of_their_own():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = optuna.create_study(sampler=evolution(2), pruner=pruner, study_name="brackets")
    trials = run(study, range(30))
    bracket = [pruner._get_bracket_id(study, trial) for trial in trials]
    for child in trials:
        peers = [t for t in trials[: child.number] if bracket[t.number] == bracket[child.number]]
        if len(peers) < 2:
            assert not any(shared(child, other) for other in trials[: child.number])
        else:
            assert parents(child, peers[-2:])


def test_both_doors_have_it():
    for door in (for_pytorch_lightning, optuna_lightning):
        assert door.RegularizedEvolutionSampler is RegularizedEvolutionSampler
        assert "RegularizedEvolutionSampler" in door.__all__


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
