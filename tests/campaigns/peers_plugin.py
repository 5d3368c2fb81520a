"""The pytest plugin of `peers.py`: records the outcomes of tests, and puts our parts into them.

`peers.py` copies it next to `options.json`, since another project may also have a package `tests`.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

FOLDER = Path(__file__).parent
OPTIONS = json.loads((FOLDER / "options.json").read_text())

outcomes: dict[str, tuple[str, str]] = {}  # test -> outcome, reason
counts: Counter[str] = Counter()


def pytest_configure() -> None:
    """Put our parts into the tests of this process."""
    if OPTIONS["parts"] == "lightning":
        watch_callbacks()
    elif OPTIONS["parts"] == "optuna":
        enter_studies()


def watch_callbacks() -> None:
    """Count the Trainers with our callbacks, which `LIGHTNING_SOTL` adds, and their fits."""
    from lightning_sotl.callbacks.monitor import SoTLMonitor

    setup, end_epoch = SoTLMonitor.setup, SoTLMonitor.on_train_epoch_end
    trainers, begun = WeakSet[Any](), WeakSet[Any]()

    @functools.wraps(setup)
    def count_trainer(self: Any, trainer: Any, pl_module: Any, stage: str) -> None:
        setup(self, trainer, pl_module, stage)
        if self.gives_way:
            return
        counts["Trainers with our callbacks"] += trainer not in trainers
        trainers.add(trainer)
        if stage == "fit":
            begun.add(self)

    @functools.wraps(end_epoch)
    def count_fit(self: Any, trainer: Any, pl_module: Any) -> None:
        end_epoch(self, trainer, pl_module)
        if self in begun and self.units_completed:
            begun.discard(self)
            counts["their fits of at least one epoch"] += 1

    SoTLMonitor.setup, SoTLMonitor.on_train_epoch_end = count_trainer, count_fit


def enter_studies() -> None:
    """Give our sampler to studies without one, and ask our pruner after each study's own."""
    import optuna

    from lightning_sotl import AdaptivePolicy
    from lightning_sotl.integrations.optuna import AdaptivePruner, RegularizedEvolutionSampler

    begin, should_prune = optuna.Study.__init__, optuna.Trial.should_prune
    mutate = RegularizedEvolutionSampler.sample_relative
    pruner = AdaptivePruner(AdaptivePolicy(max_epochs=1000))

    @functools.wraps(begin)
    def give_sampler(
        self: Any, study_name: str, storage: Any, sampler: Any = None, pruner: Any = None
    ) -> None:
        begin(self, study_name, storage, sampler, pruner)
        if sampler is None and len(self.directions) == 1:
            # Small, so that trials are mutated even in short studies.
            self.sampler = RegularizedEvolutionSampler(population_size=2, tournament_size=2)
            counts["studies with our sampler"] += 1

    @functools.wraps(mutate)
    def count_mutation(self: Any, study: Any, trial: Any, search_space: Any) -> Any:
        values = mutate(self, study, trial, search_space)
        counts["trials mutated by our sampler"] += bool(values)
        return values

    @functools.wraps(should_prune)
    def ask_both(self: Any) -> bool:
        decision = should_prune(self)
        pruner.prune(self.study, self.storage.get_trial(self._trial_id))
        counts["decisions of our pruner"] += 1
        return decision

    optuna.Study.__init__, optuna.Trial.should_prune = give_sampler, ask_both
    RegularizedEvolutionSampler.sample_relative = count_mutation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep only the tests that are to be repeated."""
    if OPTIONS["only"] is not None:
        items[:] = [item for item in items if item.nodeid in OPTIONS["only"]]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a file that cannot be collected."""
    if report.failed:
        outcomes[report.nodeid] = "error", reason_of(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a test, or of its set-up or tear-down if that did not pass."""
    expected = hasattr(report, "wasxfail")
    if report.failed:
        outcome = "failed" if report.when == "call" else "error"
        outcomes[report.nodeid] = outcome, reason_of(report)
    elif report.skipped:
        outcomes[report.nodeid] = "xfailed" if expected else "skipped", reason_of(report)
    elif report.when == "call":
        outcomes[report.nodeid] = "xpassed" if expected else "passed", ""


def reason_of(report: Any) -> str:
    """Return the type and the first line of an exception, or the last line of another report."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr).strip().splitlines()[-1]
    line = str(crash.message).splitlines()[0]
    return f"AssertionError: {line}" if line.startswith("assert ") else line


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts of this process, and the outcomes if it is not a worker of pytest-xdist."""
    (FOLDER / f"counts-{os.getpid()}.json").write_text(json.dumps(counts))
    if not hasattr(session.config, "workerinput"):
        (FOLDER / "outcomes.json").write_text(json.dumps(outcomes))
