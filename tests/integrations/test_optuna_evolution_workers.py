"""Regularized evolution in threads and processes, on any storage, and after a restart."""

import pickle
import subprocess
import sys

import optuna

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler
from tests.support.evolution_studies import (
    GENES,
    evolution_sampler,
    possible_parents,
    run_trials,
    shared_values,
)
from tests.support.optuna_runs import storage


def random_trials(trials, population_size, workers):
    """Check that each child of a parallel study has a parent; return the trials without one.

    A trial has its completion time before other workers can read it. A sampler may therefore miss
    one completed trial of each other worker.
    """
    random = []
    done = sorted(trials, key=lambda trial: trial.datetime_complete)
    for child in trials:
        seen = [t for t in done if t.datetime_complete <= child.datetime_complete and t != child]
        before = [t for t in seen if t.datetime_complete < child.datetime_start]
        old = before[: max(0, len(before) - population_size - (workers - 1))]
        if not possible_parents(child, [t for t in seen if t not in old]):
            assert not any(shared_values(child, other) for other in seen)
            assert len(before) < population_size + (workers - 1)
            random.append(child.number)
    return random


def test_four_threads_share_a_population():
    study = optuna.create_study(sampler=evolution_sampler(5, 2))
    study.optimize(
        lambda trial: float(sum(trial.suggest_int(name, 0, 10**6) for name in GENES)),
        n_trials=60,
        n_jobs=4,
    )
    # The other threads may start up to three more random trials before the fifth is visible.
    assert 5 <= len(random_trials(study.trials, 5, workers=4)) <= 8
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 60


WORKER = """
import sys, optuna
from lightning_sotl.integrations._optuna.evolution import RegularizedEvolutionSampler
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


def test_two_processes_with_one_seed_share_a_population_and_propose_different_trials(tmp_path):
    study = optuna.create_study(storage=storage("journal", tmp_path), study_name="shared")
    command = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path / "study.log")]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    assert len(study.trials) == 60
    assert 5 <= len(random_trials(study.trials, 5, workers=2)) <= 6
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 60


def test_a_seed_gives_the_same_trials_in_any_storage_and_after_a_restart(tmp_path):
    values = [(5 * n) % 17 for n in range(12)]
    searches = {}
    for name in ("memory", "sqlite", "journal", "restart", "pickle", "other seed"):
        kind = name if name in ("sqlite", "journal") else "memory"
        seed = 4 if name == "other seed" else 3
        sampler = evolution_sampler(3, 2, seed)
        study = optuna.create_study(storage=storage(kind, tmp_path), sampler=sampler)
        run_trials(study, values[:7])
        if name == "restart":
            study.sampler = evolution_sampler(3, 2, seed)
        elif name == "pickle":
            study.sampler = pickle.loads(pickle.dumps(study.sampler))  # noqa: S301  # our own
        run_trials(study, values[7:])
        searches[name] = [trial.params for trial in study.trials]
    other = searches.pop("other seed")
    assert all(found == searches["memory"] for found in searches.values())
    assert other != searches["memory"]


def test_without_a_seed_samplers_differ_and_copies_of_a_sampler_agree():
    samplers = [RegularizedEvolutionSampler(), RegularizedEvolutionSampler()]
    samplers.append(pickle.loads(pickle.dumps(samplers[0])))  # noqa: S301  # our own
    samplers[2].reseed_rng()
    first, second, again = (optuna.create_study(sampler=s).ask(GENES).params for s in samplers)
    assert first == again != second
    assert len(set(first.values())) == len(GENES)
