"""Regularised evolution against its rules, on spaces in which a child betrays its parent."""

import copy
import math
import pickle
import re
import subprocess
import sys
from collections import Counter

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.stats import chisquare, kstest

from lightning_sotl.integrations import optuna as for_pytorch_lightning
from lightning_sotl.integrations import optuna_lightning
from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler

SURE = 500  # a tournament so large that the best of a small population is drawn in any case
# Six genes of a million values: two trials that share one are parent and child.
GENES = {f"gene_{i}": IntDistribution(0, 10**6) for i in range(6)}
EDGES = {f"edge_{i}": CategoricalDistribution(list("abcde")) for i in range(6)}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def storage(kind, folder):
    if kind == "memory":
        return optuna.storages.InMemoryStorage()
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/study.log")
    return optuna.storages.JournalStorage(backend)


def evolution(population_size, tournament_size=SURE, seed=0):
    return RegularizedEvolutionSampler(
        population_size=population_size, tournament_size=tournament_size, seed=seed
    )


def run(study, values, space=GENES):
    """Ask and tell one trial after the other, and return the trials."""
    for value in values:
        study.tell(study.ask(space), value)
    return study.trials


def genes(number):
    """Return six genes that no other number has."""
    return dict.fromkeys(GENES, number)


def add(study, *outcomes):
    """Add finished or unfinished trials, each given by its value or its state."""
    for outcome in outcomes:
        number = len(study.trials)
        done = {"state": outcome} if isinstance(outcome, TrialState) else {"value": outcome}
        study.add_trial(optuna.create_trial(params=genes(number), distributions=GENES, **done))


def study_of(*outcomes):
    study = optuna.create_study()
    add(study, *outcomes)
    return study


def shared(child, parent):
    return sum(child.params[name] == value for name, value in parent.params.items())


def parents(child, candidates):
    """Return the numbers of the candidates that the child has all genes but one from."""
    return [other.number for other in candidates if shared(child, other) == len(GENES) - 1]


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


def test_each_parameter_and_each_other_value_is_as_likely():
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(params=dict.fromkeys(EDGES, "c"), distributions=EDGES, value=1.0)
    )
    counts = Counter()
    for seed in range(1200):
        study.sampler = evolution(1, seed=seed)
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
        # Whose logarithms are one float.
        (IntDistribution(10**15, 10**15 + 1, log=True), 10**15, {10**15 + 1}),
        (FloatDistribution(0.5, 1.5, step=0.25), 1.0, {0.5, 0.75, 1.25, 1.5}),
        (CategoricalDistribution([None, "a", True, 1]), None, {"a", True}),
        (CategoricalDistribution(["a", NAN]), NAN, {"a"}),
    ],
    ids=str,
)
def test_a_discrete_value_changes_to_any_other(distribution, value, others):
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(params={"x": value}, distributions={"x": distribution}, value=1.0)
    )
    found = set()
    for seed in range(60):
        study.sampler = evolution(1, seed=seed)
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
        study.sampler = evolution(1, seed=seed)
        found.append(study.ask(space).params["x"])
    shares = [1 + math.log10(x) / 4 for x in found] if log else found
    assert kstest(shares, "uniform").pvalue > 0.001


def test_a_parameter_without_another_value_is_never_chosen():
    space = {
        "alone": CategoricalDistribution(["relu"]),
        "twins": CategoricalDistribution(["relu", "relu"]),
        "fixed": IntDistribution(3, 3),
        "free": IntDistribution(0, 10**6),
    }
    trials = run(optuna.create_study(sampler=evolution(1)), range(20), space)
    values = [trial.params.pop("free") for trial in trials]
    assert all(new != old for new, old in zip(values[1:], values, strict=False))
    del space["free"]
    study = optuna.create_study(sampler=evolution(1))
    assert run(study, range(3), space)[2].params == trials[0].params


def test_a_conditional_space_has_one_changed_choice_and_what_it_brings_is_random():
    wide = 10**6

    def objective(trial):
        kind = trial.suggest_categorical("kind", ["conv", "mlp", "none"])
        if kind != "none":
            trial.suggest_int(f"{kind}_width", 0, wide)
            trial.suggest_int(f"{kind}_depth", 0, wide)
        trial.suggest_int("epochs", 0, wide)
        return trial.number

    study = optuna.create_study(sampler=evolution(1))  # so the parent is the trial before
    study.optimize(objective, n_trials=60)
    changes = Counter()
    for parent, child in zip(study.trials, study.trials[1:], strict=False):
        both = child.params.keys() & parent.params.keys()
        (changed,) = [name for name in both if child.params[name] != parent.params[name]]
        changes[changed] += 1
        new = child.params.keys() - parent.params.keys()
        assert not new or changed == "kind"
    assert len(changes) == 6


