"""Regularised evolution in threads, in processes, on any storage, and after a restart."""

import pickle
import subprocess
import sys

import optuna

from lightning_sotl.integrations.optuna import RegularizedEvolutionSampler
from tests.support.evolution_studies import GENES, evolution, parents, run, shared
from tests.support.optuna_runs import storage


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
