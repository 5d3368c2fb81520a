"""The parameter that regularized evolution changes in a parent, and how its new value is drawn."""

import math
from collections import Counter

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import chisquare, kstest

from tests.support.evolution_studies import (
    EDGES,
    GENES,
    evolution_sampler,
    run_trials,
    shared_values,
    study_of,
)


def test_each_parameter_and_each_other_value_is_equally_likely():
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(params=dict.fromkeys(EDGES, "c"), distributions=EDGES, value=1.0)
    )
    counts = Counter()
    for seed in range(1200):
        study.sampler = evolution_sampler(1, seed=seed)
        (change,) = {(k, v) for k, v in study.ask(EDGES).params.items() if v != "c"}
        counts[change] += 1
    assert len(counts) == 6 * 4
    assert chisquare(list(counts.values())).pvalue > 0.001


NAN = float("nan")


@pytest.mark.parametrize(
    ("distribution", "value", "others"),
    [
        (IntDistribution(1, 4), 2, {1, 3, 4}),
        (IntDistribution(2, 11, step=3), 11, {2, 5, 8}),
        (IntDistribution(1, 4, log=True), 1, {2, 3, 4}),
        # The logarithms of both values are the same float.
        (IntDistribution(10**15, 10**15 + 1, log=True), 10**15, {10**15 + 1}),
        (FloatDistribution(0.5, 1.5, step=0.25), 1.0, {0.5, 0.75, 1.25, 1.5}),
        (CategoricalDistribution([None, "a", True, 1]), None, {"a", True}),
        (CategoricalDistribution(["a", NAN]), NAN, {"a"}),
    ],
    # The order of a set of strings differs between processes, and xdist compares test names.
    ids=lambda value: None if isinstance(value, set) else str(value),
)
def test_a_discrete_value_changes_to_any_other_value(distribution, value, others):
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(params={"x": value}, distributions={"x": distribution}, value=1.0)
    )
    found = set()
    for seed in range(60):
        study.sampler = evolution_sampler(1, seed=seed)
        found.add(study.ask({"x": distribution}).params["x"])
    assert found == others


@pytest.mark.parametrize("start", [True, False], ids=["start", "mutation"])
@pytest.mark.parametrize("log", [False, True])
def test_a_float_is_drawn_uniformly_from_its_range(log, start):
    space = {"x": FloatDistribution(1e-4, 1.0, log=log)}
    study = optuna.create_study()
    if not start:
        study.add_trial(optuna.create_trial(params={"x": 0.1}, distributions=space, value=1.0))
    found = []
    for seed in range(300):
        study.sampler = evolution_sampler(1, seed=seed)
        found.append(study.ask(space).params["x"])
    shares = [1 + math.log10(x) / 4 for x in found] if log else found
    assert kstest(shares, "uniform").pvalue > 0.001


def test_a_parameter_with_a_single_value_is_never_changed():
    space = {
        "alone": CategoricalDistribution(["relu"]),
        "twins": CategoricalDistribution(["relu", "relu"]),
        "fixed": IntDistribution(3, 3),
        "free": IntDistribution(0, 10**6),
    }
    trials = run_trials(optuna.create_study(sampler=evolution_sampler(1)), range(20), space)
    values = [trial.params.pop("free") for trial in trials]
    assert all(new != old for new, old in zip(values[1:], values, strict=False))
    del space["free"]
    study = optuna.create_study(sampler=evolution_sampler(1))
    assert run_trials(study, range(3), space)[2].params == trials[0].params


def test_in_a_conditional_space_new_parameters_appear_only_with_a_changed_condition():
    wide = 10**6

    def objective(trial):
        kind = trial.suggest_categorical("kind", ["conv", "mlp", "none"])
        if kind != "none":
            trial.suggest_int(f"{kind}_width", 0, wide)
            trial.suggest_int(f"{kind}_depth", 0, wide)
        trial.suggest_int("epochs", 0, wide)
        return trial.number

    study = optuna.create_study(sampler=evolution_sampler(1))  # the parent is the previous trial
    study.optimize(objective, n_trials=60)
    changes = Counter()
    for parent, child in zip(study.trials, study.trials[1:], strict=False):
        both = child.params.keys() & parent.params.keys()
        (changed,) = [name for name in both if child.params[name] != parent.params[name]]
        changes[changed] += 1
        new = child.params.keys() - parent.params.keys()
        assert not new or changed == "kind"
    assert len(changes) == 6


def test_a_value_outside_a_range_that_changed_is_drawn_again():
    study = optuna.create_study(sampler=evolution_sampler(1))

    def objective(trial):
        layers = trial.suggest_int("layers", 1, 50)
        trial.suggest_int("skip", 1, layers)
        return 0.0

    study.optimize(objective, n_trials=40)
    drawn_again = 0
    for parent, child in zip(study.trials, study.trials[1:], strict=False):
        if child.params["layers"] < parent.params["skip"]:
            drawn_again += 1
        else:
            assert (child.params["layers"] == parent.params["layers"]) != (
                child.params["skip"] == parent.params["skip"]
            )
    assert drawn_again > 0


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_fixed_parameters_keep_their_values_and_another_parameter_changes():
    study = study_of(1.0)
    for seed in range(20):
        study.sampler = evolution_sampler(1, seed=seed)
        study.enqueue_trial({"gene_1": 77})
        child = study.ask(GENES)
        assert child.params["gene_1"] == 77
        assert shared_values(child, study.trials[0]) == 4
        fixed = {"gene_1": 77}
        study.sampler = optuna.samplers.PartialFixedSampler(fixed, study.sampler)
        child = study.ask(GENES)
        assert child.params["gene_1"] == 77
        assert shared_values(child, study.trials[0]) == 4