def test_a_value_outside_of_a_range_that_depends_on_another_is_drawn_anew():
    study = optuna.create_study(sampler=evolution(1))

    def objective(trial):
        layers = trial.suggest_int("layers", 1, 50)
        trial.suggest_int("skip", 1, layers)
        return 0.0

    study.optimize(objective, n_trials=40)
    for parent, child in zip(study.trials, study.trials[1:], strict=False):
        if child.params["layers"] >= parent.params["skip"]:
            assert (child.params["layers"] == parent.params["layers"]) != (
                child.params["skip"] == parent.params["skip"]
            )


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


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_fixed_parameters_stay_and_another_choice_is_changed():
    study = study_of(1.0)
    for seed in range(20):
        study.sampler = evolution(1, seed=seed)
        study.enqueue_trial({"gene_1": 77})
        child = study.ask(GENES)
        assert child.params["gene_1"] == 77
        assert shared(child, study.trials[0]) == 4
        study.sampler = optuna.samplers.PartialFixedSampler({"gene_1": 77}, evolution(1, seed=seed))
        child = study.ask(GENES)
        assert child.params["gene_1"] == 77
        assert shared(child, study.trials[0]) == 4


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


def admissible(trials, population_size, workers):
    """Check each child of a parallel study, and return the trials that were drawn at random.

    A completion has its time before others can read it, so each other worker may hide one.
    """
    random = []
    done = sorted(trials, key=lambda trial: trial.datetime_complete)
    for child in trials:
        seen = [t for t in done if t.datetime_complete <= child.datetime_complete and t != child]
        before = [t for t in seen if t.datetime_complete < child.datetime_start]
        old = before[: max(0, len(before) - population_size - (workers - 1))]
        if not parents(child, [t for t in seen if t not in old]):
            assert not any(shared(child, other) for other in seen)
            assert len(before) < population_size + (workers - 1)
            random.append(child.number)
    return random


def test_four_threads_share_one_population():
    study = optuna.create_study(sampler=evolution(5, 2))
    study.optimize(
        lambda trial: float(sum(trial.suggest_int(name, 0, 10**6) for name in GENES)),
        n_trials=60,
        n_jobs=4,
    )
    assert (
        5 <= len(admissible(study.trials, 5, workers=4)) <= 8
    )  # up to three more are on their way
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 60


WORKER = """
import sys, optuna
from lightning_sotl.integrations.optuna_evolution import RegularizedEvolutionSampler
assert not {"torch", "lightning", "pytorch_lightning"} & set(sys.modules)
optuna.logging.set_verbosity(optuna.logging.WARNING)
backend = optuna.storages.journal.JournalFileBackend(sys.argv[1])
study = optuna.load_study(
    study_name="shared",
    storage=optuna.storages.JournalStorage(backend),
    sampler=RegularizedEvolutionSampler(population_size=5, tournament_size=2, seed=0),
)
study.optimize(
    lambda trial: float(sum(trial.suggest_int(f"gene_{i}", 0, 10**6) for i in range(6))),
    n_trials=30,
)
"""


def test_two_processes_with_one_seed_share_one_population_and_repeat_nothing(tmp_path):
    study = optuna.create_study(storage=storage("journal", tmp_path), study_name="shared")
    command = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path / "study.log")]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    assert len(study.trials) == 60
    assert 5 <= len(admissible(study.trials, 5, workers=2)) <= 6
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 60


def test_one_seed_gives_the_same_trials_in_any_storage_also_after_a_restart(tmp_path):
    values = [(5 * n) % 17 for n in range(12)]
    searches = {}
    for name in ("memory", "sqlite", "journal", "restart", "pickle", "other seed"):
        kind = name if name in ("sqlite", "journal") else "memory"
        seed = 4 if name == "other seed" else 3
        study = optuna.create_study(storage=storage(kind, tmp_path), sampler=evolution(3, 2, seed))
        run(study, values[:7])
        if name == "restart":
            study.sampler = evolution(3, 2, seed)
        elif name == "pickle":
            study.sampler = pickle.loads(pickle.dumps(study.sampler))  # noqa: S301  # our own
        run(study, values[7:])
        searches[name] = [trial.params for trial in study.trials]
    other = searches.pop("other seed")
    assert all(found == searches["memory"] for found in searches.values())
    assert other != searches["memory"]


def test_without_a_seed_each_sampler_searches_otherwise_and_its_copies_alike():
    samplers = [RegularizedEvolutionSampler(), RegularizedEvolutionSampler()]
    samplers.append(pickle.loads(pickle.dumps(samplers[0])))  # noqa: S301  # our own
    samplers[2].reseed_rng()
    first, second, again = (optuna.create_study(sampler=s).ask(GENES).params for s in samplers)
    assert first == again != second
    assert len(set(first.values())) == len(GENES)


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
        "Use Optuna's NSGAIISampler for several."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        study.ask(GENES)
